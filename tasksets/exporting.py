"""Exporting data sets to machines without network and without tensorflow-datasets.

    FOLDER/mnist/3.0.1/dataset_info.json            what prepared.py finds a set by
    FOLDER/mnist/3.0.1/decoded/format1/*.npy        its arrays, as in array_cache.py
    FOLDER/mnist/3.0.1/decoded/names.json           the data sets that they are

Where TFDS_DATA_DIR names such a folder, data sets are read from it with numpy alone. It
may be copied, and read-only.
"""

import json
import shutil
from pathlib import Path

from tasksets import catalogue, corpora, prepared
from tasksets.array_cache import entry_folder
from tasksets.data import DataNotFoundError


def export(name: str, folder: Path) -> Path:
    """Adds a data set that is prepared here; the folder of its version in `folder`.

    `name` is what tasks call it, with a size or an encoding. What was decoded before of
    the same prepared set, in other sizes, comes along.

    Raises:
      DataNotFoundError: it is not prepared here.
      ValueError: `folder` is where the prepared sets are themselves.
      OSError: it cannot be written, or not be kept in the cache from where it is copied.
    """
    if folder.resolve() == prepared.data_folder().resolve():
        raise ValueError(f"{folder} has the prepared sets; export to another folder.")
    found = prepared.serving(name)
    if found is None:
        raise DataNotFoundError(name)
    if catalogue.is_text(name):
        corpora.read(catalogue.read_text_name(name))
    else:
        prepared.read_images(found, catalogue.size(name))
    source = entry_folder(found.entry)
    if not source.is_dir():
        raise OSError(f"{name} was decoded, but could not be kept in {source}")
    target = folder / found.folder.relative_to(prepared.data_folder())
    exported = prepared.Prepared(target)
    names = {*(exported.exported_names or ()), catalogue.full_name(name)}
    exported.exported.mkdir(parents=True, exist_ok=True)
    arrays = entry_folder(exported.entry)
    shutil.copytree(source, arrays, dirs_exist_ok=True)
    _write(exported.exported / "names.json", json.dumps(sorted(names)))
    # Last, since a set counts as there when it has this file.
    _write(target / "dataset_info.json", json.dumps(found.description))
    return target


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)
