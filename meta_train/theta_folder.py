"""Theta as a folder that `pretrained.load` loads, with a card that says how it was made."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

import pretrained
from meta_train.config import TrainConfig
from meta_train.run_log import read_metrics


def save_theta(
    config: TrainConfig,
    path: Path,
    theta: Any,
    outer_steps: int,
    *,
    how: str = "",
    results: str = "not evaluated yet: `learned-opt evaluate` does it.",
) -> Path:
    """Write a theta of a run; the path.

    Args:
      config: of the run.
      path: the folder, in that of the run; what it held before is replaced.
      theta: the meta-parameters.
      outer_steps: after how many of them.
      how: words of the command line beside those of the config.
      results: what the card says of how well it does.
    """
    options = " or ".join(config.mix.task_options)
    suites = " and ".join(config.mix.suites)
    tasks = (
        f"{config.num_tasks} tasks"
        if config.groups_in_flight is None
        else f"groups of {config.tasks_per_group} tasks, one after the other,"
    )
    card = pretrained.Card(
        summary=f"{config.optimizer} after {outer_steps} outer steps.",
        trained_on=(
            f"{tasks} of {suites}{' with ' + options if options else ''}, horizons "
            f"{config.horizons.min_horizon} to {config.horizons.max_horizon}, "
            f"seed {config.seed}."
        ),
        command=f"{config.command()} {how}".strip(),
        compute=_compute(path.parent),
        results=results,
        failures="unknown until evaluated.",
    )
    pretrained.save(path, *config.whole(theta), card, overwrite=True)
    return path


def _compute(folder: Path) -> str:
    """What a run took so far, by its log."""
    timing = read_metrics(folder, "timing.jsonl")
    if not timing:
        return "not recorded"
    seconds = timing["seconds"]
    millions = np.sum(seconds * timing["inner_steps_per_second"]) / 1e6
    devices = jax.devices()
    return (
        f"{np.sum(seconds) / 60:.3g} minutes of outer steps, compiling not counted, and "
        f"{millions:.3g} million inner steps; in the end on {len(devices)} devices of "
        f"kind {devices[0].device_kind}."
    )
