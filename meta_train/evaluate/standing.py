"""Where each contender stands: the figures of merit of a comparison, with intervals."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from meta_train.evaluate import metrics
from meta_train.evaluate.comparison import Comparison, Competitor, Results
from meta_train.evaluate.intervals import Interval, bootstrap
from meta_train.evaluate.metrics import FIGURES
from tasksets.task import SplitName

if TYPE_CHECKING:
    import pandas as pd

REFERENCE = (
    "adam:tuned"  # what speed-ups and differences are against, where it is there
)

_mean, _median = partial(np.mean, axis=0), partial(np.median, axis=0)
_FINAL, _OVER = FIGURES


@dataclasses.dataclass(frozen=True)
class Against:
    """One contender against the reference, by task.

    Attributes:
      difference: mean over tasks of its score less the reference's; below 0 is better.
      won: tasks on which its score is lower; equal ones count as half.
      losing: the tasks on which it is higher, with both scores, the worst first.
      speedup_steps: interquartile mean over tasks of how many times fewer steps it takes
        to the reference's final loss.
      speedup_seconds: the same in time; None where that was not measured.
    """

    difference: Interval
    won: float
    losing: tuple[tuple[str, float, float], ...]
    speedup_steps: Interval
    speedup_seconds: Interval | None


@dataclasses.dataclass(frozen=True)
class Standing:
    """One contender in a comparison.

    Attributes:
      competitor: who.
      mean: over tasks of the mean over seeds of the score, by figure.
      median: likewise.
      won: tasks on which no score is lower, by figure; equal ones are shared.
      diverged: tasks with a seed that ended in a loss that is not finite.
      above_start: tasks with a seed whose training loss ended above where it began.
      milliseconds: of a training step, median over tasks; None if nobody measured.
      against: the reference, by figure; None for the reference and where there is none.
    """

    competitor: Competitor
    mean: Mapping[str, Interval]
    median: Mapping[str, Interval]
    won: Mapping[str, float]
    diverged: int
    above_start: int
    milliseconds: float | None
    against: Mapping[str, Against] | None


def standings(
    comparison: Comparison, split: SplitName = "test", reference: str = REFERENCE
) -> list[Standing]:
    """All contenders of a comparison, in its order.

    Args:
      comparison: what was found.
      split: whose losses count; points were chosen on inner validation.
      reference: what each is held against.
    """
    scores = {f: comparison.scores(f, split).mean(axis=-1) for f in FIGURES}
    won = {figure: metrics.tasks_won(x) for figure, x in scores.items()}
    base = comparison.names.index(reference) if reference in comparison.names else None
    found = []
    for i, (competitor, result) in enumerate(
        zip(comparison.competitors, comparison.results, strict=True)
    ):
        train = result.losses[_FINAL]["train"]
        against = None
        if base not in (None, i):
            against = {f: _against(comparison, i, base, f, split) for f in FIGURES}
        found.append(
            Standing(
                competitor,
                {f: bootstrap(x[i], _mean) for f, x in scores.items()},
                {f: bootstrap(x[i], _median) for f, x in scores.items()},
                {f: float(x[i]) for f, x in won.items()},
                int(metrics.diverged(train).sum()),
                int(metrics.ended_above_start(train).sum()),
                _milliseconds(result),
                against,
            )
        )
    return found


def speedups(
    comparison: Comparison, index: int, base: int, figure: str, split: SplitName
) -> Float[np.ndarray, "tasks"]:
    """Of one contender over another by task, in steps, of curves averaged over seeds."""
    u = metrics.cut_off(comparison.progress(figure, split)).mean(axis=2)
    return metrics.speedup(u[index], u[base], comparison.num_steps)


def _against(
    comparison: Comparison, index: int, base: int, figure: str, split: SplitName
) -> Against:
    scores = comparison.scores(figure, split).mean(axis=-1)
    mine, theirs = scores[index], scores[base]
    names = [entry.task.name for entry in comparison.entries]
    lost = [
        (name, float(m), float(t))
        for name, m, t in zip(names, mine, theirs, strict=True)
        if m > t
    ]
    steps = speedups(comparison, index, base, figure, split)
    my_time, their_time = (comparison.results[i].seconds for i in (index, base))
    seconds = None
    if my_time is not None and their_time is not None:
        speedup = steps * their_time / my_time
        seconds = bootstrap(speedup, metrics.interquartile_mean)
    return Against(
        bootstrap(mine - theirs, _mean),
        float((mine < theirs).sum() + (mine == theirs).sum() / 2),
        tuple(sorted(lost, key=lambda row: row[2] - row[1])),
        bootstrap(steps, metrics.interquartile_mean),
        seconds,
    )


def _milliseconds(result: Results) -> float | None:
    return None if result.seconds is None else float(np.median(result.seconds)) * 1e3


def summary(found: list[Standing]) -> "pd.DataFrame":
    """One row for each contender, one column for each number."""
    import pandas as pd

    return pd.DataFrame([_row(standing) for standing in found])


def _row(standing: Standing) -> dict[str, object]:
    competitor = standing.competitor
    row: dict[str, object] = {
        "optimizer": competitor.name,
        "trials": competitor.trials,
        "baseline": competitor.baseline,
    }
    for figure in FIGURES:
        row |= _columns(f"{figure}, mean", standing.mean[figure])
        row |= _columns(f"{figure}, median", standing.median[figure])
        row[f"{figure}, tasks won"] = standing.won[figure]
    row["tasks diverged"] = standing.diverged
    row["tasks ended above start"] = standing.above_start
    if standing.milliseconds is not None:
        row["ms per step"] = standing.milliseconds
    for figure, against in (standing.against or {}).items():
        prefix = f"{figure}, against the reference"
        row |= _columns(f"{prefix}: difference", against.difference)
        row[f"{prefix}: tasks won"] = against.won
        row |= _columns(f"{prefix}: speed-up in steps", against.speedup_steps)
        if against.speedup_seconds is not None:
            row |= _columns(f"{prefix}: speed-up in time", against.speedup_seconds)
    return row


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {
        name: interval.value,
        f"{name}, low": interval.low,
        f"{name}, high": interval.high,
    }
