"""The losses of a comparison as a tidy table: one row for each measurement."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from meta_train.evaluate.comparison import Comparison
from meta_train.evaluate.metrics import FIGURES
from tasksets.task import SplitName

if TYPE_CHECKING:
    import pandas as pd


def table(
    comparison: Comparison,
    tuned_for: str = "final",
    splits: Sequence[SplitName] | None = None,
) -> "pd.DataFrame":
    """All losses of a comparison.

    Args:
      comparison: what was found.
      tuned_for: a figure of `metrics.FIGURES`; every contender is shown at the points
        that are best for it on inner validation.
      splits: whose losses to list; None: all that are known.

    Returns:
      Columns optimizer, trials, task, part and x (of a sweep), seed, split, step, point
      (label of what tuning chose), loss, normalised (0 best, 1 initial),
      seconds_per_step (NaN where nobody measured).

    Raises:
      ValueError: there is no such figure.
    """
    import pandas as pd

    if tuned_for not in FIGURES:
        raise ValueError(f"tuned_for={tuned_for!r} is none of {', '.join(FIGURES)}")
    parts = []
    for split in splits or comparison.splits:
        normalised = comparison.normalised(tuned_for, split)
        for i, (competitor, result) in enumerate(
            zip(comparison.competitors, comparison.results, strict=True)
        ):
            losses = result.losses[tuned_for][split]
            tasks, seeds, evals = losses.shape
            task, seed, number = (x.ravel() for x in np.indices(losses.shape))
            entries = comparison.entries
            by_task = lambda values, task=task: np.array(values)[task]
            steps = number / (evals - 1) * by_task([e.num_steps for e in entries])
            part = pd.DataFrame(
                {
                    "task": by_task([entry.task.name for entry in entries]),
                    "part": by_task([entry.part for entry in entries]),
                    "x": by_task([_number(entry.x) for entry in entries]),
                    "seed": seed,
                    "step": steps.round().astype(int),
                    "point": by_task(result.labels[tuned_for]),
                    "loss": losses.ravel(),
                    "normalised": normalised[i].ravel(),
                    "seconds_per_step": by_task(_known(result.seconds, len(entries))),
                }
            )
            part.insert(0, "optimizer", competitor.name)
            part.insert(1, "trials", competitor.trials)
            part.insert(6, "split", split)
            parts.append(part)
    whole = pd.concat(parts, ignore_index=True)
    words = ["optimizer", "task", "part", "split", "point"]
    return whole.astype(dict.fromkeys(words, "category"))


def _known(
    seconds: Float[np.ndarray, "tasks"] | None, count: int
) -> Float[np.ndarray, "tasks"]:
    return np.full(count, np.nan) if seconds is None else seconds


def _number(x: float | None) -> float:
    return float("nan") if x is None else x
