"""A run over tasks of ever new structures: does it stall, does its memory grow?

    python -m benchmarks changing_groups
    python -m benchmarks.changing_groups --min-horizon 8000

Adam is meta-trained on the bundled networks and the quadratics, whose every draw may be
another structure, for some minutes. Printed by quarters of the run: groups replaced,
seconds spent waiting for one, inner steps per second, the median and the 99th percentile
of a step's seconds, and resident memory. Compiled programs start from nothing.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import tyro

OUTER_STEPS = 1200


@dataclasses.dataclass(frozen=True)
class ChangingGroups:
    """Trains on groups that change; prints a table."""

    min_horizon: int = 2000
    """Inner steps of the shortest episode; the longest is five times as long."""

    def __call__(self) -> None:
        _run(self.min_horizon)


def main() -> None:
    """The table, with episodes as short as by default."""
    ChangingGroups()()


def _run(min_horizon: int) -> None:
    from meta_train.devices import use_all_cores

    use_all_cores()
    from rich.console import Console
    from rich.table import Table

    from meta_train import Horizons, TaskMix, TrainConfig, run

    config = TrainConfig(
        optimizer="adam",
        mix=TaskMix(suites=("digits", "quadratic"), max_megaflops=2.0),
        horizons=Horizons(
            window=50, min_horizon=min_horizon, max_horizon=5 * min_horizon
        ),
        groups_in_flight=4,
        tasks_per_group=4,
        num_pairs=16,
        outer_steps=OUTER_STEPS,
    )
    memory = []
    with tempfile.TemporaryDirectory() as folder:
        on_progress = lambda progress: memory.append(_resident_gib())
        run.train(config, Path(folder) / "run", on_progress=on_progress)
        timing = run.read_metrics(Path(folder) / "run", "timing.jsonl")
    title = f"{config.groups_in_flight} groups in flight, {OUTER_STEPS} outer steps"
    table = Table(title=title)
    for column in (
        "outer steps",
        "replaced",
        "waited s",
        "inner steps/s",
        "step s, median",
        "99 %",
        "GiB",
    ):
        table.add_column(column, justify="right")
    for part in np.array_split(np.arange(len(memory)), 4):
        seconds = timing["seconds"][part]
        inner_steps = timing["inner_steps_per_second"][part] * seconds
        table.add_row(
            f"{part[0] + 1}-{part[-1] + 1}",
            f"{timing['replaced'][part].sum():.0f}",
            f"{timing['waited'][part].sum():.1f}",
            f"{inner_steps.sum() / seconds.sum():,.0f}",
            f"{np.median(seconds):.3f}",
            f"{np.quantile(seconds, 0.99):.3f}",
            f"{memory[part[-1]]:.2f}",
        )
    Console(width=100).print(table)


def _resident_gib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**30


if __name__ == "__main__":
    tyro.cli(ChangingGroups)()
