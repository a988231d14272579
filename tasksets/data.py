"""Data sets: four disjoint splits on the device, loaded once while a task uses them.

A data set comes from a loader, registered under its name, or else from what
tensorflow-datasets has prepared on this machine; `load` sees to it that its arrays are
on the device and keeps it. Families only see the `Dataset`, so where the arrays came
from is no concern of theirs.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from tasksets import catalogue, prepared
from tasksets.names import UnknownNameError, parse
from tasksets.prepared import Prepared
from tasksets.recent import recent


class DataNotFoundError(LookupError):
    """A known data set that is not on this machine."""

    def __init__(self, dataset: str, task: str | None = None):
        subject = f"the data set {dataset!r}"
        subject = f"{task} needs {subject}, which" if task else subject
        if catalogue.is_text(dataset):
            encoding = catalogue.read_text_name(dataset).encoding
            usual = "char_rnn_language_model_family/seed7"
            bundled = [str(catalogue.TextName(catalogue.BUNDLED_TEXT, encoding))]
        else:
            usual, bundled = "mlp_family/seed7", available()
        in_its_place = "digits" if "digits" in bundled else bundled[0]
        example = _served_from(in_its_place, task or usual)
        super().__init__(
            f"{subject} is not here: nothing is prepared in "
            f"{prepared.data_folder() / catalogue.builder(dataset)} (the environment "
            f"variable TFDS_DATA_DIR names another folder). "
            f"`learned-opt data prepare {dataset}` downloads and prepares it; where there "
            f"is no network, `learned-opt data export {dataset}` on a machine that has it "
            f"makes a folder to copy. Nothing "
            f"stands in for a data set silently: to run on one that is bundled "
            f"({', '.join(bundled)}), name it, as in {example!r}."
        )
        self.dataset, self.task = dataset, task

    def __reduce__(self) -> Any:
        return type(self), (self.dataset, self.task)  # another process gets it


def _served_from(dataset: str, task: str) -> str:
    """The name of a task on bundled data."""
    name = parse(task)
    fields = {field: text for field, text in name.fields if field != "num_per_valid"}
    if name.family.startswith("conv_"):
        fields["padding"] = "SAME"  # else nothing may be left of small images
    return str(replace(name, dataset=dataset, fields=tuple(fields.items())))


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
    """Makes `load(name)` call `loader`; its arrays may be numpy's or jax's.

    `load` raises ValueError where they are not what their `DatasetInfo` says.
    """
    _LOADERS[name] = loader
    _load.cache_clear()


def available() -> list[str]:
    """The names that `load` knows how to load."""
    return sorted(_LOADERS)


def load(name: str, num_per_valid: int | None = None) -> Dataset:
    """The data set on the device: the same arrays for all who use them at a time.

    Registered names come first, then what tensorflow-datasets has prepared here (see
    `prepared.py`). `num_per_valid` examples go to each validation split that is carved
    from training examples, where the data set leaves that open; None: what TaskSet's
    sampled families hold out.
    """
    if name in _LOADERS:
        return _load(name)
    if catalogue.is_text(name):
        raise ValueError(
            f"{name!r} is text, where images are needed; `tasksets.load_text` loads it"
        )
    if num_per_valid is None:
        num_per_valid = catalogue.num_per_valid(name)
    found = prepared.serving(name)
    if found is not None:
        return _load_prepared(name, num_per_valid, found)
    if prepared.is_known(name):
        raise DataNotFoundError(name)
    known = {*_LOADERS, *catalogue.IMAGES, *prepared.builder_names()}
    raise UnknownNameError("data set", name, known)


@functools.cache
def _load(name: str) -> Dataset:
    # A first load inside a trace would otherwise cache that trace's tracers.
    with jax.ensure_compile_time_eval():
        data = jax.tree.map(jnp.asarray, _LOADERS[name]())
        _require_consistent(data, name)
        return data


def _require_consistent(data: Dataset, name: str) -> None:
    info = data.info
    for split in ("train", "inner_valid", "outer_valid", "test"):
        inputs, labels = map(np.asarray, getattr(data, split))
        wrong = None
        if len(labels) == 0 or len(inputs) != len(labels):
            wrong = f"{len(inputs)} inputs and {len(labels)} labels"
        elif labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            wrong = (
                f"labels of type {labels.dtype} and shape {labels.shape}; one whole number "
                "for each example is a class. Other targets are data of a family of your "
                "own: its `build` returns any arrays."
            )
        elif inputs.shape[1:] != info.shape:
            wrong = f"inputs of shape {inputs.shape[1:]}, not {info.shape}"
        elif labels.min() < 0 or labels.max() >= info.num_classes:
            wrong = (
                f"labels from {labels.min()} to {labels.max()}, not from 0 to "
                f"{info.num_classes - 1}"
            )
        elif info.is_image and inputs.dtype == np.uint8 and info.scale == 1:
            wrong = (
                "images in bytes that nothing scales: scale=1/255 brings them to [0, 1]"
            )
        if wrong is not None:
            raise ValueError(f"the data set {name!r} has in {split!r} {wrong}")


@recent(kept=2)
def _load_prepared(name: str, num_per_valid: int, found: Prepared) -> Dataset:
    stored, num_classes = prepared.read_images(found, catalogue.size(name))
    parts = carve(found.sizes, num_per_valid, name)
    with jax.ensure_compile_time_eval():
        splits = {
            ours: Split(
                *(jnp.asarray(a[part.first : part.last]) for a in stored[part.source])
            )
            for ours, part in parts.items()
        }
    shape = stored["train"].inputs.shape[1:]
    return Dataset(**splits, info=DatasetInfo(name, shape, num_classes, scale=1 / 255))


class Part(NamedTuple):
    """A range of the examples of one split of a data set as it comes."""

    source: str  # train, validation or test
    first: int
    last: int  # not included


def carve(sizes: Mapping[str, int], num_per_valid: int, name: str) -> dict[str, Part]:
    """Where our four splits are in the splits that a data set comes with.

    As in TaskSet: what is missing of inner_valid, outer_valid and test is taken, in
    this order, from the front of the training examples, `num_per_valid` for each. A
    validation split is outer_valid where there is a test split too, and test where not.
    """
    held_out = [split for split in ("validation", "test") if split in sizes]
    ours = {2: ["outer_valid", "test"], 1: ["test"], 0: []}[len(held_out)]
    parts = {
        mine: Part(split, 0, sizes[split])
        for mine, split in zip(ours, held_out, strict=True)
    }
    carved = [s for s in ("inner_valid", "outer_valid", "test") if s not in parts]
    if num_per_valid < 1:
        raise ValueError(f"num_per_valid is at least 1, not {num_per_valid}")
    num_left = sizes["train"] - len(carved) * num_per_valid
    if num_left < 1:
        raise ValueError(
            f"{name} has {sizes['train']} training examples here, too few to take "
            f"{num_per_valid} for each of {', '.join(carved)} and to train on the "
            "others; ?num_per_valid=N in the name of a task takes N"
        )
    for index, split in enumerate(carved):
        first = index * num_per_valid
        parts[split] = Part("train", first, first + num_per_valid)
    parts["train"] = Part("train", sizes["train"] - num_left, sizes["train"])
    return parts


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
