"""Data sets: four disjoint splits on the device, loaded once in a process.

A data set comes from a loader, registered under its name. A loader returns a
`Dataset`; `load` sees to it that its arrays are on the device and keeps it. Families
only see the `Dataset`, so where the arrays came from is no concern of theirs.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from tasksets.names import UnknownNameError

# The image sets of TaskSet (Metz et al. 2020, arXiv 2002.11887) and near relatives:
# known by name, so that the error can tell "not prepared" from "no such thing".
KNOWN_ELSEWHERE = (
    "mnist",
    "fashion_mnist",
    "cifar10",
    "cifar100",
    "food101_32x32",
    "coil100_32x32",
    "deep_weeds_32x32",
    "sun397_32x32",
    "imagenet_resized/16x16",
    "imagenet_resized/32x32",
)


class DataNotFoundError(LookupError):
    """A known data set that is not on this machine."""

    def __init__(self, dataset: str, task: str = "mlp_family/seed7"):
        super().__init__(
            f"{task} needs the data set {dataset!r}, which is not here. Without "
            f"preparation there are only the bundled sets: {', '.join(available())}. "
            f"Nothing stands in for a data set silently: to run this task on another "
            f"one, name it, as in '{task.partition('@')[0]}@digits'."
        )
        self.dataset = dataset


@dataclass(frozen=True)
class DatasetInfo:
    """What is static about a data set."""

    name: str
    shape: tuple[int, ...]  # of one input: (h, w, c) of an image, (f,) of a table
    num_classes: int
    scale: float = 1.0  # images: stored * scale + offset is in [0, 1]
    offset: float = 0.0

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3


class Split(NamedTuple):
    """Inputs as stored (uint8 images, standardised float32 tables), and labels."""

    inputs: Num[Array, "examples *shape"]
    labels: Int[Array, "examples"]


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("train", "inner_valid", "outer_valid", "test"),
    meta_fields=("info",),
)
@dataclass(frozen=True)
class Dataset:
    """Four splits that share no example."""

    train: Split
    inner_valid: Split
    outer_valid: Split
    test: Split
    info: DatasetInfo

    def size(self, split: str) -> int:
        """Number of examples in a split."""
        return len(getattr(self, split).labels)

    def num_train(self, at_most: int | None = None) -> int:
        """Training examples in use, when a task wants `at_most` so many."""
        if at_most is not None and at_most < 1:
            raise ValueError(f"num_train is at least 1, not {at_most}")
        available = self.size("train")
        return available if at_most is None else min(at_most, available)


class Examples(NamedTuple):
    """A batch of labelled examples; images are in [0, 1]."""

    inputs: Float[Array, "batch *shape"]
    labels: Int[Array, "batch"]


_LOADERS: dict[str, Callable[[], Dataset]] = {}


def register_data(name: str, loader: Callable[[], Dataset]) -> None:
    """Makes `load(name)` call `loader`; its arrays may be numpy's or jax's."""
    _LOADERS[name] = loader
    _load.cache_clear()


def available() -> list[str]:
    """The names that `load` knows how to load."""
    return sorted(_LOADERS)


def load(name: str, num_per_valid: int | None = None) -> Dataset:
    """The data set on the device: loaded at the first call, the same arrays after.

    `num_per_valid` examples go to each validation split that is carved from training
    examples, where the data set leaves that open; None: what sampled tasks hold out.
    """
    if name not in _LOADERS:
        if name in KNOWN_ELSEWHERE:
            raise DataNotFoundError(name)
        raise UnknownNameError("data set", name, {*_LOADERS, *KNOWN_ELSEWHERE})
    return _load(name)


@functools.cache
def _load(name: str) -> Dataset:
    # A first load inside a trace would otherwise cache that trace's tracers.
    with jax.ensure_compile_time_eval():
        return jax.tree.map(jnp.asarray, _LOADERS[name]())


def draw_indices(
    num_examples: int | Int[Array, ""], batch_size: int, key: PRNGKeyArray
) -> Int[Array, "batch"]:
    """Indices with replacement: one uniform draw, cheaper than `randint`'s two."""
    position = jax.random.uniform(key, (batch_size,)) * num_examples
    # position can round up to num_examples itself
    return jnp.minimum(position.astype(jnp.int32), num_examples - 1)


def take(split: Split, indices: Int[Array, "batch"], info: DatasetInfo) -> Examples:
    """The examples at `indices`, which must be in range, with images in [0, 1]."""
    at = lambda array: array.at[indices].get(mode="promise_in_bounds")
    inputs = at(split.inputs).astype(jnp.float32)
    if info.is_image:
        inputs = inputs * info.scale + info.offset
    return Examples(inputs, at(split.labels))
