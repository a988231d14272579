"""TaskSet's samplers for recurrent cores and text, over a numpy `RandomState`.

As in `sampling.py`, the order of the draws is part of the specification (Metz et al.
2020, arXiv 2002.11887).
"""

from typing import Any

from numpy.random import RandomState

from tasksets.recurrent import Initializer
from tasksets.sampling import (
    activation_name,
    initializer_name,
    linear_int,
    log_int,
    with_probability,
)

_CORPORA = (
    "lm1b/{}",
    "imdb_reviews/{}",
    "tokenized_wikipedia/20190301.zh_{}",
    "tokenized_wikipedia/20190301.ru_{}",
    "tokenized_wikipedia/20190301.ja_{}",
    "tokenized_wikipedia/20190301.hsb_{}",
    "tokenized_wikipedia/20190301.en_{}",
)
_REVIEWS = (
    "tokenized_amazon_reviews/Books_v1_02_{}",
    "tokenized_amazon_reviews/Camera_v1_00_{}",
    "tokenized_amazon_reviews/Home_v1_00_{}",
    "tokenized_amazon_reviews/Video_v1_00_{}",
)
# The first is what a comma missing between two names makes of them; it was sampled.
_CLASSIFIED = (
    "imdb_reviews/subwords8kimdb_reviews/bytes",
    *(name.format(code) for code in ("bytes", "subwords8k") for name in _REVIEWS),
)
_GRU_WEIGHTS = ("wh", "wz", "wr", "uh", "uz", "ur")


def core_fields(rng: RandomState) -> dict[str, Any]:
    """The fields of a `CoreConfig` but the last; the order depends on the core."""
    core = rng.choice(["vanilla", "gru", "lstm"])
    linked = rng.choice([True, True, True, True, False])
    activation = None
    if core == "vanilla":
        laws = _laws(rng, ("hidden_to_hidden", "in_to_hidden"), linked)
        activation = activation_name(rng)
        size = log_int(rng, 32, 128)
    elif core == "gru":
        size = log_int(rng, 32, 128)
        laws = _laws(rng, _GRU_WEIGHTS, linked)
    else:
        laws = _laws(rng, ("w_gates",), linked)
        size = log_int(rng, 32, 128)
    return {
        "core": str(core),
        "core_size": size,
        "core_initializers": laws,
        "core_activation": activation,
    }


def _laws(
    rng: RandomState, weights: tuple[str, ...], linked: bool
) -> tuple[tuple[str, Initializer], ...]:
    if linked:
        return tuple(dict.fromkeys(weights, initializer_name(rng)).items())
    return tuple((name, initializer_name(rng)) for name in weights)


def byte_text(rng: RandomState) -> dict[str, Any]:
    """The fields of a `TextConfig` for a language model of bytes."""
    return _language_model_text(rng, "bytes", longest=160)


def word_text(rng: RandomState) -> dict[str, Any]:
    """The same for subwords."""
    return _language_model_text(rng, "subwords8k", longest=256)


def _language_model_text(
    rng: RandomState, encoding: str, longest: int
) -> dict[str, Any]:
    names = sorted(name.format(encoding) for name in _CORPORA + _REVIEWS)
    return {
        "dataset": str(rng.choice(names)),
        "num_train": _num_train(rng),
        "patch_length": log_int(rng, 10, longest),
        "batch_size": log_int(rng, 8, 512),
        "just_train": with_probability(rng, 0.2),
    }


def classified_text(rng: RandomState) -> dict[str, Any]:
    """The fields of a `RnnTextClassificationConfig` that say what is classified."""
    return {
        "sampled_dataset": str(rng.choice(sorted(_CLASSIFIED))),
        "num_train": _num_train(rng),
        "batch_size": log_int(rng, 8, 512),
        "sampled_just_train": with_probability(rng, 0.2),
        "patch_length": log_int(rng, 8, 128),
    }


def _num_train(rng: RandomState) -> int | None:
    return linear_int(rng, 1000, 50000) if with_probability(rng, 0.2) else None
