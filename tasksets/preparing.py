"""Preparing data sets: tensorflow-datasets downloads one and stores its examples.

This is the one place that uses the network, and the one that needs tensorflow.
"""

import importlib
from pathlib import Path
from typing import Any

from tasksets import catalogue, prepared
from tasksets.names import UnknownNameError
from tasksets.prepared import Prepared


def prepare(name: str, folder: Path | None = None) -> Prepared:
    """Downloads and stores what `name` is made from, unless it is there already.

    `food101_32x32` is made from food101, and "lm1b/subwords8k" from lm1b, when they
    are loaded; so that is what is prepared. `folder` None: `prepared.data_folder()`.
    """
    folder = folder or prepared.data_folder()
    builder_name = catalogue.builder(name)
    if found := prepared.find(builder_name, folder):
        if found.exported_names is not None:
            raise ValueError(
                f"{found.folder} is an export, to which nothing can be added by preparing; "
                "name another folder by --data-dir."
            )
        return found
    if not prepared.is_known(name):
        known = {*catalogue.IMAGES, *catalogue.texts(), *prepared.builder_names()}
        raise UnknownNameError("data set", name, known)
    builder = _builder(builder_name, folder)
    try:
        builder.download_and_prepare()
    except OSError as error:
        raise OSError(f"{builder_name} could not be prepared: {error}") from error
    found = prepared.find(builder_name, folder)
    if found is None:
        raise OSError(f"{builder_name} was prepared but is not in {folder}")
    return found


def _builder(name: str, folder: Path) -> Any:
    tfds = prepared.import_tfds()
    try:
        import tensorflow  # noqa: F401 # pyright: ignore
    except ImportError as error:
        raise ImportError(
            "preparing a data set needs tensorflow, which reading it does not: "
            "pip install 'learned-opt[data,prepare]'. A folder prepared on another "
            "machine, in the format array_record, does as well: TFDS_DATA_DIR names it."
        ) from error
    if name.startswith("wikipedia/"):
        # Loaded, and thereby registered, only when asked for.
        importlib.import_module("tensorflow_datasets.text.wikipedia")
    return tfds.builder(name, data_dir=str(folder), file_format="array_record")
