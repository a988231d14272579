"""Pictures of a comparison, as PNG. Needs matplotlib, which the extra "plot" brings."""

from pathlib import Path
from typing import Any

import numpy as np

from meta_train.evaluate import metrics
from meta_train.evaluate.comparison import Comparison
from meta_train.evaluate.metrics import FIGURES
from meta_train.evaluate.panels import (
    draw_band,
    draw_losses,
    draw_normalised,
    drawing_order,
    line,
)
from meta_train.evaluate.standing import REFERENCE
from meta_train.plots import pyplot, save
from tasksets.task import SplitName

_FINAL, _OVER = FIGURES
_COLUMNS = 6  # of small pictures
_PAIR = {"nrows": 1, "ncols": 2, "figsize": (11, 4.2), "sharey": True}


def draw(
    comparison: Comparison, folder: Path, split: SplitName = "test"
) -> dict[str, Path]:
    """All pictures that a comparison has matter for, by title, in the folder."""
    drawn = {
        "Normalised loss in the course of training": curves(comparison, folder, split)
    }
    if any(entry.part for entry in comparison.entries):
        drawn["By part of the suite"] = sweep(comparison, folder, split)
    drawn["Performance profile"] = profiles(comparison, folder, split)
    drawn["What tuning buys"] = costs(comparison, folder, split)
    if len({competitor.baseline for competitor in comparison.competitors}) == 2:
        drawn["Differences by task"] = differences(comparison, folder, split)
    return drawn | {"Losses of each task": tasks(comparison, folder, split)}


def curves(comparison: Comparison, folder: Path, split: SplitName) -> Path:
    """Mean over tasks of the normalised loss; bands are the range over seeds."""
    fig, axes = pyplot().subplots(**_PAIR)
    for ax, name in zip(axes, ("train", split), strict=True):
        draw_normalised(ax, comparison, name)
        ax.set(title=name)
    axes[0].set_ylabel("normalised loss, mean over tasks")
    _legend(axes[1])
    return save(fig, folder / "curves.png")


def profiles(comparison: Comparison, folder: Path, split: SplitName) -> Path:
    """The share of tasks on which the score is at most so much."""
    fig, axes = pyplot().subplots(**_PAIR)
    levels = np.geomspace(1e-3, 1, 200)
    for ax, figure in zip(axes, FIGURES, strict=True):
        scores = comparison.scores(figure, split).mean(axis=-1)
        shares = metrics.profile(scores, levels)
        for i in drawing_order(comparison):
            ax.plot(levels, shares[i], **line(comparison, i))
        ax.set(
            xscale="log", xlabel=f"normalised {split} loss, {figure}", ylim=(0, 1.02)
        )
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("share of tasks with at most this")
    _legend(axes[1])
    return save(fig, folder / "profile.png")


def costs(comparison: Comparison, folder: Path, split: SplitName) -> Path:
    """Scores over the number of runs that they take, tuning included."""
    fig, axes = pyplot().subplots(**_PAIR)
    for ax, figure in zip(axes, FIGURES, strict=True):
        scores = comparison.scores(figure, split).mean(axis=(1, 2))
        for i, competitor in enumerate(comparison.competitors):
            place = competitor.trials, scores[i]
            color = line(comparison, i)["color"]
            ax.plot(*place, "o", color=color)
            offset = {"textcoords": "offset points", "xytext": (5, 3)}
            ax.annotate(competitor.name, place, color=color, fontsize=7, **offset)
        ax.set(xscale="log", xlabel="trials per task", title=figure)
        ax.margins(x=0.25)
        ax.grid(alpha=0.25)
    axes[0].set_ylabel(f"normalised {split} loss, mean over tasks")
    return save(fig, folder / "costs.png")


def differences(comparison: Comparison, folder: Path, split: SplitName) -> Path:
    """Histograms over tasks of a score less that of a baseline (Metz et al. 2020, fig. 3).

    Rows of panels for each contender that is no baseline; left of 0 it is the better one.
    """
    baseline = [competitor.baseline for competitor in comparison.competitors]
    mine = [i for i, known in enumerate(baseline) if not known]
    theirs = [i for i, known in enumerate(baseline) if known]
    scores = comparison.scores(_FINAL, split).mean(axis=-1)
    fig, axes = _panels(len(mine) * len(theirs), 2.1, sharex=True, sharey=True)
    pairs = [(i, j) for i in mine for j in theirs]
    for ax, (i, j) in zip(axes, pairs, strict=True):
        gap = scores[i] - scores[j]
        ax.hist(gap, np.linspace(-1, 1, 41), color=line(comparison, i)["color"])
        ax.axvline(0, color="black", lw=0.8)
        ax.axvline(gap.mean(), color="black", lw=0.8, ls="--")
        names = f"{comparison.names[i]}\nless {comparison.names[j]}"
        ax.set_title(f"{names}: {gap.mean():+.3f}", fontsize=7)
        ax.tick_params(labelsize=7, which="both")
    return save(fig, folder / "differences.png")


def tasks(comparison: Comparison, folder: Path, split: SplitName) -> Path:
    """Losses of each task, of contenders that are no baselines and of the reference."""
    shown = [
        i
        for i, competitor in enumerate(comparison.competitors)
        if not competitor.baseline or competitor.name in (REFERENCE, "adam:lr=0.001")
    ]
    fig, axes = _panels(len(comparison.entries), 1.9)
    for t, (ax, entry) in enumerate(zip(axes, comparison.entries, strict=True)):
        draw_losses(ax, comparison, t, shown, split)
        ax.set_title(_short(entry.task.name), fontsize=6)
        ax.tick_params(labelsize=6, which="both")
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncol=5, fontsize=8)
    return save(fig, folder / "tasks.png")


def sweep(comparison: Comparison, folder: Path, split: SplitName) -> Path:
    """Scores by part of the suite: along its axis, or part by part."""
    fig, axes = pyplot().subplots(**_PAIR)
    parts = {entry.part: entry.x for entry in comparison.entries}
    member = np.array([[e.part == part for e in comparison.entries] for part in parts])
    numbered = None not in parts.values()
    places = np.array(list(parts.values()) if numbered else range(len(parts)), float)
    for ax, figure in zip(axes, FIGURES, strict=True):
        scores = comparison.scores(figure, split)  # [contenders, tasks, seeds]
        for i in drawing_order(comparison):
            by_seed = np.stack([scores[i][rows].mean(axis=0) for rows in member])
            style = line(comparison, i) | {"marker": "o", "ms": 3}
            draw_band(ax, places, by_seed.T, style)
        ax.set(title=figure, ylim=(0, 1.02))
        if numbered:
            ax.set(xscale="log", xlabel=next(iter(parts)).strip("0123456789 "))
        else:
            ax.set_xticks(places, parts, rotation=20, ha="right", fontsize=8)
        ax.grid(alpha=0.25)
    axes[0].set_ylabel(f"normalised {split} loss")
    _legend(axes[1])
    return save(fig, folder / "sweep.png")


def _panels(count: int, height: float, **options: Any) -> tuple[Any, list[Any]]:
    """A figure of so many small pictures, a few in a row."""
    columns = min(_COLUMNS, count)
    rows = -(-count // columns)
    size = (2.3 * max(columns, 3), height * rows + 0.4)
    fig, axes = pyplot().subplots(
        rows, columns, figsize=size, squeeze=False, layout="constrained", **options
    )
    for ax in axes.flat[count:]:
        ax.set_visible(False)
    return fig, list(axes.flat[:count])


def _legend(ax: Any) -> None:
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1), reverse=True)


def _short(name: str) -> str:
    return name if len(name) <= 44 else name[:20] + "..." + name[-21:]
