"""One HTML page with everything about a comparison, which needs no network to read.

It holds the standings, the pictures (within the file), what was chosen for each task, and
by name every task on which a contender loses to the reference.
"""

import base64
import html
from collections.abc import Mapping, Sequence
from pathlib import Path

from meta_train.evaluate.comparison import Comparison
from meta_train.evaluate.metrics import FIGURES
from meta_train.evaluate.standing import REFERENCE, Standing
from tasksets.task import SplitName

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto;
       padding: 0 1rem; color: #222; }
table { border-collapse: collapse; font-size: 13px; margin: .5rem 0 1.5rem; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
tr.tested { background: #fff4ec; font-weight: 600; }
img { max-width: 100%; }
code { background: #f4f4f4; padding: 0 .2rem; }
"""


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
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{count} tasks, {len(comparison.competitors)} optimizers. Scores are "
        f"normalised {split} losses: 1 is the initial loss, 0 the best that any baseline "
        "reached, clipped; not a number is 1. Brackets are 95 % bootstrap intervals over "
        f"tasks.</p><p><code>{html.escape(command)}</code></p>",
        "<p>Best on: tasks with no lower score. Difference, wins and speed-up are against "
        f"{REFERENCE}: mean difference of scores, tasks with a lower one, how many times "
        "sooner its final loss is reached (interquartile mean over tasks). Diverged: tasks "
        "with a seed that ended in no number; above start: with one that ended in a higher "
        "training loss than it began with.</p>",
    ]
    tested = [not standing.competitor.baseline for standing in standings]
    for figure in FIGURES:
        parts.append(f"<h2>Standings: {figure}</h2>")
        parts.append(_table(*standing_rows(standings, figure), tested))
    for heading, picture in pictures.items():
        encoded = base64.b64encode(picture.read_bytes()).decode()
        parts.append(f"<h2>{html.escape(heading)}</h2>")
        image = (
            f'<img src="data:image/png;base64,{encoded}" alt="{html.escape(heading)}">'
        )
        parts.append(image)
    parts += _losing(standings) + _by_task(comparison, split)
    body = "\n".join(parts)
    page = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{body}</body></html>\n"
    )
    path.write_text(page, "utf-8")
    return path


def standing_rows(
    standings: Sequence[Standing], figure: str
) -> tuple[list[str], list[list[str]]]:
    """The standings by one figure as a table of text: heads of the columns, and rows."""
    against = any(standing.against for standing in standings)
    heads = ["optimizer", "trials", "mean", "median", "best on"]
    if against:
        heads += ["difference", "wins", "speed-up, steps", "speed-up, time"]
    heads += ["diverged", "above start", "ms/step"]
    rows = []
    for standing in standings:
        competitor = standing.competitor
        row = [competitor.name, str(competitor.trials), str(standing.mean[figure])]
        row.append(f"{standing.median[figure].value:.3f}")
        row.append(f"{standing.won[figure]:.3g}")
        if standing.against:
            them = standing.against[figure]
            row += [str(them.difference), f"{them.won:g}"]
            row += [
                f"{x.value:.2f}" for x in (them.speedup_steps, them.speedup_seconds)
            ]
        elif against:
            row += [""] * 4
        row += [str(standing.diverged), str(standing.above_start)]
        rows.append([*row, f"{standing.milliseconds:.2f}"])
    return heads, rows


def _losing(standings: Sequence[Standing]) -> list[str]:
    parts = []
    for standing in standings:
        if standing.competitor.baseline or not standing.against:
            continue
        for figure, against in standing.against.items():
            name = html.escape(standing.competitor.name)
            parts.append(
                f"<h2>Where {name} loses to {REFERENCE}: {figure} "
                f"({len(against.losing)} tasks)</h2>"
            )
            rows = [
                [n, f"{mine:.4f}", f"{theirs:.4f}"]
                for n, mine, theirs in against.losing
            ]
            parts.append(_table(["task", "its score", "the reference's"], rows))
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
        f"<h2>Scores by task ({figure})</h2>",
        _table(["task", "steps", *comparison.names], rows),
        f"<h2>What tuning chose ({figure})</h2>",
        _table(["task", *comparison.names], points),
    ]


def _table(
    heads: Sequence[str],
    rows: Sequence[Sequence[str]],
    marked: Sequence[bool] | None = None,
) -> str:
    line = lambda cells, tag: "".join(f"<{tag}>{html.escape(c)}</{tag}>" for c in cells)
    marks = marked or [False] * len(rows)
    body = "".join(
        f"<tr{' class=tested' * mark}>{line(row, 'td')}</tr>"
        for row, mark in zip(rows, marks, strict=True)
    )
    return f"<table><tr>{line(heads, 'th')}</tr>{body}</table>"
