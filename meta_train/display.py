"""What commands show: progress, tables, plots. Everything computed comes from elsewhere."""

import dataclasses
import inspect
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from rich.console import Console
from rich.markdown import Markdown
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import learned_opt
import pretrained
from meta_train import demo as demonstration
from meta_train import evaluate, report, run, selection
from meta_train.config import TrainConfig
from meta_train.evaluate import Comparison

if TYPE_CHECKING:
    from meta_train.cli import Demo

console = Console()


def train(
    config: TrainConfig,
    folder: Path,
    resume: bool,
    time_budget: float | None,
    train: Callable[..., run.Result] = run.train,
    places: str | None = None,
) -> run.Result:
    """Meta-train under a progress bar with rate, remaining time and outer loss.

    ``train`` is `run.train`, or `elastic.train` with its workers, which are the
    ``places`` where it runs; None: the devices here.
    """
    theta = jax.eval_shape(config.learned_optimizer().init, jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(theta))
    console.print(
        f"Meta-training [bold]{config.optimizer}[/] ({size:,} meta-parameters) with "
        f"{config.estimator} on {', '.join(config.mix.suites)}, "
        f"{places or f'{len(jax.devices())} devices'}, in {folder}"
    )
    started = time.monotonic()
    with _progress(
        "{task.fields[rate]:>8,.0f} inner steps/s", "loss {task.fields[loss]}"
    ) as bar:
        line = bar.add_task("compiling", total=config.outer_steps, rate=0.0, loss="-")
        smooth = None

        def show(progress: run.Progress) -> None:
            nonlocal smooth
            loss = progress.metrics["loss"]
            if math.isfinite(loss):  # not so where every group was lost
                smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
            bar.update(
                line,
                completed=progress.step,
                description="training",
                rate=progress.timing.inner_steps_per_second,
                loss="-" if smooth is None else f"{smooth:.4f}",
            )

        result = train(
            config,
            folder,
            resume=resume,
            time_budget=time_budget,
            on_progress=show,
            note=lambda text: bar.console.print(escape(text), highlight=False),
            warn=lambda text: bar.console.print(f"[yellow]warning:[/] {escape(text)}"),
        )
    metrics = run.read_metrics(folder)
    contained = int((metrics["guarded"] > 0).sum()) if metrics else 0
    console.print(
        f"{result.outer_steps} outer steps, {result.reason}, "
        f"{time.monotonic() - started:.0f} s; "
        f"{contained} steps had capped losses, "
        f"{int(metrics['skipped'][-1]) if metrics else 0} updates were skipped, theta was "
        f"rolled back {int(metrics['rollbacks'][-1]) if metrics else 0} times."
    )
    if rows := selection.read_evaluations(folder):
        row = selection.best(rows)
        console.print(
            f"Best on held-out tasks: theta after {row['step']} outer steps, score "
            f"{row['score']:.4f} ({selection.BASELINE} {row['adam_score']:.4f}; 0 is "
            f"Adam's lowest loss, 1 the initial one), in {folder / 'best'}"
        )
    return result


def report_run(folder: Path) -> None:
    """The page about a run, where matplotlib is installed."""
    try:
        console.print(f"Report: {report.write(folder)}")
    except ImportError as error:
        console.print(f"[yellow]no report:[/] {escape(str(error))}")


def demo(command: "Demo", time_budget: float | None) -> None:
    """Train, compare, plot, and say what held and what did not."""
    started = time.monotonic()
    config = demonstration.config(command.optimizer, command.seed)
    if command.outer_steps is not None:
        config = dataclasses.replace(config, outer_steps=command.outer_steps)
    result = train(config, command.folder, command.resume, time_budget)
    report_run(command.folder)
    theta_folder = command.folder / "theta"
    contender = evaluate.contender(str(theta_folder))
    label = f"{command.optimizer} (no tuning)"
    with _progress() as bar:
        line = bar.add_task("comparing on held-out tasks", total=None)
        rows = demonstration.compare(
            dataclasses.replace(contender, name=label),
            lambda done, total: bar.update(line, completed=done, total=total),
        )
    for title, comparison in rows.items():
        console.print(_comparison_table(title, comparison))
    _save_tables(rows, command.folder / "comparison.csv")
    try:
        from meta_train.evaluate import panels

        picture = panels.plot_comparisons(rows, command.folder / "comparison.png")
        console.print(f"Plot: {picture}")
    except ImportError as error:
        console.print(f"[yellow]no plot:[/] {escape(str(error))}")
    for verdict in demonstration.verdicts(rows):
        mark = "[green]yes[/]" if verdict.holds else "[red]no [/]"
        console.print(f"{mark} {escape(verdict.claim)}")
    console.print(
        f"Total {time.monotonic() - started:.0f} s. Use it:\n"
        f"  tx = pretrained.optimizer({str(theta_folder)!r}, num_steps=...)"
    )
    if not result.finished:
        console.print("The training stopped early; --resume goes on with it.")


def _comparison_table(title: str, comparison: Comparison) -> Table:
    """Normalised losses: 0 is the best that any baseline reached, 1 the initial."""
    table = Table(
        title=f"{title}: {len(comparison.entries)} tasks",
        title_justify="left",
        caption="mean / median over tasks",
    )
    table.add_column("optimizer")
    columns: list[list[str]] = []
    for split in ("test", "train"):
        for figure in evaluate.FIGURES:
            table.add_column(f"{split}\n{figure}", justify="right")
            scores = comparison.scores(figure, split).mean(axis=-1)
            means, medians = scores.mean(axis=1), np.median(scores, axis=1)
            cells = [f"{a:.4f} / {b:.4f}" for a, b in zip(means, medians, strict=True)]
            best = int(means.argmin())
            cells[best] = f"[bold]{cells[best]}[/]"
            columns.append(cells)
    table.add_column("diverged", justify="right")
    found = evaluate.standings(comparison)
    for standing, *cells in zip(found, *columns, strict=True):
        table.add_row(standing.competitor.title, *cells, str(standing.diverged))
    return table


def list_optimizers() -> None:
    """What can be trained, one line each."""
    table = Table("name", "what it is")
    for name in learned_opt.names():
        description = inspect.getdoc(learned_opt.get(name)) or ""
        table.add_row(name, escape(description.partition("\n")[0].replace("``", "")))
    console.print(table)
    console.print("Train one: learned-opt train --optimizer NAME", highlight=False)


def list_pretrained() -> None:
    """Shipped optimizers, one line each."""
    table = Table("name", "what it is")
    for name, line in pretrained.available().items():
        table.add_row(name, line)
    console.print(table)


def show_pretrained(name: str) -> None:
    """A card."""
    console.print(Markdown(pretrained.load(name).card.markdown(name)))


def _progress(*columns: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        *(TextColumn(column) for column in columns),
        TimeRemainingColumn(),
        console=console,
    )


def _save_tables(rows: dict[str, Comparison], path: Path) -> None:
    import pandas as pd

    tables = [
        evaluate.summary(evaluate.standings(comparison, split)).assign(
            row=title, split=split
        )
        for title, comparison in rows.items()
        for split in ("test", "train")
    ]
    pd.concat(tables).to_csv(path, index=False)
