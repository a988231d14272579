"""Pictures of a meta-training run, drawn from its logs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from meta_train.group_log import read_groups
from meta_train.plots import pyplot, save
from meta_train.run_log import read_metrics
from meta_train.selection import BASELINE, read_evaluations

_LEARNED = "#c2410c"
Panels = Sequence[tuple[str, str, str]]  # column, label; a scale, or "in all": a count

_TRAINING: Panels = (
    ("loss", "outer loss (initial losses)", "linear"),
    ("grad_norm", "norm of the meta-gradient", "log"),
    ("clipped", "share of its entries clipped", "linear"),
    ("update_norm", "norm of the change of theta", "log"),
)
_GRADIENT: Panels = (
    ("snr", "signal-to-noise ratio over pairs", "linear"),
    ("grad_std", "standard deviation over pairs", "log"),
    ("guarded", "share of losses capped", "linear"),
    ("guarded_pairs", "share of pairs with one", "linear"),
    ("noise_ratio", "sum of perturbations / expected", "linear"),
    ("inner_step", "mean inner step of the lanes", "linear"),
)
_TROUBLE: Panels = (
    ("skipped", "updates skipped", "in all"),
    ("lost_groups", "estimates of groups lost", "in all"),
    ("rollbacks", "times theta was rolled back", "in all"),
)
_SPEED: Panels = (
    ("inner_steps_per_second", "inner steps per second", "linear"),
    ("seconds", "seconds per outer step", "log"),
    ("waited", "seconds waited for groups", "in all"),
    ("replaced", "groups replaced", "in all"),
)


def plot_run(folder: Path, window: int) -> dict[str, Path]:
    """Everything to see of a run of which at least one outer step is logged.

    Args:
      folder: the run folder; gets the pictures.
      window: inner steps per estimate.

    Returns:
      PNG files by what they show.
    """
    metrics = read_metrics(folder)
    timing = read_metrics(folder, "timing.jsonl")
    metrics["lost_groups"] = np.cumsum(metrics["lost_groups"])
    for name in ("waited", "replaced"):
        timing[name] = np.cumsum(timing[name])
    draw = lambda columns, panels, name: _plot_columns(columns, panels, folder / name)
    pictures = {
        "Training": draw(metrics, _TRAINING, "training.png"),
        "The meta-gradient": draw(metrics, _GRADIENT, "gradient.png"),
        "What went wrong": draw(metrics, _TROUBLE, "trouble.png"),
        "Speed": draw(timing, _SPEED, "speed.png"),
    }
    if groups := read_groups(folder):
        pictures["Groups in flight"] = _plot_groups(
            groups, window, folder / "groups.png"
        )
    if rows := read_evaluations(folder):
        picture = _plot_evaluations(rows, folder / "evaluations.png")
        pictures["Held-out tasks"] = picture
    return pictures


def _plot_columns(
    columns: Mapping[str, Shaped[np.ndarray, "steps"]], panels: Panels, path: Path
) -> Path:
    """Columns of a log over outer steps, with their running medians."""
    plt = pyplot()
    rows = -(-len(panels) // 2)
    fig, axes = plt.subplots(rows, 2, figsize=(9, 3 * rows), sharex=True, squeeze=False)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for ax, (name, label, scale) in zip(axes.flat, panels, strict=False):
        steps, values = columns["step"], columns[name].astype(float)
        if scale == "in all":
            ax.plot(steps, values, color=_LEARNED, lw=1.6)
            ax.set(ylabel=f"{label}, in all")
        else:
            ax.plot(steps, values, color="#dddddd", lw=0.8)
            ax.plot(steps, _smooth(values), color=_LEARNED, lw=1.6)
            drawable = scale != "log" or np.any(values > 0)
            ax.set(ylabel=label, yscale=scale if drawable else "linear")
        ax.grid(alpha=0.25)
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("outer steps")
    return save(fig, path)


def _smooth(values: Float[np.ndarray, "steps"]) -> Any:
    """Running median over a tenth of the steps, at most 51; shorter at the ends."""
    width = min(51, 1 + len(values) // 10)
    return pd.Series(values).rolling(width, center=True, min_periods=1).median()


def _plot_groups(groups: Sequence[Mapping[str, Any]], window: int, path: Path) -> Path:
    """When each group was in flight, on which horizon, and its outer loss as colour."""
    plt = pyplot()
    fig, axes = plt.subplots(2, 1, figsize=(9, 6.5), sharex=True, layout="constrained")
    losses = np.array([group["loss"] for group in groups])
    finite = losses[np.isfinite(losses)]
    span = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    colours = plt.cm.ScalarMappable(plt.Normalize(*span), "viridis")
    slots, with_horizon = axes
    for group, loss in zip(groups, losses, strict=True):
        colour = colours.to_rgba(loss) if np.isfinite(loss) else "#ff0000"
        life = (group["born"], group["step"])
        length = life[1] - life[0]
        slots.barh(group["slot"], length, left=life[0], color=colour, ec="w", lw=0.4)
        if group["windows"] is not None:
            horizon = [group["windows"] * window] * 2
            with_horizon.plot(life, horizon, color=colour, lw=3)
    slots.set(ylabel="slot")
    slots.yaxis.get_major_locator().set_params(integer=True)
    with_horizon.set(xlabel="outer steps", ylabel="horizon (inner steps)")
    if any(group["windows"] is not None for group in groups):
        with_horizon.set_yscale("log")
    else:
        with_horizon.text(0.5, 0.5, "each lane draws its own", ha="center")
        with_horizon.set_yticks([])
    fig.colorbar(colours, ax=axes, label="mean outer loss of the group")
    return save(fig, path)


def _plot_evaluations(rows: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Scores on held-out tasks over outer steps, beside the baseline's; thin by task."""
    plt = pyplot()
    fig, ax = plt.subplots(figsize=(9, 4))
    steps = [row["step"] for row in rows]
    for name in rows[0]["tasks"]:
        scores = [row["tasks"][name] for row in rows]
        ax.plot(steps, scores, color="#f3c6ad", lw=0.8)
    for key, style, what in (("score", "-", "over training"), ("final", "--", "final")):
        ax.plot(
            steps,
            [row[key] for row in rows],
            style,
            color=_LEARNED,
            label=f"theta, {what}",
        )
        baseline = rows[0][f"adam_{key}"]
        ax.axhline(baseline, ls=style, color="#666666", label=f"{BASELINE}, {what}")
    ax.set(xlabel="outer steps", ylabel="normalised validation loss")
    ax.set_ylim(bottom=0.0)
    ax.grid(alpha=0.25)
    ax.legend(fontsize=8)
    return save(fig, path)
