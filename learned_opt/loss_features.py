"""What a run's losses say, as two bounded numbers (Metz et al. 2020, arXiv 2009.11243).

A running mean and variance of the training loss turn the newest loss ``l`` into

    train = clip((l - mean) / std, -5, 5),    std^2 = var + 1e-8 + (1e-5 mean)^2.

A running mean of the validation loss, put on the *same* scale, gives the second number:
the gap between the two means that opens when a model overfits.

    valid = clip((valid_mean - mean) / std, -5, 5)

The term ``1e-5 mean`` is ours: without it the rounding of a large, constant loss in
float32 would look like news.

A loss that is not finite teaches nothing and is left out of all averages, so NaN is how
a compiled loop says "no validation loss at this step". Until the first validation loss
the training loss stands in for it.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from learned_opt import moments

_RATE = 0.1  # of all three averages: decay .9
_BOUND = 5.0
_LARGEST = 1e15  # losses are clipped here: the square must stay finite


class LossStatistics(NamedTuple):
    """Running averages from zero; scalars."""

    mean: Float[Array, ""]  # of training losses
    var: Float[Array, ""]  # of their distance to the running mean, squared
    count: Int[Array, ""]  # finite training losses so far
    valid_mean: Float[Array, ""]  # of validation losses
    valid_count: Int[Array, ""]  # finite validation losses so far


def start() -> LossStatistics:
    """Statistics before the first loss."""
    zero, none = jnp.zeros(()), jnp.zeros((), jnp.int32)
    return LossStatistics(zero, zero, none, zero, none)


def observe(
    statistics: LossStatistics,
    value: Float[Array, ""],
    valid_value: Float[Array, ""] | None,
) -> LossStatistics:
    """Statistics that include one more training loss and perhaps a validation loss."""
    s = _observe_train(statistics, value)
    return s if valid_value is None else _observe_valid(s, valid_value)


def _observe_train(s: LossStatistics, value: Float[Array, ""]) -> LossStatistics:
    loss, finite = _bounded(value), jnp.isfinite(value)
    count = s.count + 1
    mean = moments.toward(s.mean, loss, _RATE)
    away = loss - moments.debias(count, _RATE) * mean
    var = moments.toward(s.var, away * away, _RATE)
    return s._replace(
        mean=jnp.where(finite, mean, s.mean),
        var=jnp.where(finite, var, s.var),
        count=jnp.where(finite, count, s.count),
    )


def _observe_valid(s: LossStatistics, value: Float[Array, ""]) -> LossStatistics:
    finite = jnp.isfinite(value)
    mean = moments.toward(s.valid_mean, _bounded(value), _RATE)
    return s._replace(
        valid_mean=jnp.where(finite, mean, s.valid_mean),
        valid_count=jnp.where(finite, s.valid_count + 1, s.valid_count),
    )


def features(statistics: LossStatistics, value: Float[Array, ""]) -> Float[Array, "2"]:
    """The training and the validation feature, given the newest training loss.

    A loss that is not finite reads as the worst there is, 5.
    """
    s = statistics
    scale = moments.debias(jnp.maximum(s.count, 1), _RATE)
    mean, var = scale * s.mean, scale * s.var
    valid_scale = moments.debias(jnp.maximum(s.valid_count, 1), _RATE)
    valid = jnp.where(s.valid_count > 0, valid_scale * s.valid_mean, _bounded(value))
    std = jnp.sqrt(var + 1e-8 + (1e-5 * mean) ** 2)
    pair = (jnp.stack([_bounded(value), valid]) - mean) / std
    return jnp.clip(pair, -_BOUND, _BOUND)


def _bounded(loss: Float[Array, ""]) -> Float[Array, ""]:
    loss = jnp.where(jnp.isfinite(loss), loss, _LARGEST)
    return jnp.clip(loss, -_LARGEST, _LARGEST)
