"""Data sets that tensorflow-datasets has prepared on this machine.

    $TFDS_DATA_DIR/name[/config]/version/,    else ~/tensorflow_datasets/...

Only what is there is read: nothing here downloads, nothing needs tensorflow, and the
folder may be read-only. Any version will do, the newest first. What is decoded goes to
the cache (see `array_cache.py`).

Examples keep the order in which they are stored, which preparing shuffles. Where a set
is stored unshuffled, perhaps by class, a fixed permutation shuffles it here.
"""

import functools
import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from tasksets import catalogue
from tasksets.array_cache import cached_arrays
from tasksets.resized import resize

_SPLITS = ("train", "validation", "test")
_BLOCK = 500  # records that are read at once


class DamagedDataError(OSError):
    """A prepared data set that cannot be read."""


class StoredImages(NamedTuple):
    """One split as it is stored."""

    inputs: UInt8[np.ndarray, "examples height width channels"]
    labels: Int[np.ndarray, "examples"]


@dataclass(frozen=True)
class Prepared:
    """A data set in the format array_record, by the folder of its version."""

    folder: Path

    @functools.cached_property
    def description(self) -> dict[str, Any]:
        """What its dataset_info.json says."""
        return json.loads((self.folder / "dataset_info.json").read_text())

    @property
    def sizes(self) -> dict[str, int]:
        """The number of examples of each split that is train, validation or test."""
        sizes = {
            split["name"]: sum(map(int, split.get("shardLengths", ())))
            for split in self.description.get("splits", ())
        }
        return {split: sizes[split] for split in _SPLITS if sizes.get(split)}

    @property
    def fingerprint(self) -> str:
        """Differs between different contents, and between places."""
        text = f"{self.folder.resolve()} {json.dumps(self.description, sort_keys=True)}"
        return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def exported(self) -> Path:
        """Where its arrays are, if it was exported (see `exporting.py`)."""
        return self.folder / "decoded"

    @property
    def exported_names(self) -> list[str] | None:
        """Which data sets can be made from it; None: it is here as it was prepared."""
        path = self.exported / "names.json"
        return json.loads(path.read_text()) if path.is_file() else None

    @property
    def entry(self) -> str:
        """Where in the cache this set goes."""
        if self.exported.is_dir():
            return str(self.exported.resolve())
        name, version = self.description["name"], self.folder.name
        config = self.description.get("configName", "")
        return (
            f"data/{'-'.join(filter(None, (name, config, version)))}-{self.fingerprint}"
        )

    @functools.cached_property
    def builder(self) -> Any:
        """The reader of tensorflow-datasets."""
        if self.exported_names is not None:
            raise DamagedDataError(
                f"{self.folder} was exported, but arrays are missing or damaged, or of "
                "another version of this package. Export it once more: "
                "learned-opt data export NAME --folder FOLDER"
            )
        file_format = self.description.get("fileFormat", "tfrecord")
        if file_format != "array_record":
            raise DamagedDataError(
                f"{self.folder} holds {file_format} files; only array_record can be "
                "read without tensorflow. Prepare it once more in another folder: "
                "learned-opt data prepare NAME --data-dir FOLDER"
            )
        return import_tfds().builder_from_directory(str(self.folder))

    @property
    def features(self) -> dict[str, Any]:
        """What an example consists of, by name."""
        return dict(self.builder.info.features.items())

    def records(self, split: str) -> Iterator[Any]:
        """The examples of a split, read in blocks."""
        try:
            source = self.builder.as_data_source(split=split)
            for first in range(0, len(source), _BLOCK):
                last = min(first + _BLOCK, len(source))
                yield from source.__getitems__(range(first, last))
        except (RuntimeError, OSError, ValueError) as error:
            raise DamagedDataError(
                f"cannot read the split {split!r} in {self.folder}: {error}. If files "
                "are missing or cut short, delete the folder and prepare the set again."
            ) from error

    def order(self, num_examples: int) -> Int[np.ndarray, "examples"] | None:
        """The permutation for a set that is stored unshuffled."""
        if not self.builder.info.disable_shuffling:
            return None
        return np.random.RandomState(0).permutation(num_examples)


def data_folder() -> Path:
    """Where tensorflow-datasets puts what it prepares; the environment is read now."""
    folder = os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
    return Path(folder).expanduser()


def find(name: str, folder: Path | None = None) -> Prepared | None:
    """The newest version of a set that is here, by its name in tensorflow-datasets.

    Without a config in the name, plain text, which older versions of lm1b have beside
    encoded ones, or the only config that is here. `folder` is looked in instead of
    `data_folder()`.
    """
    root = (folder or data_folder()) / name
    if _is_complete(root):
        return Prepared(root)
    if newest := _newest(root):
        return Prepared(newest)
    if not root.is_dir():
        return None
    configs = {path.name: _newest(path) for path in sorted(root.iterdir())}
    found = {config: path for config, path in configs.items() if path is not None}
    if "plain_text" in found:
        return Prepared(found["plain_text"])
    if len(found) > 1:
        raise ValueError(
            f"{name!r} is here in several variants, so say which: "
            + ", ".join(f"{name}/{config}" for config in found)
        )
    return next((Prepared(path) for path in found.values()), None)


def serving(name: str) -> Prepared | None:
    """What a data set is made from, by the name that tasks call it; None: not here."""
    found = find(catalogue.builder(name))
    if found is None or found.exported_names is None:
        return found
    return found if catalogue.full_name(name) in found.exported_names else None


def _newest(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    number = lambda path: tuple(map(int, path.name.split(".")))
    versions = [p for p in folder.iterdir() if re.fullmatch(r"\d+\.\d+\.\d+", p.name)]
    return max(filter(_is_complete, versions), key=number, default=None)


def _is_complete(folder: Path) -> bool:
    # Preparing writes this file last; a failed download leaves a folder without it.
    return (folder / "dataset_info.json").is_file()


def import_tfds() -> Any:
    """tensorflow-datasets, which is an optional extra and takes half a second."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import array_record  # noqa: F401 # pyright: ignore
            import tensorflow_datasets as tfds  # pyright: ignore
    except ImportError as error:
        raise ImportError(
            f"reading prepared data sets needs packages that are not here ({error}): "
            "pip install 'learned-opt[data]'"
        ) from error
    return tfds


@functools.cache
def builder_names() -> frozenset[str]:
    """The names that tensorflow-datasets knows; none where it is not installed."""
    try:
        tfds = import_tfds()
    except ImportError:
        return frozenset()
    # It loads some of its modules only when asked, and then registers their sets.
    return frozenset(tfds.list_builders(with_community_datasets=False)) | {"wikipedia"}


def others() -> list[str]:
    """What is prepared here and not in the catalogue."""
    folder = data_folder()
    if not folder.is_dir():
        return []
    listed = {*catalogue.IMAGES, *catalogue.CORPORA}
    builders = {catalogue.builder(name).partition("/")[0] for name in listed}
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    found = []
    for name in names:
        if name not in builders:
            configs = [f"{name}/{path.name}" for path in (folder / name).iterdir()]
            candidates = [name] if _newest(folder / name) else sorted(configs)
            found += [each for each in candidates if _newest(folder / each)]
    return found


def is_known(name: str) -> bool:
    """Whether this is a set that tasks name, or one of tensorflow-datasets."""
    named = {*catalogue.IMAGES, *catalogue.CORPORA}
    if {name, catalogue.read_text_name(name).corpus} & named:
        return True
    return catalogue.builder(name).partition("/")[0] in builder_names()


def read_images(
    found: Prepared, size: tuple[int, int] | None
) -> tuple[dict[str, StoredImages], int]:
    """Images and labels of every split, resized where a size is given, and classes.

    What is the image and what the label is what the set itself calls its input and
    target; of coil100 that is the angle of view, as in TaskSet.
    """
    if "train" not in found.sizes:
        raise ValueError(f"{found.folder} has no training split: {found.sizes}")
    splits = {}
    for split in found.sizes:
        prefix = f"{split}-{size[0]}x{size[1]}" if size else split
        names = (f"{prefix}-inputs", f"{prefix}-labels")
        decode = functools.partial(_decode, found, split, size)
        splits[split] = StoredImages(*cached_arrays(found.entry, names, decode))
    count_classes = lambda: [np.array([_keys(found)[2]])]
    (classes,) = cached_arrays(found.entry, ["classes"], count_classes)
    return splits, int(classes[0])


def _decode(found: Prepared, split: str, size: tuple[int, int] | None) -> StoredImages:
    image_key, label_key, _ = _keys(found)
    name, feature = found.description["name"], found.features[image_key]
    if feature.np_dtype != np.uint8:
        raise ValueError(f"{name!r} does not store 8-bit images")
    if size is None and None in feature.shape:
        raise ValueError(
            f"the images of {name!r} are not all of one size; say in the name which "
            f"size they shall have: {name}_32x32"
        )
    num_examples = found.sizes[split]
    shape = (*(size or feature.shape[:2]), feature.shape[2])
    inputs = np.empty((num_examples, *shape), np.uint8)
    labels = np.empty(num_examples, np.int32)
    for index, record in enumerate(found.records(split)):
        image = record[image_key]
        inputs[index] = image if size is None else resize(image, size)
        labels[index] = record[label_key]
    order = found.order(num_examples)
    if order is not None:
        inputs, labels = inputs[order], labels[order]
    return StoredImages(inputs, labels)


def _keys(found: Prepared) -> tuple[str, str, int]:
    """Which feature is the image, which the label, and the number of classes."""
    image_key, label_key = found.builder.info.supervised_keys or ("image", "label")
    is_image = type(found.features.get(image_key)).__name__ == "Image"
    num_classes = getattr(found.features.get(label_key), "num_classes", None)
    if not is_image or num_classes is None:
        raise ValueError(
            f"{found.description['name']!r} is no set of images with one label each; "
            f"its features are {', '.join(found.features)}"
        )
    return image_key, label_key, num_classes
