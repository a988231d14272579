"""The logs of a run: one line per outer step, appended, cut back when a run goes on.

metrics.jsonl    what depends on the seed alone; the same with and without a stop; NaN
                 (which JSON proper does not have) where all groups of a step were lost
timing.jsonl     seconds, rates and waits, which never are the same
tensorboard/     both, where tensorboardX is installed
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meta_train.tensorboard import Board
from meta_train.whole_file import whole_file


class Timing(NamedTuple):
    """How fast an outer step was, and how the disk did.

    Attributes:
      seconds: since the step before.
      inner_steps_per_second: optimizer steps of all groups in that time.
      waited: seconds spent waiting for a group that was not prepared in time.
      replaced: groups that made room for the next.
      failed_writes: checkpoints that could not be written since this process began.
    """

    seconds: float
    inner_steps_per_second: float
    waited: float
    replaced: int
    failed_writes: int


class Lines:
    """A log of one line per row; a context, which closes it.

    A full disk is no reason to end a run: what it does not take is kept, and written with
    a later line.

    Args:
      path: the file; appended to.
      keep_steps: outer steps done; what was logged after them will happen again.
      warn: told once when lines cannot be written, and how many are lost in the end.
    """

    def __init__(self, path: Path, keep_steps: int, warn: Callable[[str], None]):
        cut_back(path, keep_steps)
        self._path, self._warn = path, warn
        self._file = path.open("ab", buffering=0)
        self._unwritten = b""
        self._failing = False

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        self._unwritten += (json.dumps(row) + "\n").encode()
        try:
            self._write()
            self._failing = False
        except OSError as error:
            if not self._failing:
                self._warn(f"{error}: lines of {self._path} are kept until they fit.")
            self._failing = True

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        try:
            self._write()
        except OSError as full:
            lost = self._unwritten.count(b"\n")
            self._warn(f"{full}: the last {lost} lines of {self._path} are lost.")
        self._file.close()

    def _write(self) -> None:
        while self._unwritten:
            taken = self._file.write(self._unwritten)
            self._unwritten = self._unwritten[taken:]


class RunLog:
    """Appends to the logs in a run folder; a context, which closes them.

    Args:
      folder: the run folder.
      keep_steps: outer steps done; what was logged after them will happen again.
      warn: told what cannot be written.
    """

    def __init__(self, folder: Path, keep_steps: int, warn: Callable[[str], None]):
        self._metrics = Lines(folder / "metrics.jsonl", keep_steps, warn)
        self._timing = Lines(folder / "timing.jsonl", keep_steps, warn)
        self._warn = warn
        try:
            self._board = Board(folder / "tensorboard", keep_steps)
        except ImportError:
            self._board = None  # part of the extra "plot"

    def write(self, step: int, metrics: dict[str, float], timing: Timing) -> None:
        """Log an outer step, counted from 1."""
        self._metrics.add({"step": step, **metrics})
        self._timing.add({"step": step, **timing._asdict()})
        if self._board is not None:
            try:
                self._board.write(step, {**metrics, **timing._asdict()})
            except OSError as error:
                self._warn(f"{error}: tensorboard gets no more of this run.")
                self._board = None

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._metrics.__exit__(*error)
        self._timing.__exit__(*error)
        if self._board is not None:
            try:
                self._board.close()
            except OSError as full:
                self._warn(f"{full}: tensorboard lacks the end of this run.")


def read_metrics(folder: Path, name: str = "metrics.jsonl") -> dict[str, np.ndarray]:
    """The columns of a run's log, each ``[steps]``; NaN where a step has no such number."""
    rows = read_rows(folder / name)
    names = dict.fromkeys(key for row in rows for key in row)
    return {key: np.array([row.get(key, np.nan) for row in rows]) for key in names}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, up to one that a kill cut short; none before it begins."""
    rows: list[dict[str, Any]] = []
    if not path.exists():
        return rows
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def cut_back(path: Path, keep_steps: int) -> None:
    """Leave in a log what happened in so many outer steps."""
    if not path.exists():
        return
    kept = [row for row in read_rows(path) if row["step"] <= keep_steps]
    with whole_file(path) as file:
        file.writelines(f"{json.dumps(row)}\n".encode() for row in kept)
