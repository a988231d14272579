"""The logs of a run: one line per outer step, appended, cut back when a run goes on.

metrics.jsonl    what depends on the seed alone; the same with and without a stop
timing.jsonl     seconds, rates and waits, which never are the same
tensorboard/     both, where tensorboardX is installed
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Timing(NamedTuple):
    """How fast an outer step was.

    Attributes:
      seconds: since the step before.
      inner_steps_per_second: optimizer steps of all groups in that time.
      waited: seconds spent waiting for a group that was not prepared in time.
      replaced: groups that made room for the next.
    """

    seconds: float
    inner_steps_per_second: float
    waited: float
    replaced: int


class RunLog:
    """Appends to the logs in a run folder; a context, which closes them.

    Args:
      folder: the run folder.
      keep_steps: outer steps done; what was logged after them will happen again.
    """

    def __init__(self, folder: Path, keep_steps: int):
        for name in ("metrics.jsonl", "timing.jsonl"):
            cut_back(folder / name, keep_steps)
        self._metrics = (folder / "metrics.jsonl").open("a", buffering=1)
        self._timing = (folder / "timing.jsonl").open("a", buffering=1)
        self._board = None
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return  # part of the extra "plot"
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=keep_steps + 1, flush_secs=30
        )

    def write(self, step: int, metrics: dict[str, float], timing: Timing) -> None:
        """Log an outer step, counted from 1."""
        self._metrics.write(json.dumps({"step": step, **metrics}) + "\n")
        self._timing.write(json.dumps({"step": step, **timing._asdict()}) + "\n")
        if self._board is not None:
            for name, value in {**metrics, **timing._asdict()}.items():
                self._board.add_scalar(name, value, step)

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *error: object) -> None:
        for file in (self._metrics, self._timing, self._board):
            if file is not None:
                file.close()


def read_metrics(folder: Path, name: str = "metrics.jsonl") -> dict[str, np.ndarray]:
    """The columns of a run's log, each ``[steps]``."""
    rows = read_rows(folder / name)
    return {
        key: np.array([row[key] for row in rows]) for key in (rows[0] if rows else {})
    }


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, up to one that a kill cut short."""
    rows: list[dict[str, Any]] = []
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
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in kept))
    temporary.replace(path)
