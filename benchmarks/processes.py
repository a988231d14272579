"""Scaling with processes: inner steps per second of 1, 2, 4, ... of them, a core each.

    python -m benchmarks processes

Every process is pinned to a core of its own and has two groups, so that the work of each
stays the same; they meet in one all-reduce per outer step. Efficiency is the rate over
that of one process times their number. Groups are of one structure and compute-bound:
windows of 50 steps of 16 pairs, some tenths of a second. As many processes as there are cores
that this command may use (`taskset`), in powers of two.
"""

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

OUTER_STEPS = 40
_WARM = 10  # outer steps that do not count


def live() -> None:
    """A process of a run, as the command line says."""
    folder, cache, port, index, count, core = sys.argv[1:]
    os.sched_setaffinity(0, {int(core)})  # before XLA counts cores and starts threads
    import jax

    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_compilation_cache_dir", cache)
    from meta_train import Horizons, TaskMix, TrainConfig, processes, run

    number = int(count)
    if number > 1:
        processes.connect(f"127.0.0.1:{port}", number, int(index))
    config = TrainConfig(
        optimizer="scale_free",
        mix=TaskMix(task_options=("hidden=32&activation=relu",)),
        horizons=Horizons(window=50, min_horizon=50_000, max_horizon=50_000),
        groups_in_flight=2 * number,
        tasks_per_group=4,
        num_pairs=32 * number,
        outer_steps=OUTER_STEPS,
    )
    run.train(config, Path(folder))


def rate(cores: list[int], cache: Path) -> tuple[float, float]:
    """Inner steps per second of a process on each core, and the median step's seconds."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from benchmarks import processes; processes.live()"
    with tempfile.TemporaryDirectory() as folder:
        common = [Path(folder) / "run", cache, port]
        lives = [
            subprocess.Popen(
                [sys.executable, "-c", program]
                + [*map(str, [*common, index, len(cores), core])],
                cwd=Path(__file__).parents[1],
                stdout=subprocess.DEVNULL,
            )
            for index, core in enumerate(cores)
        ]
        while any(life.poll() is None for life in lives):
            if any(life.poll() for life in lives):
                for life in lives:
                    life.kill()
            time.sleep(0.1)
        if any(life.returncode for life in lives):
            sys.exit("a process failed; see above")
        from meta_train.run import read_metrics

        timing = read_metrics(Path(folder) / "run", "timing.jsonl")
    seconds = timing["seconds"][_WARM:]
    steps = timing["inner_steps_per_second"][_WARM:] * seconds
    return float(steps.sum() / seconds.sum()), float(np.median(seconds))


def main() -> None:
    """Measure 1, 2, 4, ... processes and print the table."""
    from rich.console import Console
    from rich.table import Table

    cores = sorted(os.sched_getaffinity(0))
    table = Table(title=f"{OUTER_STEPS - _WARM} outer steps, cores {cores}")
    for column in ("processes", "inner steps/s", "step s, median", "efficiency"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as cache:
        alone, count = 0.0, 1
        while count <= len(cores):
            found, seconds = rate(cores[:count], Path(cache))
            alone = alone or found
            efficiency = found / (count * alone)
            table.add_row(
                str(count),
                f"{found:,.0f}",
                f"{seconds:.2f}",
                f"{100 * efficiency:.0f} %",
            )
            count *= 2
    Console(width=100).print(table)
