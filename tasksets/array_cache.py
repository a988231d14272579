"""A cache of arrays on disk, for what takes long to decode.

    $LEARNED_OPT_CACHE, else $XDG_CACHE_HOME/learned-opt, else ~/.cache/learned-opt

An entry is a folder of .npy files, which load in no time because they are mapped into
memory. One whose name is an absolute path is there instead (see `exporting.py`). Files
are written under another name and then renamed, so that two processes may fill one entry
at once; what cannot be read is made again.
"""

import contextlib
import os
import uuid
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


def cache_folder() -> Path:
    """Where all is that can be made again: arrays, compiled programs, evaluations."""
    if folder := os.environ.get("LEARNED_OPT_CACHE"):
        return Path(folder).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "learned-opt"


# To be raised when the arrays of an entry change although its name does not.
_FORMAT = "format1"


def entry_folder(entry: str) -> Path:
    """Where the files of an entry are."""
    if Path(entry).is_absolute():
        return Path(entry) / _FORMAT
    return cache_folder() / "data" / _FORMAT / entry


def cached_arrays(
    entry: str, names: Sequence[str], make: Callable[[], Sequence[np.ndarray]]
) -> list[np.ndarray]:
    """The arrays called `names` of an entry, from `make` where they are not there yet.

    `entry` must say all that the arrays depend on.

    Raises:
      PermissionError: they are there, and this user may not read them.
    """
    folder = entry_folder(entry)
    paths = [folder / f"{name}.npy" for name in names]
    absent, damaged = (FileNotFoundError, NotADirectoryError), (ValueError, EOFError)
    with contextlib.suppress(*absent, *damaged):
        return [np.load(path, mmap_mode="r", allow_pickle=False) for path in paths]
    arrays = list(make())
    try:
        for path, array in zip(paths, arrays, strict=True):
            _write(path, array)
    except OSError as error:
        warnings.warn(
            f"Cannot keep decoded data in {folder}, so they will be decoded again next "
            f"time ({error}). LEARNED_OPT_CACHE names another folder.",
            stacklevel=2,
        )
    return arrays


def _write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not by `tempfile`, whose files nobody else may read; a folder may be shared.
    temporary = path.with_name(f".{path.stem}-{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            np.save(file, array, allow_pickle=False)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
