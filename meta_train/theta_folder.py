"""Theta as a folder that `pretrained.load` loads, with a card that says how it was made."""

from pathlib import Path
from typing import Any

import pretrained
from meta_train.config import TrainConfig


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
      path: the folder; what it held before is replaced.
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
        compute="not recorded",
        results=results,
        failures="unknown until evaluated.",
    )
    pretrained.save(path, *config.whole(theta), card, overwrite=True)
    return path
