"""Subwords: text as 8191 pieces that a corpus is best put together from.

The vocabulary is byte-pair encoding (Sennrich et al. 2016, arXiv 1508.07909), learned
from the first 200,000 training documents by sentencepiece. TaskSet used the encoder
of tensorflow-datasets; it is deprecated, is written in Python and needs tensorflow.
sentencepiece is its successor in the field, has no dependencies, and encodes text
without loss: what is in no piece is spelled in bytes. (One character, U+2581, stands
for the space and is read as one.)

Its token 0, "unknown", therefore never occurs, and is the padding here.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from jaxtyping import UInt16

VOCAB_SIZE = 8192  # with the padding

_NUM_DOCUMENTS = 200_000
_MOST_BYTES = 50_000_000  # of the text that the vocabulary is learned from
_AT_ONCE = 10_000  # documents
_NUM_THREADS = 4  # fixed, because the vocabulary could depend on it


def learn(documents: Iterable[bytes]) -> bytes:
    """The vocabulary of some training documents, as sentencepiece keeps it."""
    model = io.BytesIO()
    _import_sentencepiece().SentencePieceTrainer.train(
        sentence_iterator=_first(documents),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCAB_SIZE,
        hard_vocab_limit=False,  # a small corpus has fewer pieces
        byte_fallback=True,
        character_coverage=0.9995,
        max_sentence_length=_MOST_BYTES,
        **{"unk_id": 0, "bos_id": -1, "eos_id": -1, "pad_id": -1},
        # Text is taken as it is.
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        num_threads=_NUM_THREADS,
        minloglevel=2,
    )
    return model.getvalue()


def encode(
    vocabulary: bytes, documents: Sequence[bytes]
) -> list[UInt16[np.ndarray, "tokens"]]:
    """The documents in tokens from 1 to 8191."""
    encoder = _import_sentencepiece().SentencePieceProcessor(model_proto=vocabulary)
    encoded = []
    # Tokens come as Python's integers, which take many times the memory.
    for first in range(0, len(documents), _AT_ONCE):
        texts = [_text(document) for document in documents[first : first + _AT_ONCE]]
        tokens = encoder.encode(texts, out_type=int, num_threads=_NUM_THREADS)
        encoded += [np.array(each, np.uint16) for each in tokens]
    return encoded


def decode(vocabulary: bytes, tokens: UInt16[np.ndarray, "tokens"]) -> str:
    """The text of some tokens."""
    encoder = _import_sentencepiece().SentencePieceProcessor(model_proto=vocabulary)
    return encoder.decode(tokens.tolist())


def _first(documents: Iterable[bytes]) -> Iterator[str]:
    num_bytes = 0
    for document in islice(documents, _NUM_DOCUMENTS):
        num_bytes += len(document)
        if num_bytes > _MOST_BYTES:
            return
        yield _text(document)


def _text(document: bytes) -> str:
    # Sentencepiece takes the character 0 for the end of the text.
    return document.decode("utf-8", errors="replace").replace("\0", " ")


def _import_sentencepiece() -> Any:
    try:
        import sentencepiece  # pyright: ignore
    except ImportError as error:
        raise ImportError(
            f"text in subwords needs a package that is not here ({error}): "
            "pip install 'learned-opt[data]'"
        ) from error
    return sentencepiece
