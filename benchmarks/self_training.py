"""Who trains an optimizer best: Adam at its best rate, a trained optimizer, or itself?

    python -m benchmarks self_training
    python -m benchmarks.self_training --outer-steps 2000 --bootstrap-every 200

One rule is meta-trained on small networks with the same tasks, seeds and outer steps
under each outer optimizer. Printed, as mean over seeds and its range: the score of theta on
held-out tasks (`meta_train.selection`: 0 is the lowest loss of tuned Adam, 1 the initial
loss), and the outer loss over the last tenth of the run.
"""

import dataclasses
import tempfile
from pathlib import Path

import numpy as np
import tyro

ADAM_RATES = (1e-3, 3e-3, 1e-2, 3e-2)


@dataclasses.dataclass(frozen=True)
class Measure:
    """Trains in temporary folders; prints a table."""

    outer_steps: int = 400
    bootstrap_every: int = 100
    """Outer steps after which the rule trains itself, and is exchanged for its latest."""
    seeds: int = 3

    def __call__(self) -> None:
        from meta_train.devices import use_all_cores, use_compilation_cache

        use_all_cores()
        from rich.console import Console
        from rich.progress import track
        from rich.table import Table

        console = Console()
        results: dict[str, list[tuple[float, float]]] = {}
        configs = _configs(self.outer_steps, self.bootstrap_every)
        with tempfile.TemporaryDirectory() as folder:
            use_compilation_cache(f"{folder}/cache")
            runs = [(name, seed) for name in configs for seed in range(self.seeds)]
            for name, seed in track(runs, "training", console=console):
                config = dataclasses.replace(configs[name], seed=seed)
                found = _train(config, Path(folder) / f"{name}-{seed}")
                results.setdefault(name, []).append(found)
        table = Table(title=f"{self.outer_steps} outer steps, {self.seeds} seeds")
        for column in ("outer optimizer", "held-out score", "outer loss"):
            table.add_column(column)
        for name, found in results.items():
            columns = np.array(found).T
            cells = [
                f"{x.mean():.4f} ({x.min():.4f} to {x.max():.4f})" for x in columns
            ]
            table.add_row(name, *cells)
        console.print(table)


def _configs(outer_steps: int, bootstrap_every: int):
    """The runs by outer optimizer."""
    from meta_train import Horizons, Proxy, TaskMix, TrainConfig

    common = TrainConfig(
        mix=TaskMix(task_options=("hidden=20-20&activation=tanh",)),
        horizons=Horizons(window=50, min_horizon=50, max_horizon=400),
        num_tasks=64,
        num_pairs=16,
        outer_steps=outer_steps,
        proxy=Proxy(proxy_every=outer_steps, proxy_horizon=400),
    )
    rates = {
        f"adam, rate {rate:g}": dataclasses.replace(common, outer_learning_rate=rate)
        for rate in ADAM_RATES
    }
    itself = dataclasses.replace(
        common, outer_optimizer="self", bootstrap_every=bootstrap_every
    )
    shipped = dataclasses.replace(common, outer_optimizer="scale_free")
    return {
        **rates,
        f"itself, every {bootstrap_every}": itself,
        "scale_free as it ships": shipped,
    }


def _train(config, folder: Path) -> tuple[float, float]:
    """Score on held-out tasks, and outer loss at the end."""
    from meta_train import run, selection

    run.train(config, folder)
    losses = run.read_metrics(folder)["loss"]
    last = selection.read_evaluations(folder)[-1]
    return last["score"], float(losses[-len(losses) // 10 :].mean())


def main() -> None:
    """400 outer steps, three seeds."""
    Measure()()


if __name__ == "__main__":
    tyro.cli(Measure)()
