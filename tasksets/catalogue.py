"""The data sets that tasks name, and what each is called in tensorflow-datasets.

    builder("food101_32x32") = "food101"
    builder("tokenized_amazon_reviews/Books_v1_02_bytes") = "amazon_us_reviews/Books_v1_02"

The names are those of TaskSet (Metz et al. 2020, arXiv 2002.11887). Any other set of
tensorflow-datasets goes by the name that it has there; images of another size, or of
none in particular, by that name and the size: `oxford_flowers102_32x32`.
"""

import re
from dataclasses import dataclass
from typing import Literal, get_args

Encoding = Literal["bytes", "subwords8k"]
ENCODINGS: tuple[Encoding, ...] = get_args(Encoding)

# The image sets, with what draws or names them. The image families are those that
# inherit from `sampling.ImageConfig`; they draw one of ten sets.
_FAMILIES = "image families"
IMAGES = {
    "mnist": f"{_FAMILIES}, fixed tasks",
    "fashion_mnist": _FAMILIES,
    "cifar10": f"{_FAMILIES}, fixed tasks",
    "cifar100": f"{_FAMILIES}, fixed tasks",
    "food101_32x32": f"{_FAMILIES}, fixed tasks",
    "food101_64x64": "fixed tasks",
    "coil100_32x32": f"{_FAMILIES}, fixed tasks",
    "deep_weeds_32x32": _FAMILIES,
    "colorectal_histology_32x32": "fixed tasks",
    "sun397_32x32": f"{_FAMILIES}, fixed tasks",
    "imagenet_resized/32x32": _FAMILIES,
    "imagenet_resized/16x16": _FAMILIES,
}

_WIKIPEDIA = [f"20190301.{language}" for language in ("zh", "ru", "ja", "hsb", "en")]
_AMAZON = ["Books_v1_02", "Camera_v1_00", "Home_v1_00", "Video_v1_00"]
_LANGUAGE_MODELS = "language models"
_LABELLED = "language models, text classification"

# The corpora, likewise. Characters are modelled in bytes; all else is in subwords.
CORPORA = {
    "lm1b": f"{_LANGUAGE_MODELS}, fixed tasks",
    "imdb_reviews": f"{_LABELLED}, fixed tasks",
    **{f"tokenized_wikipedia/{dump}": _LANGUAGE_MODELS for dump in _WIKIPEDIA},
    **{f"tokenized_amazon_reviews/{product}": _LABELLED for product in _AMAZON},
    "tiny_shakespeare": "",
    "python_docs": "",
}

# Ships with Python.
BUNDLED_TEXT = "python_docs"

# Examples that the sampled families put into each split carved from training examples.
_NUM_PER_VALID = {
    "coil100_32x32": 800,
    "deep_weeds_32x32": 2000,
    "colorectal_histology_32x32": 700,
}

# Of the configs that a set has in tensorflow-datasets, the one that tasks are made from.
_CONFIGS = {"sun397": "tfds", "imdb_reviews": "plain_text"}

_RESIZED = re.compile(r"(?P<parent>[^/]+(/[^/]+)?)_(?P<height>\d+)x(?P<width>\d+)")


@dataclass(frozen=True)
class TextName:
    """The parts of a name such as "lm1b/subwords8k"."""

    corpus: str
    encoding: Encoding

    def __str__(self) -> str:
        joint = "_" if self.corpus.startswith("tokenized_") else "/"
        return f"{self.corpus}{joint}{self.encoding}"


def read_text_name(name: str) -> TextName:
    """Takes the name of a corpus with its encoding apart; bytes where none is given."""
    for encoding in ENCODINGS:
        for joint in "/_":
            if name.endswith(joint + encoding):
                return TextName(name.removesuffix(joint + encoding), encoding)
    return TextName(name, "bytes")


def full_name(name: str) -> str:
    """The name itself; of text, with its encoding, in one way of several."""
    return str(read_text_name(name)) if is_text(name) else name


def texts() -> list[str]:
    """The names of the corpora in each encoding."""
    return [str(TextName(corpus, e)) for corpus in CORPORA for e in ENCODINGS]


def is_text(name: str) -> bool:
    """Whether a name can only be that of text: it says an encoding, or is listed."""
    corpus = read_text_name(name).corpus
    return corpus != name or corpus in CORPORA


def size(name: str) -> tuple[int, int] | None:
    """(height, width) that the images of `name` are resized to; None: as they come."""
    match = _RESIZED.fullmatch(name)
    return (int(match["height"]), int(match["width"])) if match else None


def builder(name: str) -> str:
    """What the set is called in tensorflow-datasets, a name of images or of text."""
    corpus = read_text_name(name).corpus
    corpus = corpus.replace("tokenized_wikipedia/", "wikipedia/")
    corpus = corpus.replace("tokenized_amazon_reviews/", "amazon_us_reviews/")
    match = _RESIZED.fullmatch(corpus)
    parent = match["parent"] if match else corpus
    return f"{parent}/{_CONFIGS[parent]}" if parent in _CONFIGS else parent


def num_per_valid(name: str) -> int:
    """What the sampled image families hold out for each validation split."""
    return _NUM_PER_VALID.get(name, 5000)
