"""Finds the tasks of the suite `small`: under 10 ms per gradient step on one core.

    python -m benchmarks.small_suite --csv runs/small.csv

Takes a gradient step on every task of `taskset-1k`, on data of the same shape where its
own are absent (`stand_ins.py`), and writes the names of the fast ones to
`tasksets/small.txt`. Not tried are tasks that their matrix products settle: above 600
MFLOP none of 16 measured ones was fast, and below 100 MFLOP all of 46 made of dense
layers were, by a factor of two. Stopped, it goes on from its table.
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
_FAST_FLOPS, _SLOW_FLOPS = 1e8, 6e8
_DENSE = ("mlp_family", "mlp_ae_family", "mlp_vae_family", "maf_family", "nvp_family")
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
        left = {n: _flops(n) for n in track(list(names), "counting") if n not in done}
        surely = {n for n, flop in left.items() if _is_dense(n) and flop < _FAST_FLOPS}
        tried = [n for n, f in left.items() if n not in surely and f < _SLOW_FLOPS]
        for found in track(
            check_all(tried, os.cpu_count() or 1), "measuring", total=len(tried)
        ):
            append_checked(self.csv, found)
        fast = {
            found.name
            for found in read_checked(self.csv)
            if found.status == "ok" and found.step_seconds < _MOST_SECONDS
        }
        fast = [name for key, name in names.items() if key in fast | surely]
        _LIST.write_text("".join(f"{name}\n" for name in fast))
        print(f"{len(fast)} of {len(names)} tasks are in {_LIST}")


def _is_dense(name: str) -> bool:
    return name.split("/")[0] in _DENSE


def _flops(name: str) -> int:
    return tasksets.gradient_operations(tasksets.get(name)).products


if __name__ == "__main__":
    tyro.cli(SmallSuite)()
