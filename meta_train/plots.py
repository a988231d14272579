"""Plots of runs and comparisons, as PNG. Needs matplotlib, which the extra "plot" brings."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from meta_train.evaluate import Curves, normalised, over_run
from meta_train.run import read_metrics

_LEARNED = "#c2410c"
_BASELINES = ("#111111", "#777777", "#aaaaaa", "#999999", "#555555")
_STYLES = ("-", "--", ":", "-.", (0, (1, 1)))


def plot_run(folder: Path) -> Path:
    """The outer loss and the health of the meta-gradient over outer steps."""
    plt = pyplot()
    metrics = read_metrics(folder)
    fig, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True)
    panels = (
        ("loss", "outer loss (initial losses)", "linear"),
        ("grad_norm", "norm of the meta-gradient", "log"),
        ("guarded", "share of losses capped", "linear"),
        ("inner_step", "mean inner step of the lanes", "linear"),
    )
    for ax, (name, label, scale) in zip(axes.flat, panels, strict=True):
        ax.plot(metrics["step"], metrics[name], color="#dddddd", lw=0.8)
        ax.plot(metrics["step"], _smooth(metrics[name]), color=_LEARNED, lw=1.6)
        ax.set(ylabel=label, yscale=scale)
    for ax in axes[-1]:
        ax.set_xlabel("outer steps")
    return save(fig, folder / "training.png")


def plot_losses(
    curves: Sequence[Curves], path: Path, *, title: str, split: str = "outer_valid"
) -> Path:
    """Losses of one task over training steps, each contender at its best point.

    Bands are the range over seeds; the scale is logarithmic where all losses are
    positive and span more than a factor of ten.
    """
    plt = pyplot()
    fig, ax = plt.subplots(figsize=(6, 4))
    low, high = np.inf, -np.inf
    for i, c in enumerate(curves):
        losses = c.best(over_run)[split][0]
        color = _LEARNED if i == 0 else _BASELINES[(i - 1) % len(_BASELINES)]
        style = "-" if i == 0 else _STYLES[(i - 1) % len(_STYLES)]
        ax.plot(c.steps, losses.mean(axis=0), color=color, ls=style, label=c.contender)
        ax.fill_between(
            c.steps, losses.min(axis=0), losses.max(axis=0), color=color, alpha=0.15
        )
        finite = losses[np.isfinite(losses)]
        low, high = min(low, finite.min()), max(high, finite.max())
    scale = "log" if 0 < low and high > 10 * low else "linear"
    ax.set(title=title, xlabel="training steps", ylabel=f"{split} loss", yscale=scale)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)
    return save(fig, path)


def plot_comparison(
    rows: Mapping[str, Sequence[Curves]], path: Path, *, split: str = "test"
) -> Path:
    """Normalised loss over training steps, one panel per row, median over tasks.

    The first contender is drawn in colour, the others in greys; bands are the range
    over seeds.
    """
    plt = pyplot()
    columns = min(3, len(rows))
    height = -(-len(rows) // columns)
    fig, axes = plt.subplots(
        height, columns, figsize=(4.2 * columns, 3.3 * height), squeeze=False
    )
    for ax in axes.flat[len(rows) :]:
        ax.set_visible(False)
    for ax, (title, curves) in zip(axes.flat, rows.items(), strict=False):
        losses = normalised(curves, split, over_run)
        for i, (c, loss) in reversed(list(enumerate(zip(curves, losses, strict=True)))):
            color = _LEARNED if i == 0 else _BASELINES[(i - 1) % len(_BASELINES)]
            style = "-" if i == 0 else _STYLES[(i - 1) % len(_STYLES)]
            by_seed = loss.mean(axis=0)
            ax.plot(
                c.steps,
                by_seed.mean(axis=0),
                color=color,
                ls=style,
                lw=2.2 if i == 0 else 1.4,
                label=c.contender,
                zorder=3 if i == 0 else 2,
            )
            ax.fill_between(
                c.steps,
                by_seed.min(axis=0),
                by_seed.max(axis=0),
                color=color,
                alpha=0.15,
            )
        ax.set(title=title, xlabel="training steps", ylim=(-0.02, 1.02))
        ax.grid(alpha=0.25)
    axes[0, 0].set_ylabel(f"normalised {split} loss")
    axes[0, 0].legend(fontsize=8, loc="upper right", reverse=True)
    return save(fig, path)


def _smooth(values: np.ndarray, width: int = 51) -> np.ndarray:
    """Running median, shorter at the ends."""
    half = min(width, len(values)) // 2
    return np.array(
        [np.median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))]
    )


def pyplot() -> Any:
    """matplotlib's pyplot, which draws to files.

    Raises:
      ImportError: matplotlib is not installed; the message says how to get it.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "plots need matplotlib: pip install 'learned-opt[plot]'"
        ) from error
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save(fig: Any, path: Path) -> Path:
    """Write a figure and forget it; the path."""
    fig.tight_layout()
    fig.savefig(path, dpi=130)
    pyplot().close(fig)
    return path
