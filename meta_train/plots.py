"""Plots of meta-training runs, as PNG. Needs matplotlib, which the extra "plot" brings."""

from pathlib import Path
from typing import Any

import numpy as np

from meta_train.run import read_metrics

_LEARNED = "#c2410c"


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
    if fig.get_layout_engine() is None:
        fig.tight_layout()
    fig.savefig(path, dpi=130)
    pyplot().close(fig)
    return path
