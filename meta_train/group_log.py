"""The log of groups: how each did, on which tasks, written when it has ended.

groups.jsonl      the groups of the first process
groups-1.jsonl    those of the next one, and so on; each writes only its own

A line has ``step`` (outer steps done when it ended), ``slot``, ``generation``, ``born``
(outer steps done when it began), ``windows`` (the length of its episodes; null where each
draws its own), ``loss`` (mean outer loss; NaN where all estimates were lost), ``lost``
(estimates that were) and ``tasks`` (names). A group that stays for good has a line every
`CHAPTER` outer steps, and all groups end with the run. All of it depends on the seed alone.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from meta_train.engine import Part
from meta_train.run_log import Lines, cut_back, read_rows

CHAPTER = 100  # outer steps between two lines of a group that stays


class Total(NamedTuple):
    """Of a group so far: outer steps, how many of them counted, the sum of their losses."""

    steps: int = 0
    counted: int = 0
    loss: float = 0.0


class GroupLog:
    """Appends to a process's log of groups; a context, which closes it.

    Args:
      folder: the run folder.
      process: index of this process, from 0.
      keep_steps: outer steps done; what was logged after them will happen again.
      last_step: outer steps of the whole run.
      totals: of the groups in flight by slot, where the run goes on.
      warn: told what cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        process: int,
        keep_steps: int,
        last_step: int,
        totals: dict[int, Total],
        warn: Callable[[str], None] = print,
    ):
        self.totals = dict(totals)
        self._last_step = last_step
        self._lines = Lines(_path(folder, process), keep_steps, warn)

    def add(self, step: int, parts: Iterable[Part]) -> None:
        """Count an outer step, from 1; write about the groups that end with it."""
        for group, tasks, loss, counted in parts:
            so_far = self.totals.get(group.slot, Total())
            counts = bool(counted > 0)
            total = Total(
                so_far.steps + 1,
                so_far.counted + counts,
                so_far.loss + (float(loss) / float(counted) if counts else 0.0),
            )
            self.totals[group.slot] = total
            stays = group.ends is None
            ends = step % CHAPTER == 0 if stays else step == group.ends
            if not ends and step != self._last_step:
                continue
            del self.totals[group.slot]
            line = {
                "step": step,
                "slot": group.slot,
                "generation": group.generation,
                "born": step - total.steps,
                "windows": group.windows,
                "loss": total.loss / total.counted if total.counted else np.nan,
                "lost": total.steps - total.counted,
                "tasks": tasks,
            }
            self._lines.add(line)

    def __enter__(self) -> "GroupLog":
        return self

    def __exit__(self, *error: object) -> None:
        self._lines.__exit__(*error)


def forget_lost_processes(folder: Path, processes: int, keep_steps: int) -> None:
    """Cut back the logs of processes that a run no longer has."""
    for path in folder.glob("groups-*.jsonl"):
        if int(path.stem.partition("-")[2]) >= processes:
            cut_back(path, keep_steps)


def read_groups(folder: Path) -> list[dict[str, Any]]:
    """The lines of all processes, in the order in which groups ended."""
    rows = [row for path in folder.glob("groups*.jsonl") for row in read_rows(path)]
    return sorted(rows, key=lambda row: (row["step"], row["slot"]))


def _path(folder: Path, process: int) -> Path:
    return folder / ("groups.jsonl" if process == 0 else f"groups-{process}.jsonl")
