"""Inner steps per second of PES where all lanes run at once, and where they take turns.

    python -m benchmarks turns
    python -m benchmarks.turns --hidden 128
    python -m benchmarks.turns --task nvp_family/seed126@digits --optimizers scale_free

Every number of pairs at once is measured in the same process, one after the other, three
times; the medians are printed, and what a run would choose (`meta_train.turns`) is marked.
"""

import dataclasses
import statistics
import time
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.meta_training import TASK, Case, problem

SECONDS, ROUNDS = 1.0, 3
WINDOW = 20


@dataclasses.dataclass(frozen=True)
class Measure:
    """Measures turns of different lengths; prints a table."""

    optimizers: tuple[str, ...] = (
        "scale_free",
        "adafactor_mlp",
        "per_parameter_mlp",
        "hierarchical",
    )
    hidden: int = 32
    """Units of the network 64-hidden-10, where no task is named."""
    task: str = ""
    num_pairs: int = 32
    """On all devices together."""
    at_once: tuple[int, ...] = (1, 2, 4, 8)
    """Pairs that a device runs at once, beside all."""

    def __call__(self) -> None:
        from meta_train.devices import use_all_cores

        use_all_cores()
        task = self.task or TASK.replace("hidden=32", f"hidden={self.hidden}")
        table = Table(title=f"inner steps per second, {task}, by pairs at once")
        for column in ("optimizer", "all", *map(str, self.at_once)):
            table.add_column(column, justify="right")
        for name in self.optimizers:
            table.add_row(name, *self._row(name, task))
        Console(width=100).print(table)

    def _row(self, name: str, task: str) -> list[str]:
        import jax
        import optax

        from meta_train import outer
        from meta_train.devices import lane_mesh
        from meta_train.turns import pairs_at_once

        mesh, tx = lane_mesh(), optax.adam(1e-3)
        devices = 1 if mesh is None else mesh.size
        lengths = (None, *self.at_once)
        runs = []
        for length in lengths:
            case = Case(name, self.num_pairs, WINDOW, devices, lane_batch=length)
            pes, optimizer = problem(case, mesh, task)
            theta = jax.jit(optimizer.init)(jax.random.key(0))
            state = outer.start((pes,), theta, tx, jax.random.key(1))
            runs.append([pes, outer.make_step(tx), state])
            _rate(runs[-1], 0.0)  # compiles
        rates = [[_rate(run, SECONDS) for run in runs] for _ in range(ROUNDS)]
        chosen = pairs_at_once(runs[0][0].system, self.num_pairs // devices)
        return [
            f"{'*' if length == chosen else ''}{statistics.median(x):,.0f}"
            for length, x in zip(lengths, zip(*rates, strict=True), strict=True)
        ]


def _rate(run: list[Any], seconds: float) -> float:
    """Inner steps per second of a run, which goes on for so long, or a step."""
    pes, step, state = run
    began, steps = time.perf_counter(), 0
    while steps == 0 or time.perf_counter() - began < seconds:
        state, metrics = step((pes,), state)
        float(metrics["loss"])
        steps += 1
    run[2] = state
    return steps * pes.inner_steps() / (time.perf_counter() - began)


def main() -> None:
    """Four optimizers on a network of 2,410 parameters."""
    Measure()()


if __name__ == "__main__":
    tyro.cli(Measure)()
