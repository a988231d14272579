"""Finds the tasks of the suite `small`: under 10 ms per gradient step on one core.

    python -m benchmarks.small_suite --csv runs/small.csv

Takes a gradient step on every task of `taskset-1k`, on data of the same shape where its
own are absent (`stand_ins.py`), and writes the names of the fast ones to
`tasksets/small.txt`. Stopped, it goes on from its table.
"""

import dataclasses
import os
from pathlib import Path

import tyro
from rich.progress import track

import tasksets
from benchmarks.stand_ins import stand_in
from meta_train.devices import use_compilation_cache
from meta_train.task_display import append_checked, check_all, read_checked

_MOST_SECONDS = 0.010
_LIST = Path(tasksets.__file__).with_name("small.txt")


@dataclasses.dataclass(frozen=True)
class SmallSuite:
    """Finds the tasks of the suite `small`."""

    csv: Path = Path("runs/small.csv")
    cache: Path = Path("runs/jax-cache")

    def __call__(self) -> None:
        use_compilation_cache(str(self.cache))
        names = {stand_in(name): name for name in tasksets.names("taskset-1k")}
        done = {found.name for found in read_checked(self.csv)}
        left = [name for name in names if name not in done]
        for found in track(check_all(left, os.cpu_count() or 1), total=len(left)):
            append_checked(self.csv, found)
        fast = {
            found.name
            for found in read_checked(self.csv)
            if found.status == "ok" and found.step_seconds < _MOST_SECONDS
        }
        _LIST.write_text("".join(f"{n}\n" for s, n in names.items() if s in fast))
        print(f"{len(fast)} of {len(names)} tasks are in {_LIST}")


if __name__ == "__main__":
    tyro.cli(SmallSuite)()
