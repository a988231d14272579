"""Results of runs on disk, so that each is computed once.

    <folder>/<task>/<any name>.npz      some runs of one task
    <folder>/fingerprints/<key>.npy     what takes long to find of a task's fingerprint

A result is found by a digest of everything that was asked for (`key`): task, optimizer
with all its numbers, horizon, seed, settings. Beside it lies a fingerprint of what the
names stood for (`fingerprints.py`); where that is another now, the result is not used.

Files appear complete or not at all and are never changed, so any number of processes can
share a folder, on a network too, and any of them can be killed.
"""

import dataclasses
import re
import uuid
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from meta_train.evaluate.contenders import Point, digest
from meta_train.evaluate.settings import Settings
from meta_train.evaluate.training import Losses
from meta_train.whole_file import whole_file

FORMAT = 2  # raised whenever the same request comes to mean another result


class Stored(NamedTuple):
    """A result and what the names in its key stood for, ``[numbers]``."""

    losses: Losses
    fingerprint: Float[np.ndarray, "numbers"]


def key(
    task: str, point: Point, num_steps: int, seed: int, settings: Settings
) -> str | None:
    """Under what a result is stored; None: it is not, as nobody knows what it is of."""
    if not task or point.content is None:
        return None
    request = [task, point.content, num_steps, seed, dataclasses.asdict(settings)]
    return digest([FORMAT, *request])


class Cache:
    """The results in a folder.

    Args:
      folder: made when missing; None keeps nothing.
      warn: told about files that cannot be read; what they held is computed again.
    """

    def __init__(
        self, folder: Path | None, warn: Callable[[str], None] = lambda text: None
    ):
        self._folder, self._warn = folder, warn

    def read(self, task: str) -> dict[str, list[Stored]]:
        """Everything stored on a task by key; several per key where code changed."""
        found: dict[str, list[Stored]] = {}
        if self._folder is None:
            return found
        for path in sorted(self._shelf(self._folder, task).glob("*.npz")):
            try:
                with path.open("rb") as raw, np.load(raw) as file:
                    columns = [file[name] for name in _COLUMNS]
            except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
                self._warn(f"{path} cannot be read and is passed over: {error}")
                continue
            for stored_key, losses, fingerprint in zip(*columns, strict=True):
                found.setdefault(str(stored_key), []).append(
                    Stored(losses, fingerprint)
                )
        return found

    def write(self, task: str, results: Mapping[str, Stored]) -> None:
        """Add results on a task; returns when they are on disk."""
        if self._folder is None or not results:
            return
        shelf = self._shelf(self._folder, task)
        shelf.mkdir(parents=True, exist_ok=True)
        path = shelf / f"{uuid.uuid4().hex}.npz"
        columns = (
            np.array(list(results)),
            np.stack([stored.losses for stored in results.values()]),
            np.stack([stored.fingerprint for stored in results.values()]),
        )
        with whole_file(path) as file:
            np.savez_compressed(file, **dict(zip(_COLUMNS, columns, strict=True)))

    def fingerprint(self, key: str) -> Float[np.ndarray, "numbers"] | None:
        """What was kept under a key, if anything was and can be read."""
        if self._folder is None:
            return None
        try:
            return np.load(self._fingerprints(self._folder, key))
        except (OSError, ValueError, EOFError):  # at worst, it is found again
            return None

    def keep_fingerprint(self, key: str, found: Float[np.ndarray, "numbers"]) -> None:
        """Keep numbers; the key says all that they depend on."""
        if self._folder is None:
            return
        path = self._fingerprints(self._folder, key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.save(file, found)

    def _fingerprints(self, folder: Path, key: str) -> Path:
        return folder / "fingerprints" / f"{key}.npy"

    def _shelf(self, folder: Path, task: str) -> Path:
        readable = re.sub(r"\W+", "-", task)[:60]
        return folder / f"{readable}-{digest([task])[:8]}"


_COLUMNS = ("keys", "losses", "fingerprints")
