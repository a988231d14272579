"""Bootstrap intervals over tasks (Efron 1979): what other tasks would have shown.

Tasks are what a claim generalises over, so tasks are drawn anew, with replacement; each
brings its mean over seeds, whose noise is then part of what varies between tasks.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

_RESAMPLES = 2000
_CHUNK = 500  # resamples at a time, for the memory


class Interval(NamedTuple):
    """A statistic with its percentile interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def bootstrap(
    values: Float[np.ndarray, "tasks"],
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """A statistic of values over tasks and its interval.

    Args:
      values: one per task; NaN are left out (speed-ups over a reference without a
        final loss). All NaN gives NaN.
      statistic: maps ``[tasks, resamples]`` to ``[resamples]``, as `numpy.mean` with
        ``axis=0`` does.
      level: probability that the interval covers, in (0, 1).
      seed: of the resampling; equal for equal numbers of tasks, so that a difference
        of two contenders is resampled as a pair where it is given as differences.
    """
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return Interval(float("nan"), float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(_RESAMPLES // _CHUNK):
        drawn = rng.integers(len(values), size=(len(values), _CHUNK))
        found.append(statistic(values[drawn]))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(found), [tail, 1 - tail])
    value = float(statistic(values[:, None])[0])
    return Interval(value, float(low), float(high))
