"""The logs of a run: one line per outer step, appended, cut back when a run goes on.

metrics.jsonl    what depends on the seed alone; the same with and without a stop
timing.jsonl     seconds, rates and waits, which never are the same
tensorboard/     both, where tensorboardX is installed
"""

import json
from pathlib import Path
from typing import NamedTuple

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
            _truncate(folder / name, keep_steps)
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
    """The columns of a run's log, each ``[steps]``; NaN where a step has no such number."""
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    names = dict.fromkeys(key for row in rows for key in row)
    return {key: np.array([row.get(key, np.nan) for row in rows]) for key in names}


def _truncate(path: Path, keep_steps: int) -> None:
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= keep_steps:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            break  # the line a kill cut short
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)
