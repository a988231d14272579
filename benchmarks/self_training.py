"""Who trains an optimizer best: Adam at its best rate, a trained optimizer, or itself?

    python -m benchmarks self_training

One rule is meta-trained on small networks with the same tasks, seeds and outer steps
under each outer optimizer. Printed, as mean over seeds and its range: the score of theta on
held-out tasks (`meta_train.selection`: 0 is the lowest loss of tuned Adam, 1 the initial
loss), and the outer loss over the last tenth of the run.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np

OUTER_STEPS, BOOTSTRAP_EVERY, SEEDS = 400, 100, 3
ADAM_RATES = (1e-3, 3e-3, 1e-2, 3e-2)


def main() -> None:
    """Train in temporary folders and print the table."""
    from meta_train.devices import use_all_cores, use_compilation_cache

    use_all_cores()
    from rich.console import Console
    from rich.progress import track
    from rich.table import Table

    console = Console()
    results: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        use_compilation_cache(f"{folder}/cache")
        runs = [(name, seed) for name in _configs() for seed in range(SEEDS)]
        for name, seed in track(runs, "training", console=console):
            config = dataclasses.replace(_configs()[name], seed=seed)
            found = _train(config, Path(folder) / f"{name}-{seed}")
            results.setdefault(name, []).append(found)
    table = Table(title=f"{OUTER_STEPS} outer steps, {SEEDS} seeds")
    for column in ("outer optimizer", "held-out score", "outer loss"):
        table.add_column(column)
    for name, found in results.items():
        columns = np.array(found).T
        cells = [f"{x.mean():.4f} ({x.min():.4f} to {x.max():.4f})" for x in columns]
        table.add_row(name, *cells)
    console.print(table)


def _configs():
    """The runs by outer optimizer."""
    from meta_train import Horizons, Proxy, TaskMix, TrainConfig

    common = TrainConfig(
        mix=TaskMix(task_options=("hidden=20-20&activation=tanh",)),
        horizons=Horizons(window=50, min_horizon=50, max_horizon=400),
        num_tasks=64,
        num_pairs=16,
        outer_steps=OUTER_STEPS,
        proxy=Proxy(proxy_every=OUTER_STEPS, proxy_horizon=400),
    )
    rates = {
        f"adam, rate {rate:g}": dataclasses.replace(common, outer_learning_rate=rate)
        for rate in ADAM_RATES
    }
    itself = dataclasses.replace(
        common, outer_optimizer="self", bootstrap_every=BOOTSTRAP_EVERY
    )
    shipped = dataclasses.replace(common, outer_optimizer="scale_free")
    return {
        **rates,
        f"itself, every {BOOTSTRAP_EVERY}": itself,
        "scale_free as it ships": shipped,
    }


def _train(config, folder: Path) -> tuple[float, float]:
    """Score on held-out tasks, and outer loss at the end."""
    from meta_train import run, selection

    run.train(config, folder)
    losses = run.read_metrics(folder)["loss"]
    last = selection.read_evaluations(folder)[-1]
    return last["score"], float(losses[-len(losses) // 10 :].mean())
