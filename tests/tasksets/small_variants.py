"""Small variants of the tasks of every family, for any seed, that need no download.

    small("vit", 7)    "vit/seed7@digits?batch_size=8&patch=4&layers=1&..."
    bundled("vit", 7)  the same task as sampled, but for its data

A small variant keeps what a seed samples but data, sizes and numbers of layers, so that
most seeds of a family have one structure and stack. A family without an entry here
fails the tests that run over all families, with a message that points here.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import meta_train  # noqa: F401  (registers lopt_pes)
import tasksets
from tasksets import registry
from tasksets.fixed import TASKSET_GROUPS
from tasksets.stacking import group_by_structure
from tasksets.task import Task


class Variant(NamedTuple):
    """What follows `family/seedN` in a name."""

    small: str
    bundled: str = ""  # what data make necessary and no more
    seeds: Sequence[int] = range(20)  # some of them stack


_CONVS = "@digits?batch_size=8&channels=4-3&strides=1-2&padding=SAME-VALID"
_RNN = "batch_size=8&patch_length=6&core_size=5&embedding_size=4"
_BYTES = "@python_docs"
_SUBWORDS = "@python_docs/subwords8k"

FAMILIES = {
    "char_rnn_language_model_family": Variant(
        f"{_BYTES}?{_RNN}&vocab_size=200", _BYTES
    ),
    # As sampled, convolutions without padding leave nothing of 8x8 pixels.
    "conv_fc_family": Variant(f"{_CONVS}&hidden=6", "@digits?padding=SAME"),
    "conv_pooling_family": Variant(_CONVS, "@digits?padding=SAME"),
    "losg_tasks_family": Variant("", seeds=(36, 56)),
    "lopt_pes": Variant("?window=2&num_windows=2&num_pairs=1&sigma=0.01"),
    "maf_family": Variant("@digits?batch_size=8&hidden=6&num_bijectors=2", "@digits"),
    "mlp_ae_family": Variant("@digits?batch_size=8&hidden=6-5", "@digits"),
    "mlp_family": Variant("@digits?batch_size=8&hidden=6-5", "@digits"),
    "mlp_mixer": Variant(
        "@digits?batch_size=8&patch=4&layers=1&width=6&token_mlp_width=5"
        "&channel_mlp_width=7",
        "@digits?patch=2",
    ),
    "mlp_vae_family": Variant("@digits?batch_size=8&encoder=6-3&decoder=5", "@digits"),
    "nvp_family": Variant("@digits?batch_size=8&hidden=6&num_bijectors=2", "@digits"),
    "pinn": Variant("?batch_size=8&hidden=6"),
    "quadratic_family": Variant("?dims=5"),
    "resnet": Variant(
        "@digits?batch_size=8&stem_channels=4&stem_kernel=3&stem_stride=1"
        "&stem_pool=false&blocks=1&channels=8&bottlenecks=4",
        "@digits",
    ),
    "rnn_text_classification_family": Variant(
        f"{_SUBWORDS}?{_RNN}&vocab_size=200", _SUBWORDS
    ),
    "small_mlp": Variant("@digits?batch_size=8&hidden=6"),
    "transformer_lm": Variant(
        f"{_BYTES}?batch_size=4&patch_length=6&layers=1&heads=2&head_width=4&mlp_ratio=2"
        "&positions=learned",
        _BYTES,
    ),
    "vit": Variant(
        "@digits?batch_size=8&patch=4&layers=1&heads=2&head_width=4&mlp_width=8",
        "@digits?patch=2",
    ),
    "word_rnn_language_model_family": Variant(
        f"{_SUBWORDS}?{_RNN}&vocab_size=300", _SUBWORDS
    ),
}

# What follows the name of a fixed task, by group: data, and sizes that compile soon.
_FIXED = {
    "fixed_image_conv": "@digits?batch_size=8",
    "fixed_conv_ae": "@digits?batch_size=8",
    "fixed_conv_vae": "@digits?batch_size=8",
    "language_modeling": f"{_BYTES}?{_RNN}",
    "maf": "@digits?batch_size=8&hidden=6",
    "fixed_mlp": "@digits?batch_size=8&hidden=6-5",
    "fixed_mlp_ae": "@digits?batch_size=8",
    "fixed_mlp_vae": "@digits?batch_size=8",
    "nvp": "@digits?batch_size=8&hidden=6",
    "text_rnn_classification": f"{_SUBWORDS}?{_RNN}",
    "TwoD": "",
    "associative": "?batch_size=8&core_size=5",
    "copy": "?batch_size=8&core_size=5",
}


def small(family: str, seed: int) -> str:
    """The name of a task that compiles in seconds and takes a step in microseconds."""
    return f"{family}/seed{seed}{_variant(family).small}"


def bundled(family: str, seed: int) -> str:
    """The name of a task as sampled, but served from data that are always there."""
    return f"{family}/seed{seed}{_variant(family).bundled}"


def fixed() -> list[str]:
    """A small variant of the first task of every group of fixed tasks."""
    groups = {group.name: list(group.configs) for group in TASKSET_GROUPS}
    assert groups.keys() == _FIXED.keys(), "every group has an entry in _FIXED"
    return [f"{names[0]}{_FIXED[group]}" for group, names in groups.items()]


@functools.cache
def stackable(family: str, most: int) -> tuple[Task, ...]:
    """Up to `most` small tasks of the structure that most seeds have."""
    seeds = _variant(family).seeds
    tasks = [tasksets.get(small(family, seed)) for seed in seeds]
    return tuple(max(group_by_structure(tasks), key=len)[:most])


def _variant(family: str) -> Variant:
    if family not in FAMILIES:
        raise KeyError(
            f"{family!r} has no small variant: add it to {__name__}.FAMILIES"
        )
    return FAMILIES[family]


def families() -> list[str]:
    """Every registered family."""
    return registry.families()
