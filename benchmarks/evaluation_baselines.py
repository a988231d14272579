"""Computes the results of all baselines on a suite, which then ship with the package.

    python -m benchmarks.evaluation_baselines --suite eval-small
    python -m benchmarks.evaluation_baselines --suite eval-100 --budget 3h

Stopped, by the budget or in any other way, it goes on from the cache when it is run again;
several at once, or on several machines with the cache in common, share the work if each
gets a `--shard`. When everything is there it writes `meta_train/evaluate/shipped/` and
prints the table.
"""

import dataclasses
import time
from pathlib import Path

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from meta_train import evaluate
from meta_train.devices import use_all_cores, use_compilation_cache
from meta_train.durations import budget, over
from meta_train.evaluate import Evaluation, page, shipped, suites

console = Console(width=160)


@dataclasses.dataclass(frozen=True)
class Baselines:
    """Computes the results of all baselines on a suite."""

    suite: str = "eval-100"
    horizon: int = 2000
    seeds: int = 3
    budget: str = ""
    """Begin nothing more after this long: 20m, 3h."""
    cache: Path = dataclasses.field(default_factory=evaluate.default_cache)
    shard: str = "0/1"
    """i/n: every n-th task, from the i-th; only 0/1 writes what ships."""

    def __call__(self) -> None:
        use_all_cores()
        use_compilation_cache(str(self.cache.parent / "jax"))
        started = time.monotonic()
        index, count = map(int, self.shard.split("/"))
        evaluation = Evaluation(
            (), ("all",), self.suite, horizon=self.horizon, seeds=self.seeds
        )
        contenders = evaluation.contenders()
        items = suites.items(self.suite)[index::count]
        entries = suites.entries(items, self.horizon)
        columns = "{task.completed}/{task.total} runs, {task.fields[spent]:.0f} s"
        with Progress(BarColumn(), TextColumn(columns), console=console) as bar:
            line = bar.add_task("", total=None, spent=0.0)
            comparison = evaluate.compare(
                entries,
                contenders,
                num_seeds=self.seeds,
                cache=evaluate.Cache(self.cache, console.print),
                stop=over(budget(self.budget)),
                on_progress=lambda done: bar.update(
                    line,
                    completed=done.done,
                    total=done.total,
                    spent=time.monotonic() - started,
                ),
                warn=console.print,
            )
        found = evaluate.standings(comparison)
        for figure in evaluate.FIGURES:
            heads, rows = page.standing_rows(found, figure)
            print(f"\n{figure}, {len(comparison.entries)} tasks\n")
            for cells in (heads, ["---"] * len(heads), *rows):
                print(f"| {' | '.join(cells)} |")
        print(f"\n{time.monotonic() - started:.0f} s")
        whole = len(comparison.entries) == len(suites.items(self.suite))
        if whole and set(comparison.names) == set(evaluate.ALL):
            path = shipped.path(self.suite, self.horizon, self.seeds)
            shipped.save(path, comparison, contenders, evaluation.protocol())
            print(f"written: {path}, {path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    tyro.cli(Baselines)()
