"""What ``learned-opt evaluate`` shows and writes: progress, standings, files, the page."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from meta_train import evaluate
from meta_train.evaluate import Comparison, Standing, page
from meta_train.evaluate import Progress as Done

if TYPE_CHECKING:
    from meta_train.cli import Evaluate

console = Console()


def run(command: "Evaluate", budget: float | None) -> None:
    """Compare, print the standings, write tables, pictures and the page."""
    started = time.monotonic()
    cache = evaluate.Cache(command.cache or evaluate.default_cache(), _warn)
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} runs"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=3600,  # groups of runs differ by minutes
    )
    line = bar.add_task("", total=None)

    def show(done: Done) -> None:
        bar.start()  # not before there is something to do: names may be wrong
        bar.update(line, completed=done.done, total=done.total)

    try:
        comparison = command.evaluation.run(
            cache=cache, budget=budget, on_progress=show, warn=_warn
        )
    finally:
        if bar.live.is_started:
            bar.stop()
    found = evaluate.standings(comparison, command.split)
    for figure in evaluate.FIGURES:
        console.print(_standings_table(command, found, figure))
    count = len(comparison.entries)
    against = (
        f"Difference, wins and speed-up are against {evaluate.REFERENCE}. "
        if evaluate.REFERENCE in comparison.names
        else ""
    )
    console.print(
        f"{count} tasks. Scores: normalised {command.split} loss, 0 the best that any "
        "baseline reached, 1 the initial loss; mean and 95 % interval over tasks. "
        f"{against}Columns and intervals for which there was no room are on the page.",
        highlight=False,
    )
    console.print(f"{time.monotonic() - started:.0f} s")
    for path in _write(command, comparison):
        console.print(f"  {path}")


def _write(command: "Evaluate", comparison: Comparison) -> list[Path]:
    """Everything about a comparison, in the command's folder."""
    folder, split = command.folder, command.split
    folder.mkdir(parents=True, exist_ok=True)
    found = evaluate.standings(comparison, split)
    written = [folder / "summary.csv"]
    evaluate.summary(found).to_csv(written[0], index=False)
    for figure in evaluate.FIGURES:
        losses = evaluate.table(comparison, figure, ("train", split))
        stem = f"losses-tuned-for-{figure.replace(' ', '-')}"
        try:
            losses.to_parquet(path := folder / f"{stem}.parquet", index=False)
        except ImportError:  # parquet needs pyarrow; everything reads CSV
            losses.to_csv(path := folder / f"{stem}.csv.gz", index=False)
        written.append(path)
    try:
        from meta_train.evaluate import figures

        pictures = figures.draw(comparison, folder, split)
    except ImportError as error:
        console.print(f"[yellow]no pictures:[/] {escape(str(error))}")
        pictures = {}
    html = page.write(
        folder / "index.html",
        comparison,
        found,
        pictures,
        title=f"Evaluation on {command.evaluation.suite}",
        command=shlex.join(["learned-opt", *sys.argv[1:]]),
        split=split,
    )
    return [*written, *pictures.values(), html]


def _standings_table(
    command: "Evaluate", standings: Sequence[Standing], figure: str
) -> Table:
    """The standings by one figure, as much of them as the terminal is wide."""
    heads, rows = fitting(*page.standing_rows(standings, figure), console.width)
    title = f"{command.evaluation.suite}, {figure}"
    table = Table(title=title, title_justify="left")
    table.add_column(heads[0], overflow="fold")
    for head in heads[1:]:
        table.add_column(head, justify="right")
    for standing, row in zip(standings, rows, strict=True):
        style = None if standing.competitor.baseline else "bold"
        table.add_row(*map(escape, row), style=style)
    return table


def fitting(
    heads: Sequence[str], rows: Sequence[Sequence[str]], width: int
) -> tuple[list[str], list[list[str]]]:
    """The standings without what makes them too wide: the page has everything.

    Intervals go first, then columns, those that decide least before the others.

    Args:
      heads: of the columns, as `page.standing_rows` gives them.
      rows: of cells.
      width: of the terminal, in characters.
    """
    table = [list(heads), *map(list, rows)]

    def too_wide() -> bool:
        # A cell has a space on both sides and a line after it.
        return (
            1 + sum(3 + max(map(len, column)) for column in zip(*table, strict=True))
            > width
        )

    if too_wide():
        table = [[cell.partition(" [")[0] for cell in row] for row in table]
    for head in _EXPENDABLE:
        if too_wide() and head in table[0]:
            at = table[0].index(head)
            table = [row[:at] + row[at + 1 :] for row in table]
    return table[0], table[1:]


_EXPENDABLE = (
    "above start",
    "speed-up, time",
    "best on",
    "ms/step",
    "speed-up, steps",
    "difference",
    "trials",
    "diverged",
    "wins",
)


def _warn(text: str) -> None:
    console.print(f"[yellow]note:[/] {escape(text)}", highlight=False)
