"""Figures of merit, each a function of arrays; docs/evaluation.md has them by example.

Axes: ``contenders``, ``tasks``, ``seeds``, ``evals`` (measurements in the course of
training, the first at step 0). `u` is a loss on the scale on which a task measures
progress: the loss itself, or its logarithm for quadratics, losg and 2-D problems.
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

Figure = Callable[[np.ndarray], np.ndarray]


def normalise(
    u: Float[np.ndarray, "tasks *rest"],
    initial: Float[np.ndarray, "tasks"],
    best: Float[np.ndarray, "tasks"],
) -> Float[np.ndarray, "tasks *rest"]:
    """1 at the initial loss, 0 at the best known, clipped; NaN is 1 (Metz et al. 2020).

        n = clip((u - best) / (initial - best), 0, 1)

    Where nothing ever got better than the start, every n is 1. Source: TaskSet,
    arXiv 2002.11887, and arXiv 2009.11243.
    """
    span = initial - best
    shape = (-1,) + (1,) * (u.ndim - 1)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        n = (u - best.reshape(shape)) / span.reshape(shape)
    hopeless = ~(span > 0).reshape(shape) | np.isnan(n)
    return np.where(hopeless, 1.0, np.clip(n, 0.0, 1.0))


def final(n: Float[np.ndarray, "*rest evals"]) -> Float[np.ndarray, "*rest"]:
    """At the end of training."""
    return n[..., -1]


def over_training(n: Float[np.ndarray, "*rest evals"]) -> Float[np.ndarray, "*rest"]:
    """Mean over all measurements."""
    return n.mean(axis=-1)


FIGURES: dict[str, Figure] = {"final": final, "mean over training": over_training}


def tuned_point(u: Float[np.ndarray, "points seeds evals"], figure: Figure) -> int:
    """The point with the least mean over seeds of a figure of its validation losses.

    A loss above the initial one, or none, counts as the initial one, as it does when it
    is reported. Of equal points the first is taken.
    """
    return int(figure(cut_off(u)).mean(axis=-1).argmin())


def cut_off(u: Float[np.ndarray, "*rest evals"]) -> Float[np.ndarray, "*rest evals"]:
    """No loss is above the first of its curve, which NaN counts as."""
    initial = u[..., :1]
    return np.where(np.isnan(u), initial, np.minimum(u, initial))


def steps_to_reach(
    u: Float[np.ndarray, "tasks evals"],
    target: Float[np.ndarray, "tasks"],
    num_steps: Float[np.ndarray, "tasks"],
) -> Float[np.ndarray, "tasks"]:
    """Steps until a curve is first at or below its target; infinite if it never is.

    Linear between measurements; a measurement that is NaN is above every target.
    """
    reached = u <= target[:, None]
    first = reached.argmax(axis=1)
    rows = np.arange(len(u))
    before = np.maximum(first - 1, 0)
    high, low = u[rows, before], u[rows, first]
    with np.errstate(invalid="ignore", divide="ignore"):
        part = (high - target) / (high - low)
    # From a measurement that is not finite nothing can be interpolated.
    part = np.where(np.isfinite(high) & (first > 0), part, 1.0)
    at = np.where(first > 0, before + part, 0.0)
    steps = at / (u.shape[1] - 1) * num_steps
    return np.where(reached.any(axis=1), steps, np.inf)


def speedup(
    u: Float[np.ndarray, "tasks evals"],
    reference: Float[np.ndarray, "tasks evals"],
    num_steps: Float[np.ndarray, "tasks"],
) -> Float[np.ndarray, "tasks"]:
    """How many times sooner the reference's final loss is reached than by itself.

    Steps after which the reference first was at its final loss, divided by those after
    which this curve is: 1 for the reference, 0 where it is never reached. At least one
    step is counted on both sides. NaN where the reference got nowhere: its final loss is
    none, or not below its first.
    """
    target = reference[:, -1]
    mine = np.maximum(steps_to_reach(u, target, num_steps), 1.0)
    theirs = np.maximum(steps_to_reach(reference, target, num_steps), 1.0)
    with np.errstate(invalid="ignore"):
        got_somewhere = np.isfinite(target) & (target < reference[:, 0])
        return np.where(got_somewhere, theirs / mine, np.nan)


def interquartile_mean(values: Float[np.ndarray, "tasks *rest"]) -> np.ndarray:
    """Mean of the middle half along the first axis (Agarwal et al. 2021, 2108.13264).

    A quarter of the values is cut off at either end, rounded down.
    """
    ordered = np.sort(values, axis=0)
    cut = len(ordered) // 4
    return ordered[cut : len(ordered) - cut].mean(axis=0)


def tasks_won(
    scores: Float[np.ndarray, "contenders tasks"],
) -> Float[np.ndarray, "contenders"]:
    """On how many tasks each has the least score; equal ones share the task."""
    best = scores == scores.min(axis=0)
    return (best / best.sum(axis=0)).sum(axis=1)


def diverged(
    losses: Float[np.ndarray, "tasks seeds evals"],
) -> Bool[np.ndarray, "tasks"]:
    """Tasks with a seed whose last loss is not finite."""
    return np.any(~np.isfinite(losses[..., -1]), axis=1)


def ended_above_start(
    losses: Float[np.ndarray, "tasks seeds evals"],
) -> Bool[np.ndarray, "tasks"]:
    """Tasks with a seed whose last loss is finite and above its first."""
    last = losses[..., -1]
    return np.any(np.isfinite(last) & (last > losses[..., 0]), axis=1)


def profile(
    scores: Float[np.ndarray, "contenders tasks"], levels: Float[np.ndarray, "levels"]
) -> Float[np.ndarray, "contenders levels"]:
    """Share of the tasks on which a contender's score is at most each level."""
    return (scores[:, :, None] <= levels).mean(axis=1)
