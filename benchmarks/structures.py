"""Seconds until a structure runs that has not been seen: building, tracing, compiling.

    python -m benchmarks structures
    python -m benchmarks.structures --optimizers scale_free hyper_v2 --suite bundled

As a run does it: a group of tasks of one structure is sampled and stacked, its program is
traced and compiled for both halves of a window, and its lanes are laid out. Each row is a
process with an empty compilation cache and then another with the cache it left, as when
a run is resumed. In both, the first structure also pays for what a process does but once;
after it the median of the others.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time

import tyro
from rich.console import Console
from rich.table import Table


@dataclasses.dataclass(frozen=True)
class Measure:
    """Prepares groups one after the other; prints a table."""

    optimizers: tuple[str, ...] = ("adam", "scale_free", "adafactor_mlp")
    suite: str = "small_mlp"
    count: int = 6
    """Structures, at least 2."""

    def __call__(self) -> None:
        table = Table(title=f"seconds until a structure of {self.suite} is ready")
        columns = ("first", "next", "first, cached", "next, cached")
        for column in ("optimizer", *columns):
            table.add_column(column, justify="right")
        for name in self.optimizers:
            with tempfile.TemporaryDirectory() as cache:
                runs = [self._run(name, cache) for _ in range(2)]
            cells = [
                x for first, *rest in runs for x in (first, statistics.median(rest))
            ]
            table.add_row(name, *(f"{x:.2f}" for x in cells))
        Console(width=100).print(table)

    def _run(self, optimizer: str, cache: str) -> list[float]:
        request = json.dumps([optimizer, self.suite, self.count, cache])
        command = [sys.executable, "-m", "benchmarks.structures", "one", request]
        return json.loads(subprocess.check_output(command, text=True).splitlines()[-1])


def seconds(optimizer: str, suite: str, count: int, cache: str) -> list[float]:
    """Of each structure, in this process; the compilation cache is in a folder."""
    from meta_train.devices import lane_mesh, use_all_cores, use_compilation_cache

    use_all_cores()
    use_compilation_cache(cache)
    import functools

    import jax

    from meta_train import TaskMix, TrainConfig, outer
    from meta_train.preparation import Preparation, View

    config = TrainConfig(
        optimizer=optimizer, mix=TaskMix(suites=(suite,)), num_tasks=4 * count
    )
    mesh, groups = lane_mesh(), config.groups()
    state = outer.start_without_lanes(
        config.initial_theta(), config.outer(), jax.random.key(0), mesh, config.safety
    )
    preparation = Preparation(
        groups,
        functools.partial(config.estimator_of, mesh=mesh),
        View.of(state),
        mesh,
        kept_programs=count,
    )
    taken = []
    for slot in range(min(count, groups.slots)):
        began = time.perf_counter()
        preparation.get(groups.at(slot, 0))
        taken.append(time.perf_counter() - began)
    preparation.close()
    return taken


def main() -> None:
    """Small optimizers on small networks."""
    Measure()()


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        print(json.dumps(seconds(*json.loads(sys.argv[2]))))
    else:
        tyro.cli(Measure)()
