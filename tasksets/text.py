"""Serving text: random pieces of documents, for language models and classifiers.

    start ~ U{0, ..., max(length - patch_length, 0)}
    tokens = document[start : start + patch_length],    0 beyond its end

All documents of a corpus are one flat array of tokens on the device; a split says
where its documents start, how long they are, and their labels. `Texts` is the
structure, `TextNumbers` the numbers, as in `images.py`.

Names are those of TaskSet (Metz et al. 2020, arXiv 2002.11887), such as "lm1b/bytes"
and "imdb_reviews/subwords8k"; see `corpora.py` for all of them. A name without an
encoding means bytes.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt

from tasksets import corpora
from tasksets.catalogue import Encoding, TextName, read_text_name
from tasksets.corpora import Tokens
from tasksets.data import Part, carve, draw_indices
from tasksets.prepared import Prepared
from tasksets.recent import recent
from tasksets.task import Problem, SplitName

DrawnTexts = tuple[Int[Array, "batch"], Float[Array, "batch"]]

# Documents in a validation split carved from the training text, unless a config says.
NUM_PER_VALID = 3000


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A corpus and how it is served: the fields of every text family."""

    dataset: str  # corpus and encoding, "lm1b/bytes"
    patch_length: int  # tokens in a served piece
    batch_size: int
    num_train: int | None  # documents; None: all there are
    just_train: bool  # all four splits are the training documents
    num_per_valid: int | None = None  # documents; None: as TaskSet, see `load_text`


@dataclass(frozen=True)
class TextInfo:
    """What is static about a corpus in an encoding; token 0 is padding."""

    name: str
    encoding: Encoding
    vocab_size: int  # with the padding: 257 for bytes, which are 1..256
    num_classes: int  # 0: the documents have no labels


class TextSplit(NamedTuple):
    """Where the documents of a split are in the flat array, and their labels."""

    starts: Int[Array, "documents"]
    lengths: Int[Array, "documents"]
    labels: Int[Array, "documents"]  # 0 where there are none


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("tokens", "train", "inner_valid", "outer_valid", "test"),
    meta_fields=("info",),
)
@dataclass(frozen=True)
class TextData:
    """Four splits that share no document."""

    tokens: UInt[Array, "tokens"]  # one less than what is served: bytes are uint8
    train: TextSplit
    inner_valid: TextSplit
    outer_valid: TextSplit
    test: TextSplit
    info: TextInfo

    def size(self, split: str) -> int:
        """Number of documents in a split."""
        return len(getattr(self, split).lengths)

    def num_train(self, at_most: int | None = None) -> int:
        """Training documents in use, when a task wants `at_most` so many."""
        if at_most is not None and at_most < 1:
            raise ValueError(f"num_train is at least 1, not {at_most}")
        available = self.size("train")
        return available if at_most is None else min(at_most, available)


class TextBatch(NamedTuple):
    """Pieces of documents, padded with 0 where mask is 0."""

    tokens: Int[Array, "batch patch"]
    mask: Float[Array, "batch patch"]
    labels: Int[Array, "batch"]


class TextNumbers(NamedTuple):
    """What may differ between tasks that are served alike."""

    num_train: Int[Array, "*lanes"]  # training documents in use


@dataclass(frozen=True)
class Texts:
    """How documents are served: the structure."""

    info: TextInfo
    patch_length: int
    batch_size: int
    just_train: bool

    def draw(
        self, numbers: TextNumbers, data: TextData, split: SplitName, key: PRNGKeyArray
    ) -> DrawnTexts:
        """Documents, and how far into each its piece starts, as a fraction."""
        index_key, start_key = jax.random.split(key)
        split = self._served(split)
        in_use = numbers.num_train if split == "train" else data.size(split)
        indices = draw_indices(in_use, self.batch_size, index_key)
        return indices, jax.random.uniform(start_key, (self.batch_size,))

    def take(
        self, numbers: TextNumbers, data: TextData, split: SplitName, drawn: DrawnTexts
    ) -> TextBatch:
        """The pieces that were drawn."""
        del numbers
        indices, fractions = drawn
        documents: TextSplit = getattr(data, self._served(split))
        at = lambda array, i: array.at[i].get(mode="promise_in_bounds")
        starts, lengths = at(documents.starts, indices), at(documents.lengths, indices)
        last_skip = jnp.maximum(lengths - self.patch_length, 0)
        skips = (fractions * (last_skip + 1)).astype(jnp.int32)
        skips = jnp.minimum(skips, last_skip)  # a fraction can round up to 1
        within = skips[:, None] + jnp.arange(self.patch_length)
        inside = within < lengths[:, None]
        # Positions beyond the end of a document point at its last token instead.
        within = jnp.minimum(within, lengths[:, None] - 1)
        tokens = at(data.tokens, starts[:, None] + within).astype(jnp.int32) + 1
        return TextBatch(
            tokens=jnp.where(inside, tokens, 0),
            mask=inside.astype(jnp.float32),
            labels=at(documents.labels, indices),
        )

    def _served(self, split: SplitName) -> SplitName:
        return "train" if self.just_train else split


@dataclass(frozen=True, kw_only=True)
class TextProblem(Problem):
    """A problem whose batches are texts; its numbers have `texts`."""

    texts: Texts

    def draw(
        self, numbers: Any, data: TextData, split: SplitName, key: PRNGKeyArray
    ) -> DrawnTexts:
        return self.texts.draw(numbers.texts, data, split, key)

    def take(
        self, numbers: Any, data: TextData, split: SplitName, drawn: DrawnTexts
    ) -> TextBatch:
        return self.texts.take(numbers.texts, data, split, drawn)

    def one_split(self, data: TextData) -> bool:
        return self.texts.just_train


def serve_text(
    config: TextConfig, usual: int = NUM_PER_VALID
) -> tuple[Texts, TextNumbers, TextData]:
    """How the documents of a config are served; raises `DataNotFoundError`.

    `usual` documents are held out where the config does not say how many.
    """
    data = load_text(config.dataset, config.num_per_valid, usual)
    texts = Texts(data.info, config.patch_length, config.batch_size, config.just_train)
    numbers = TextNumbers(jnp.int32(data.num_train(config.num_train)))
    return texts, numbers, data


def load_text(
    name: str, num_per_valid: int | None = None, usual: int = NUM_PER_VALID
) -> TextData:
    """The corpus on the device: loaded at the first call, the same arrays after.

    Each split that is carved from training documents has `num_per_valid` of them. None:
    `usual` ones, as in TaskSet, or a tenth of a corpus so small that this would leave
    none to train on; TaskSet has no such corpus.
    """
    text_name = read_text_name(name)
    return _load(text_name, corpora.locate(text_name), num_per_valid, usual)


class _Corpus(NamedTuple):
    tokens: UInt[Array, "tokens"]  # of all splits, shared however they are carved
    starts: dict[str, Int[np.ndarray, "documents"]]
    splits: dict[str, Tokens]
    info: TextInfo


@recent(kept=2)
def _load(
    name: TextName, found: Prepared | None, num_per_valid: int | None, usual: int
) -> TextData:
    corpus = _read(name, found)
    sizes = {split: len(part.lengths) for split, part in corpus.splits.items()}
    if num_per_valid is None:
        num_carved = 3 - len(sizes.keys() & {"validation", "test"})
        leaves_some = num_carved * usual < sizes["train"]
        num_per_valid = usual if leaves_some else max(sizes["train"] // 10, 1)
    parts = carve(sizes, num_per_valid, str(name))

    def split(part: Part) -> TextSplit:
        stored = corpus.splits[part.source]
        arrays = (corpus.starts[part.source], stored.lengths, stored.labels)
        return TextSplit(*(jnp.asarray(a[part.first : part.last]) for a in arrays))

    # A first load inside a trace would otherwise cache that trace's tracers.
    with jax.ensure_compile_time_eval():
        splits = {ours: split(part) for ours, part in parts.items()}
    return TextData(tokens=corpus.tokens, **splits, info=corpus.info)


@functools.lru_cache(maxsize=2)
def _read(name: TextName, found: Prepared | None) -> _Corpus:
    del found  # what `name` means depends on it
    splits, vocab_size, num_classes = corpora.read(name)
    starts, first = {}, 0
    for split, part in splits.items():
        ends = first + np.cumsum(part.lengths)
        starts[split] = (ends - part.lengths).astype(np.int32)
        first += len(part.tokens)
    flat = np.concatenate([part.tokens for part in splits.values()])
    info = TextInfo(str(name), name.encoding, vocab_size, num_classes)
    with jax.ensure_compile_time_eval():
        return _Corpus(jnp.asarray(flat), starts, splits, info)
