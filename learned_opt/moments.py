"""Running averages that optimizers keep, one place for all of them.

An average with decay ``d`` follows ``a' = a + r (x - a)`` from zero, with the rate
``r = 1 - d``; ``a / (1 - d^t)`` removes the pull of that zero (Kingma & Ba 2015,
section 3). Functions here take the rate: 1 - 0.9999 would lose four digits in float32.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from learned_opt.layout import Field, Layout


def rate(log_rate: Float[Array, ""]) -> Float[Array, ""]:
    """The rate whose logarithm this is, at most 1: an average without memory."""
    return jnp.minimum(jnp.exp(log_rate), 1.0)


def zeros(params: Field, layout: Layout) -> Field:
    """A fresh accumulator shaped (and sharded) like the parameters."""
    return layout.map(jnp.zeros_like, params)


def toward(average: Array, x: Array, rate: Array | float) -> Array:
    """One step of an average, elementwise; ``rate`` in (0, 1]."""
    return average + rate * (x - average)


def debias(step: Int[Array, ""], rate: Array | float) -> Float[Array, ""]:
    """``1 / (1 - (1 - rate)^step)``: what undoes the zero start after ``step >= 1``."""
    rate = jnp.asarray(rate)
    # Without memory log1p has no slope; of the factor itself, it is that of 1 / rate.
    remembers = rate < 1
    log_decay = jnp.log1p(-jnp.where(remembers, rate, 0.5))
    factor = -1.0 / jnp.expm1(step.astype(jnp.float32) * log_decay)
    return jnp.where(remembers, factor, jnp.where(step == 1, 2.0 - rate, 1.0))


def rms(mean_square: Array, eps: float = 1e-12) -> Array:
    """Root of a mean square, safe at zero."""
    return jnp.sqrt(jax.nn.relu(mean_square) + eps)


def root(mean_square: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root, with a finite slope at 0: entries that never had a gradient."""
    smallest = jnp.finfo(mean_square.dtype).tiny
    return jnp.sqrt(jnp.maximum(mean_square, smallest))
