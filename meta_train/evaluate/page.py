"""One HTML page with everything about a comparison, which needs no network to read.

It holds the standings, the pictures (within the file), what was chosen for each task, and
by name every task on which a contender loses to the reference.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from meta_train import offline_page
from meta_train.evaluate.comparison import Comparison
from meta_train.evaluate.metrics import FIGURES
from meta_train.evaluate.standing import REFERENCE, Standing
from tasksets.task import SplitName


def write(
    path: Path,
    comparison: Comparison,
    standings: Sequence[Standing],
    pictures: Mapping[str, Path],
    *,
    title: str,
    command: str,
    split: SplitName = "test",
) -> Path:
    """Write the page.

    Args:
      path: of the file.
      comparison: what was found.
      standings: of the contenders in it, on ``split``.
      pictures: PNG files by heading.
      title: of the page.
      command: that made it.
      split: whose losses the standings are of.
    """
    count = len(comparison.entries)
    against = (
        f"Difference, wins and speed-up are against {REFERENCE}: mean difference of "
        "scores, tasks with a lower one, how many times sooner its final loss is reached "
        "(interquartile mean over tasks). "
        if REFERENCE in comparison.names
        else ""
    )
    parts = [
        offline_page.paragraph(
            f"{count} tasks, {len(comparison.competitors)} optimizers. Scores are "
            f"normalised {split} losses: 1 is the initial loss, 0 the best that any "
            "baseline reached, clipped; not a number is 1. Brackets are 95 % bootstrap "
            "intervals over tasks."
        ),
        offline_page.command(command),
        offline_page.paragraph(
            f"Best on: tasks with no lower score. {against}Diverged: tasks with a seed "
            "that ended in no number; above start: with one that ended in a higher "
            "training loss than it began with."
        ),
    ]
    tested = [not standing.competitor.baseline for standing in standings]
    for figure in FIGURES:
        parts.append(offline_page.heading(f"Standings: {figure}"))
        parts.append(offline_page.table(*standing_rows(standings, figure), tested))
    parts += [offline_page.picture(*item) for item in pictures.items()]
    parts += _losing(standings) + _by_task(comparison, split)
    return offline_page.write(path, title, parts)


def standing_rows(
    standings: Sequence[Standing], figure: str
) -> tuple[list[str], list[list[str]]]:
    """The standings by one figure as a table of text: heads of the columns, and rows."""
    against = any(standing.against for standing in standings)
    heads = ["optimizer", "trials", "mean", "median", "best on"]
    timed = any(standing.milliseconds is not None for standing in standings)
    if against:
        heads += ["difference", "wins", "speed-up, steps"]
        heads += ["speed-up, time"] * timed
    heads += ["diverged", "above start"] + ["ms/step"] * timed
    rows = []
    for standing in standings:
        competitor = standing.competitor
        row = [competitor.name, str(competitor.trials), str(standing.mean[figure])]
        row.append(f"{standing.median[figure].value:.3f}")
        row.append(f"{standing.won[figure]:.3g}")
        if standing.against:
            them = standing.against[figure]
            row += [str(them.difference), f"{them.won:g}"]
            in_time = them.speedup_seconds
            row.append(f"{them.speedup_steps.value:.2f}")
            row += [_or_nothing(in_time and in_time.value)] * timed
        elif against:
            row += [""] * (3 + timed)
        row += [str(standing.diverged), str(standing.above_start)]
        rows.append([*row, *[_or_nothing(standing.milliseconds)] * timed])
    return heads, rows


def _or_nothing(number: float | None) -> str:
    return "" if number is None else f"{number:.2f}"


def _losing(standings: Sequence[Standing]) -> list[str]:
    parts = []
    for standing in standings:
        if standing.competitor.baseline or not standing.against:
            continue
        for figure, against in standing.against.items():
            parts.append(
                offline_page.heading(
                    f"Where {standing.competitor.name} loses to {REFERENCE}: {figure} "
                    f"({len(against.losing)} tasks)"
                )
            )
            rows = [
                [n, f"{mine:.4f}", f"{theirs:.4f}"]
                for n, mine, theirs in against.losing
            ]
            heads = ["task", "its score", "the reference's"]
            parts.append(offline_page.table(heads, rows))
    return parts


def _by_task(comparison: Comparison, split: SplitName) -> list[str]:
    figure = next(iter(FIGURES))
    scores = comparison.scores(figure, split).mean(axis=-1)
    rows = [
        [
            entry.task.name,
            str(entry.num_steps),
            *(f"{score:.3f}" for score in scores[:, t]),
        ]
        for t, entry in enumerate(comparison.entries)
    ]
    points = [
        [
            entry.task.name,
            *(result.labels[figure][t] for result in comparison.results),
        ]
        for t, entry in enumerate(comparison.entries)
    ]
    return [
        offline_page.heading(f"Scores by task ({figure})"),
        offline_page.table(["task", "steps", *comparison.names], rows),
        offline_page.heading(f"What tuning chose ({figure})"),
        offline_page.table(["task", *comparison.names], points),
    ]
