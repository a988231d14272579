"""Loss curves of contenders, one panel for each task or group of tasks, as PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from meta_train.evaluate.comparison import Comparison
from meta_train.evaluate.metrics import FIGURES
from meta_train.plots import pyplot, save
from tasksets.task import SplitName

_COLOURS = ("#c2410c", "#1d4ed8", "#15803d", "#7e22ce", "#be185d")  # of what is tested
_GREYS = ("#111111", "#666666", "#999999", "#bbbbbb")  # of baselines
_STYLES = ("-", "--", ":", "-.")
_FINAL, _OVER = FIGURES


def plot_losses(
    comparison: Comparison, path: Path, *, title: str, split: SplitName = "outer_valid"
) -> Path:
    """Losses of the first task over training steps; bands are the range over seeds."""
    plt = pyplot()
    fig, ax = plt.subplots(figsize=(6, 4))
    draw_losses(ax, comparison, 0, range(len(comparison.competitors)), split)
    ax.set(title=title, xlabel="training steps", ylabel=f"{split} loss")
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)
    return save(fig, path)


def plot_comparisons(
    rows: Mapping[str, Comparison], path: Path, *, split: SplitName = "test"
) -> Path:
    """Normalised loss in the course of training, one panel per row, mean over tasks."""
    plt = pyplot()
    columns = min(3, len(rows))
    height = -(-len(rows) // columns)
    size = (4.2 * columns, 3.3 * height)
    fig, axes = plt.subplots(height, columns, figsize=size, squeeze=False)
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    for ax, (title, comparison) in zip(axes.flat, rows.items(), strict=False):
        draw_normalised(ax, comparison, split)
        ax.set(title=title)
    axes[0, 0].set_ylabel(f"normalised {split} loss")
    axes[0, 0].legend(fontsize=8, loc="upper right", reverse=True)
    return save(fig, path)


def draw_normalised(ax: Any, comparison: Comparison, split: SplitName) -> None:
    """Mean over tasks of the normalised loss; bands are the range over seeds."""
    losses = comparison.normalised(_OVER, split)
    steps = np.linspace(0, comparison.num_steps.max(), losses.shape[-1])
    for i in drawing_order(comparison):
        draw_band(ax, steps, losses[i].mean(axis=0), line(comparison, i))
    same = len(set(comparison.num_steps)) == 1
    ax.set(xlabel="training steps" if same else "training steps of the longest task")
    ax.set(ylim=(-0.02, 1.02))
    ax.grid(alpha=0.25)


def draw_losses(
    ax: Any, comparison: Comparison, task: int, shown: Any, split: SplitName
) -> None:
    """Losses of one task; the scale is logarithmic where they span a factor of ten."""
    low, high = np.inf, -np.inf
    for i in shown:
        losses = comparison.results[i].losses[_OVER][split][task]
        steps = np.linspace(0, comparison.num_steps[task], losses.shape[-1])
        draw_band(ax, steps, losses, line(comparison, i))
        finite = losses[np.isfinite(losses)]
        low, high = finite.min(initial=low), finite.max(initial=high)
    if 0 < low and high > 10 * low:
        ax.set_yscale("log")


def draw_band(
    ax: Any,
    x: Float[np.ndarray, "points"],
    by_seed: Float[np.ndarray, "seeds points"],
    style: dict[str, Any],
) -> None:
    """The mean over seeds and the range; where a seed is not finite, nothing."""
    by_seed = np.where(np.isfinite(by_seed).all(axis=0), by_seed, np.nan)
    ax.plot(x, by_seed.mean(axis=0), **style)
    low, high = by_seed.min(axis=0), by_seed.max(axis=0)
    ax.fill_between(x, low, high, color=style["color"], alpha=0.15, lw=0)


def drawing_order(comparison: Comparison) -> list[int]:
    """Baselines first, so that the others lie on top."""
    order = range(len(comparison.competitors))
    return sorted(order, key=lambda i: not comparison.competitors[i].baseline)


def line(comparison: Comparison, index: int) -> dict[str, Any]:
    """How to draw a contender: colours for what is tested, greys for baselines."""
    competitor = comparison.competitors[index]
    alike = [
        c.name for c in comparison.competitors if c.baseline == competitor.baseline
    ]
    place = alike.index(competitor.name)
    colours = _GREYS if competitor.baseline else _COLOURS
    return {
        "color": colours[place % len(colours)],
        "ls": _STYLES[place // len(colours) % len(_STYLES)],
        "lw": 1.3 if competitor.baseline else 2.0,
        "label": competitor.title,
    }
