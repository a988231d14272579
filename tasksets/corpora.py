"""Corpora: documents by name, as tokens.

    lm1b, imdb_reviews, tiny_shakespeare, ...   what tensorflow-datasets has prepared
    tokenized_wikipedia/20190301.LANGUAGE       paragraphs of the articles of a dump
    tokenized_amazon_reviews/PRODUCTS           reviews, with stars - 1 as label
    python_docs                                 bundled, to try things out

As in TaskSet (Metz et al. 2020, arXiv 2002.11887), the last two of tensorflow-datasets
are split by a hash, 70 % for training: of the article, so that no article is in both.
A corpus of one document is cut into pieces of 1024 bytes, in their order. At most a
million documents of a split are read, and at most 512 MB of them; TaskSet reads a
million articles of Wikipedia, and all of the others.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt

from tasksets import catalogue, prepared, subwords
from tasksets.array_cache import cached_arrays
from tasksets.catalogue import TextName
from tasksets.data import DataNotFoundError, available
from tasksets.names import UnknownNameError
from tasksets.prepared import Prepared

_MOST_DOCUMENTS = 1_000_000
_MOST_BYTES = 2**29
_PIECE = 1024  # bytes
_SHORTEST_PARAGRAPH = 6  # characters
_NUM_TOPICS = 10
_STARS = 5

Document = tuple[bytes, int]  # text and label; the label is 0 where there is none


class Tokens(NamedTuple):
    """Documents one after the other, in tokens less one: bytes are uint8."""

    tokens: UInt[np.ndarray, "tokens"]
    lengths: Int[np.ndarray, "documents"]
    labels: Int[np.ndarray, "documents"]

    def documents(self) -> Iterator[UInt[np.ndarray, "length"]]:
        """One array for each document."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        return (
            self.tokens[end - length : end]
            for end, length in zip(ends, self.lengths, strict=True)
        )


class Corpus(NamedTuple):
    """The splits that a corpus comes with, in one encoding."""

    splits: dict[str, Tokens]  # train, validation, test
    vocab_size: int  # with the padding, which is token 0 when served
    num_classes: int  # 0: no labels


def read(name: TextName) -> Corpus:
    """The corpus in its encoding; raises `DataNotFoundError`."""
    entry, corpus = _in_bytes(name)
    return corpus if name.encoding == "bytes" else _in_subwords(entry, corpus)


def locate(name: TextName) -> Prepared | None:
    """Where the corpus is; None: it is bundled. Raises where it is nowhere."""
    if name.corpus == catalogue.BUNDLED_TEXT:
        return None
    found = prepared.serving(str(name))
    if found is None:
        if name.corpus in {*catalogue.IMAGES, *available()}:
            raise ValueError(f"{name.corpus!r} is no text")
        if prepared.is_known(str(name)):
            raise DataNotFoundError(str(name))
        known = {*catalogue.texts(), *prepared.builder_names()}
        raise UnknownNameError("text", str(name), known)
    return found


def _in_bytes(name: TextName) -> tuple[str, Corpus]:
    """The name of its cache entry, and the corpus in bytes."""
    found = locate(name)
    if found is None:
        tokens = _pack(_python_docs())
        content = b"".join(array.tobytes() for array in tokens)
        digest = hashlib.blake2b(content, digest_size=8).hexdigest()
        return f"python_docs-{digest}", Corpus({"train": tokens}, 257, _NUM_TOPICS)
    splits, num_classes = _stored_splits(found)
    return found.entry, Corpus(splits, 257, num_classes)


def _in_subwords(entry: str, corpus: Corpus) -> Corpus:
    train = corpus.splits["train"]
    documents = lambda split: (part.tobytes() for part in split.documents())

    learn = lambda: [np.frombuffer(subwords.learn(documents(train)), np.uint8)]
    vocabulary = cached_arrays(entry, ["vocabulary"], learn)[0].tobytes()

    def encode(split: Tokens) -> Tokens:
        encoded = subwords.encode(vocabulary, list(documents(split)))
        lengths = np.array([len(tokens) for tokens in encoded], np.int32)
        return Tokens(np.concatenate(encoded) - np.uint16(1), lengths, split.labels)

    splits = {
        split: _cached(entry, f"{split}-subwords8k", functools.partial(encode, part))
        for split, part in corpus.splits.items()
    }
    return Corpus(splits, subwords.VOCAB_SIZE, corpus.num_classes)


def _cached(entry: str, prefix: str, make: Callable[[], Tokens]) -> Tokens:
    names = [f"{prefix}-{field}" for field in Tokens._fields]
    return Tokens(*cached_arrays(entry, names, make))


def _stored_splits(found: Prepared) -> tuple[dict[str, Tokens], int]:
    """The splits of a prepared set in bytes, and its classes."""
    if "train" not in found.sizes:
        raise ValueError(f"{found.folder} has no training split: {found.sizes}")
    origin = found.description["name"]
    read = {"wikipedia": _paragraphs, "amazon_us_reviews": _reviews}.get(origin, _texts)
    tokens = {
        split: _cached(
            found.entry,
            f"{split}-bytes",
            lambda split=split: _pack(_cut(found, read(found, split))),
        )
        for split in (found.sizes if read is _texts else _HASHED)
    }
    if read is not _texts:
        return tokens, _STARS if read is _reviews else 0
    count_classes = lambda: [np.array([_keys(found)[2]])]
    (classes,) = cached_arrays(found.entry, ["classes"], count_classes)
    return tokens, int(classes[0])


def _keys(found: Prepared) -> tuple[str, str | None, int]:
    """Which feature is the text, which the label if there is one, and its classes."""
    text_key, label_key = found.builder.info.supervised_keys or ("text", "label")
    if type(found.features.get(text_key)).__name__ != "Text":
        raise ValueError(
            f"{found.description['name']!r} is no text; its features are "
            + ", ".join(found.features)
        )
    num_classes = getattr(found.features.get(label_key), "num_classes", None) or 0
    return text_key, label_key if num_classes else None, num_classes


def _texts(found: Prepared, split: str) -> Iterator[Document]:
    text_key, label_key, _ = _keys(found)
    for record in found.records(split):
        yield record[text_key], record[label_key] if label_key else 0


# The splits of what comes in one split, with the share that they begin and end at.
_HASHED = {"train": (0.0, 0.7), "test": (0.7, 1.0)}


def _is_in(split: str, place: int) -> bool:
    """Whether the record at this place belongs to a split: 70 % are for training."""
    digest = hashlib.blake2b(str(place).encode(), digest_size=8).digest()
    low, high = _HASHED[split]
    return low <= int.from_bytes(digest, "big") / 2**64 < high


def _paragraphs(found: Prepared, split: str) -> Iterator[Document]:
    for place, article in enumerate(found.records("train")):
        if _is_in(split, place):
            for paragraph in article["text"].split(b"\n"):
                if len(paragraph.decode().strip()) >= _SHORTEST_PARAGRAPH:
                    yield paragraph, 0


def _reviews(found: Prepared, split: str) -> Iterator[Document]:
    for place, record in enumerate(found.records("train")):
        if _is_in(split, place):
            review = record["data"]
            yield review["review_body"], review["star_rating"] - 1


def _cut(found: Prepared, documents: Iterable[Document]) -> Iterable[Document]:
    """Pieces of a document that is alone in its split; else the documents."""
    documents = _capped(documents)
    if list(found.sizes.values()) != [1] * len(found.sizes):
        order = found.order(len(listed := list(documents)))
        return listed if order is None else [listed[index] for index in order]
    return [
        (piece, label) for text, label in documents for piece in _pieces(text, _PIECE)
    ]


def _pieces(text: bytes, size: int) -> Iterator[bytes]:
    """Consecutive pieces of at most `size` bytes that cut no character of UTF-8."""
    while text:
        end = size
        while end < len(text) and 0x80 <= text[end] < 0xC0:
            end -= 1
        yield text[:end]
        text = text[end:]


def _capped(documents: Iterable[Document]) -> Iterator[Document]:
    """Without empty documents, up to the limits on their number and size."""
    num_documents = num_bytes = 0
    for text, label in documents:
        num_documents += 1
        num_bytes += len(text)
        if num_documents > _MOST_DOCUMENTS or num_bytes > _MOST_BYTES:
            return
        if text:
            yield text, label


def _pack(documents: Iterable[Document]) -> Tokens:
    texts, labels = zip(*documents, strict=True)
    lengths = np.array([len(text) for text in texts], np.int32)
    tokens = np.frombuffer(b"".join(texts), np.uint8)
    return Tokens(tokens, lengths, np.array(labels, np.int32))


def _python_docs() -> Iterator[Document]:
    """Paragraphs of the ten largest topics of the interpreter's own documentation.

    The label is the topic. The text ships with CPython and differs between its
    versions: it is for trying things out and for tests, not for results. A topic that
    is mostly part of a larger one is passed over, and no paragraph occurs twice.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ImportError(
            "the text 'python_docs' is the documentation that ships with Python, and "
            "this Python comes without it (the module pydoc_data is missing)"
        ) from None
    topic_of: dict[str, int] = {}
    num_topics = 0
    for topic in sorted(topics, key=lambda topic: (-len(topics[topic]), topic)):
        paragraphs = [text.strip() for text in re.split(r"\n\s*\n", topics[topic])]
        paragraphs = [text for text in paragraphs if len(text) >= _SHORTEST_PARAGRAPH]
        new = [text for text in paragraphs if text not in topic_of]
        if 2 * len(new) >= len(paragraphs) and num_topics < _NUM_TOPICS:
            topic_of.update(dict.fromkeys(new, num_topics))
            num_topics += 1
    documents = list(topic_of.items())
    for index in np.random.RandomState(0).permutation(len(documents)):
        text, topic_index = documents[index]
        yield text.encode(), topic_index
