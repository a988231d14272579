"""Pictures of slices of the meta-loss: lines, planes, and the ways taken across them.

`surface` computes heights, this draws them. Functions that begin with ``draw`` fill axes
of matplotlib and return nothing; ``plot_lines`` and ``plot_planes`` write a file:

    raw = surface.meta_loss(system, keys, num_steps=1000)
    smooth = surface.smoothed(raw, 0.1, key, num_draws=64)
    offsets = np.linspace(-1, 1, 41)
    heights = {"raw": surface.line(raw, theta, along, offsets),
               "smoothed": surface.line(smooth, theta, along, offsets)}
    plot_lines({"1000 steps": heights}, offsets, path)
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from meta_train.plots import pyplot, save

_COLORS = ("#888888", "#c2410c", "#1d4ed8", "#15803d", "#7e22ce")


def draw_lines(
    ax: Any,
    offsets: Float[np.ndarray, "points"],
    heights: Mapping[str, Float[np.ndarray, "points"]],
) -> None:
    """One curve per label; the first, which is the raw one as a rule, in grey.

    A curve may have fewer points than ``offsets``: it is spread over the same range.
    """
    for i, (label, values) in enumerate(heights.items()):
        at = np.linspace(offsets[0], offsets[-1], len(values))
        color = _COLORS[i % len(_COLORS)]
        ax.plot(at, values, color=color, lw=0.9 if i == 0 else 1.8, label=label)
    ax.set(xlabel="offset from theta", ylabel="meta-loss")
    ax.grid(alpha=0.25)


def draw_plane(
    ax: Any,
    offsets: Float[np.ndarray, "points"],
    heights: Float[np.ndarray, "points points"],
    *,
    labels: tuple[str, str] = ("first direction", "second direction"),
    limits: tuple[float, float] | None = None,
    log: bool = False,
) -> None:
    """A map with a colour bar: the first direction to the right, the second upwards.

    Args:
      ax: axes.
      offsets: along both directions.
      heights: rows along the first direction, as `surface.plane` gives them.
      labels: of the two directions.
      limits: lowest and highest height with a colour of its own; by default all.
      log: whether equal factors of the height are equal steps of colour.
    """
    low, high = limits or (np.nanmin(heights), np.nanmax(heights))
    norm = "log" if log else "linear"
    shades = ax.pcolormesh(
        offsets, offsets, np.clip(heights, low, high).T, cmap="viridis", norm=norm
    )
    ax.figure.colorbar(shades, ax=ax, label="meta-loss")
    ax.set(xlabel=labels[0], ylabel=labels[1], aspect="equal")


def draw_ways(
    ax: Any,
    ways: Mapping[str, Float[np.ndarray, "runs records 2"]],
    colors: Mapping[str, str] | None = None,
) -> None:
    """Where runs went on a plane: a line per run, a dot at its end, a label per group.

    Args:
      ax: axes with a plane.
      ways: by label, the coordinates of runs over time.
      colors: by label; those of matplotlib for labels that are not in it.
    """
    for label, runs in ways.items():
        color = (colors or {}).get(label)
        for i, way in enumerate(runs):
            name = label if i == 0 else None
            (line,) = ax.plot(*way.T, lw=1.2, color=color, label=name)
            color = line.get_color()
            ax.plot(*way[-1], marker="o", ms=4, mec="white", mew=0.5, color=color)


def plot_lines(
    panels: Mapping[str, Mapping[str, Float[np.ndarray, "points"]]],
    offsets: Float[np.ndarray, "points"],
    path: Path,
    *,
    label: str = "offset from theta",
) -> Path:
    """A panel per title, side by side, with the curves of `draw_lines`; the path."""
    fig, axes = _panels(len(panels), 3.4)
    for ax, (title, heights) in zip(axes, panels.items(), strict=True):
        draw_lines(ax, offsets, heights)
        ax.set(title=title, xlabel=label)
    axes[0].legend(fontsize=8)
    return save(fig, path)


def plot_planes(
    panels: Mapping[str, Float[np.ndarray, "points points"]],
    offsets: Float[np.ndarray, "points"],
    path: Path,
    *,
    labels: tuple[str, str] = ("first direction", "second direction"),
) -> Path:
    """A panel per title, side by side, each a `draw_plane`; the path."""
    fig, axes = _panels(len(panels), 4.2)
    for ax, (title, heights) in zip(axes, panels.items(), strict=True):
        draw_plane(ax, offsets, heights, labels=labels)
        ax.set_title(title)
    return save(fig, path)


def _panels(number: int, width: float) -> tuple[Any, Sequence[Any]]:
    fig, axes = pyplot().subplots(
        1, number, figsize=(width * number, 3.4), squeeze=False
    )
    return fig, axes[0]
