"""What commands show: progress, tables, plots. Everything computed comes from elsewhere."""

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import learned_opt
import pretrained
import tasksets
from meta_train import demo as demonstration
from meta_train import evaluate as evaluation
from meta_train import run
from meta_train.config import TrainConfig
from meta_train.evaluate import Contender, Row

if TYPE_CHECKING:
    from meta_train.cli import Demo, Evaluate

console = Console()


def train(
    config: TrainConfig, folder: Path, resume: bool, time_budget: float | None
) -> run.Result:
    """Meta-train under a progress bar with rate, remaining time and outer loss."""
    theta = jax.eval_shape(config.learned_optimizer().init, jax.random.key(0))
    size = sum(x.size for x in jax.tree.leaves(theta))
    console.print(
        f"Meta-training [bold]{config.optimizer}[/] ({size:,} meta-parameters) with "
        f"{config.estimator} on {', '.join(config.mix.suites)}, {len(jax.devices())} "
        f"devices, in {folder}"
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
            smooth = loss if smooth is None else 0.98 * smooth + 0.02 * loss
            bar.update(
                line,
                completed=progress.step,
                description="training",
                rate=progress.timing.inner_steps_per_second,
                loss=f"{smooth:.4f}",
            )

        result = run.train(
            config,
            folder,
            resume=resume,
            time_budget=time_budget,
            on_progress=show,
            warn=lambda text: bar.console.print(f"[yellow]warning:[/] {text}"),
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
    return result


def plot_run(folder: Path) -> None:
    """The plots of a run, where matplotlib is installed."""
    try:
        from meta_train import plots

        console.print(f"Plot: {plots.plot_run(folder)}")
    except ImportError as error:
        console.print(f"[yellow]no plot:[/] {error}")


def evaluate(command: "Evaluate") -> None:
    """Compare one learned optimizer with the baselines and print the table."""
    contender = _contender(command.optimizer)
    tasks = tasksets.sample(
        command.num_tasks, suite=command.suite, split="test", seed=command.seed
    )
    if command.task_options:
        tasks = [tasksets.get(f"{t.name}?{command.task_options}") for t in tasks]
    contenders = (contender, *evaluation.baselines())
    with _progress() as bar:
        line = bar.add_task("evaluating", total=None)
        curves = evaluation.run(
            tasks,
            contenders,
            num_steps=command.num_steps,
            num_seeds=command.num_seeds,
            seed=command.seed,
            on_group=lambda done, total: bar.update(line, completed=done, total=total),
        )
    title = f"{command.suite}, {command.num_tasks} held-out tasks"
    console.print(comparison_table(title, evaluation.table(curves)))
    if command.plot is not None:
        from meta_train import plots

        console.print(f"Plot: {plots.plot_comparison({title: curves}, command.plot)}")


def demo(command: "Demo", time_budget: float | None) -> None:
    """Train, compare, plot, and say what held and what did not."""
    started = time.monotonic()
    config = demonstration.config(command.optimizer, command.seed)
    if command.outer_steps is not None:
        config = dataclasses.replace(config, outer_steps=command.outer_steps)
    result = train(config, command.folder, command.resume, time_budget)
    plot_run(command.folder)
    theta_folder = command.folder / "theta"
    contender = _contender(str(theta_folder))
    with _progress() as bar:
        line = bar.add_task("comparing on held-out tasks", total=None)
        rows = demonstration.compare(
            contender,
            lambda done, total: bar.update(line, completed=done, total=total),
        )
    tables = {title: evaluation.table(curves) for title, curves in rows.items()}
    for title, table in tables.items():
        count = len(rows[title][0].tasks)
        console.print(comparison_table(f"{title}: {count} tasks", table))
    _save_tables(tables, command.folder / "comparison.csv")
    try:
        from meta_train import plots

        picture = plots.plot_comparison(rows, command.folder / "comparison.png")
        console.print(f"Plot: {picture}")
    except ImportError as error:
        console.print(f"[yellow]no plot:[/] {error}")
    for verdict in demonstration.verdicts(tables):
        mark = "[green]yes[/]" if verdict.holds else "[red]no [/]"
        console.print(f"{mark} {verdict.claim}")
    console.print(
        f"Total {time.monotonic() - started:.0f} s. Use it:\n"
        f"  tx = pretrained.optimizer({str(theta_folder)!r}, num_steps=...)"
    )
    if not result.finished:
        console.print("The training stopped early; --resume goes on with it.")


def comparison_table(title: str, rows: Sequence[Row]) -> Table:
    """Normalised losses as a table: 0 is the best loss any run reached, 1 the initial."""
    columns = list(dict.fromkeys((row.split, row.figure) for row in rows))
    table = Table(title=title, title_justify="left", caption="mean / median over tasks")
    table.add_column("optimizer")
    for split, figure in columns:
        table.add_column(f"{split}\n{figure}", justify="right")
    table.add_column("diverged", justify="right")
    best = {
        column: min(r.mean for r in rows if (r.split, r.figure) == column)
        for column in columns
    }
    for contender in dict.fromkeys(row.contender for row in rows):
        mine = {(r.split, r.figure): r for r in rows if r.contender == contender}
        cells = []
        for column in columns:
            row = mine[column]
            text = f"{row.mean:.4f} / {row.median:.4f}"
            cells.append(f"[bold]{text}[/]" if row.mean == best[column] else text)
        diverged = max(row.diverged for row in mine.values())
        table.add_row(contender, *cells, str(diverged))
    return table


def list_pretrained() -> None:
    """Shipped optimizers, one line each, and what can be trained."""
    table = Table("name", "what it is")
    for name, line in pretrained.available().items():
        table.add_row(name, line)
    console.print(table)
    console.print(f"Optimizers that can be trained: {', '.join(learned_opt.names())}")


def show_pretrained(name: str) -> None:
    """A card."""
    console.print(Markdown(pretrained.load(name).card.markdown(name)))


def _contender(name: str) -> Contender:
    """A learned optimizer by pretrained name, run folder or theta folder."""
    inside = Path(name) / "theta"
    loaded = pretrained.load(str(inside) if inside.is_dir() else name)
    label = f"{learned_opt.name_of(loaded.optimizer)} (no tuning)"
    return evaluation.learned(label, loaded.optimizer, loaded.theta)


def _progress(*columns: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        *(TextColumn(column) for column in columns),
        TimeRemainingColumn(),
        console=console,
    )


def _save_tables(tables: dict[str, list[Row]], path: Path) -> None:
    names = [field.name for field in dataclasses.fields(Row)]
    lines = [",".join(["row", *names])]
    for title, rows in tables.items():
        for row in rows:
            values: list[Any] = [title, *(getattr(row, name) for name in names)]
            lines.append(
                ",".join(f'"{v}"' if isinstance(v, str) else str(v) for v in values)
            )
    path.write_text("\n".join(lines) + "\n")
