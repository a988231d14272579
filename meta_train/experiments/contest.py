"""Estimators against each other on one system, each judged where truncation cannot hide.

Every contender descends at every learning rate of the same grid with every seed, and each
theta it went through is unrolled for a whole episode: the *meta-loss*. A contender is
represented by the rate whose final meta-loss has the lowest median over seeds.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, PRNGKeyArray

from meta_train import surface
from meta_train.devices import compiler_options
from meta_train.experiments.descent import descend
from meta_train.system import AroundSystem, System, Theta

_BATCH = 32  # thetas that are unrolled at once; one program, however many there are


class Contender(NamedTuple):
    """An `Estimator` and how many outer steps it is given."""

    estimator: Any
    num_steps: int


class Run(NamedTuple):
    """What a contender did at its best learning rate.

    Attributes:
      rate: the learning rate.
      cost: inner steps of all particles until each record, ``[records]``.
      theta: the meta-parameters at each record, ``[seeds, records, ...]``.
      losses: their meta-losses.
    """

    rate: float
    cost: Float[np.ndarray, "records"]
    theta: Theta
    losses: Float[np.ndarray, "seeds records"]


def jobs(
    contenders: Mapping[str, Contender],
    init: Callable[[PRNGKeyArray], Theta],
    judge: Callable[[Theta, int], Float[np.ndarray, "..."]],
    *,
    rates: Sequence[float],
    seeds: Sequence[int],
    records: int,
    folder: Path | None = None,
) -> dict[str, Callable[[], Run]]:
    """What finds every contender's best run, for `concurrently`; of several contests too.

    Args:
      contenders: by name; the slowest first, so that no device is left over with it.
      init: where all of them start, from a key that depends on the seed alone.
      judge: maps thetas and how many leading axes they have to their meta-losses.
      rates: learning rates of Adam.
      seeds: of every contender at every rate.
      records: how many thetas of a descent are judged, evenly spaced to its end.
      folder: keeps what is done, to go on from when stopped; None forgets.
    """

    def run(name: str) -> Run:
        estimator, num_steps = contenders[name]
        trace = descend(
            estimator,
            init,
            rates=rates,
            seeds=seeds,
            num_steps=num_steps,
            records=records,
            folder=folder and folder / name,
        )

        losses = judge(trace.theta, 3)
        best = int(np.argmin(np.median(losses[..., -1], axis=1)))
        theta = jax.tree.map(lambda x: x[best], trace.theta)
        cost = trace.step * inner_steps(estimator)
        return Run(rates[best], cost, theta, losses[best])

    return {name: functools.partial(run, name) for name in contenders}


def inner_steps(estimator: Any) -> int:
    """Inner steps of all particles in one estimate of an `Estimator`."""
    truncation = estimator.truncation
    whole = getattr(estimator, "whole_episodes", False)
    steps = truncation.max_horizon if whole else truncation.window
    if not hasattr(estimator, "num_pairs"):
        return estimator.num_lanes * steps
    return estimator.num_pairs * estimator.unrolled * steps


def meta_losses(
    system: System,
    thetas: Theta,
    axes: int,
    *,
    keys: PRNGKeyArray,
    num_steps: int,
    cap: float = float("inf"),
) -> Float[np.ndarray, "..."]:
    """The meta-loss of each of many thetas, as `surface.meta_loss` defines it.

    Args:
      system: what is unrolled; its arrays are arguments of the program.
      thetas: with ``axes`` leading axes, which the losses have too.
      axes: how many.
      keys: of the episodes, ``[episodes]``; the same for every theta.
      num_steps: length of an episode.
      cap: losses above it, and those that are not numbers, count as this much.
    """
    leading = jax.tree.leaves(thetas)[0].shape[:axes]
    number = math.prod(leading)

    def whole_batches(x: Any) -> np.ndarray:
        x = np.asarray(x).reshape(number, *x.shape[axes:])
        return np.concatenate([x, np.repeat(x[-1:], -number % _BATCH, axis=0)])

    flat, argument = jax.tree.map(whole_batches, thetas), _Argument(system)
    losses = []
    for first in range(0, number, _BATCH):
        batch = jax.tree.map(lambda x, i=first: x[i : i + _BATCH], flat)
        losses.append(_heights()(argument, batch, keys, num_steps=num_steps, cap=cap))
    return np.concatenate(losses)[:number].reshape(leading)


@dataclasses.dataclass(frozen=True)
class _Argument(AroundSystem):
    """A system as an argument of a program, whether it is a pytree or not."""

    system: System


@functools.cache
def _heights() -> Any:
    """Made once, but not at import, which must not choose the devices."""

    def heights(argument: _Argument, thetas, keys, *, num_steps, cap):
        height = surface.meta_loss(argument.system, keys, num_steps, cap=cap)
        return jax.vmap(height)(thetas)

    return jax.jit(
        heights,
        static_argnames=("num_steps", "cap"),
        compiler_options=compiler_options(),
    )


def draw_curves(ax: Any, runs: Mapping[str, Run], colors: Mapping[str, str]) -> None:
    """Meta-loss against compute: the median over seeds, and their range as a band."""
    for name, run in runs.items():
        color, low, high = colors[name], run.losses.min(axis=0), run.losses.max(axis=0)
        ax.plot(run.cost, np.median(run.losses, axis=0), color=color, label=name)
        ax.fill_between(run.cost, low, high, color=color, alpha=0.15)
    ax.set(xlabel="inner steps of all particles", ylabel="meta-loss")
    ax.grid(alpha=0.25)
