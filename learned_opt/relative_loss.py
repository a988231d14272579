"""How a run's loss moves, as nine numbers free of its scale.

VeLO (Metz et al. 2022, arXiv 2211.09760) and Celo (Moudgil et al. 2025, 2501.12670) keep
ten running means ``a_k`` of the training loss, debiased, with time constants from 10 steps
to the length of the run ``T``, equally spaced in logarithm, and the smallest value that
each has had, ``min_k``. Each mean is seen relative to the next slower one:

    feature_k = clip((a_k - min_k) / max(a_{k+1} - min_k, 1e-8) - 1, -1, 1),   k = 1..9

It is -1 at a new minimum, 0 where the two means are equal, positive while the loss
rises. An offset cancels. The first two updates see zeros. A loss over twice (in size) the
largest mean counts as no more than that, unless all means are 0.

A loss that is not finite teaches nothing and is left out (in the authors' code it would
stay in the means for ever). They also debias the means of that bound as if one more loss
had come, which for the first steps makes it tighter: `largest_mean_as_released`.

The debiased mean is what is stored, ``a' = a + r / (1 - (1 - r)^t) (l - a)``: that is the
same average, but a new minimum is then exactly one, and two means that are equal stay so.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

NUM_FEATURES = 9
_MEANS = NUM_FEATURES + 1
_FASTEST = 10.0  # time constant of the fastest mean, in updates
_SMALLEST_GAP = 1e-8
_LARGEST = 1e12  # losses are clipped here


class RelativeLoss(NamedTuple):
    """Running means, the fastest first."""

    means: Float[Array, "10"]  # debiased; 0 before the first loss
    minima: Float[Array, "10"]  # of the means
    count: Int[Array, ""]  # finite losses so far


def start() -> RelativeLoss:
    """Before the first loss."""
    minima = jnp.full((_MEANS,), _LARGEST, jnp.float32)
    return RelativeLoss(jnp.zeros((_MEANS,)), minima, jnp.zeros((), jnp.int32))


def observe(
    losses: RelativeLoss,
    value: Float[Array, ""],
    num_steps: Float[Array, ""],
    largest: Float[Array, ""],
) -> RelativeLoss:
    """Means that include one more loss, of at most twice ``|largest|`` unless that is 0.

    Args:
      losses: the means so far.
      value: the training loss.
      num_steps: length of the run in updates, > 0.
      largest: `largest_mean`; of no effect on the first loss.
    """
    bounded = jnp.clip(value, -_LARGEST, _LARGEST)
    # Upstream a first loss of 0 is a bound of 0, which no later one can lift.
    unbounded = (losses.count == 0) | (largest == 0)
    limit = jnp.where(unbounded, bounded, 2.0 * jnp.abs(largest))
    news = jnp.minimum(bounded, limit) - losses.means
    count = losses.count + 1
    means = losses.means + news * _memory(1, num_steps) / _memory(count, num_steps)
    new = RelativeLoss(means, jnp.minimum(losses.minima, means), count)
    finite = jnp.isfinite(value)
    return RelativeLoss(
        *(jnp.where(finite, a, b) for a, b in zip(new, losses, strict=True))
    )


def largest_mean(losses: RelativeLoss) -> Float[Array, ""]:
    """The largest mean; 0 before the first loss."""
    return jnp.max(losses.means)


def largest_mean_as_released(
    losses: RelativeLoss, num_steps: Float[Array, ""]
) -> Float[Array, ""]:
    """The largest mean debiased for one more loss than there was."""
    before, after = losses.count, losses.count + 1
    return jnp.max(
        losses.means * _memory(before, num_steps) / _memory(after, num_steps)
    )


def features(losses: RelativeLoss) -> Float[Array, "9"]:
    """The nine features, each within +-1, the fastest first."""
    means, minima = losses.means, losses.minima[:-1]
    gap = jnp.maximum(means[1:] - minima, _SMALLEST_GAP)
    relative = jnp.clip((means[:-1] - minima) / gap - 1.0, -1.0, 1.0)
    return jnp.where(losses.count <= 2, 0.0, relative)


def _memory(
    count: Int[Array, ""] | int, num_steps: Float[Array, ""]
) -> Float[Array, "10"]:
    """What of each mean ``count`` losses make up: ``1 - decay^count``."""
    share = np.linspace(0.0, 1.0, _MEANS, dtype=np.float32)
    constants = _FASTEST * (num_steps / _FASTEST) ** share
    return -jnp.expm1(-jnp.asarray(count, jnp.float32) / constants)
