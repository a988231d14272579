"""Batch and layer normalisation as pure functions of one batch.

    y = scale * (x - mean) / sqrt(variance + eps) + offset

with the moments over everything but the channels (batch norm, Ioffe and Szegedy 2015,
arXiv 1502.03167) or over the features of each example (layer norm, Ba et al. 2016, arXiv
1607.06450). A loss is a function of parameters and a batch, so there are no running
averages: the moments are those of the batch, on every split. The constants, and batch
norm without a scale, are those of Sonnet 1, on which TaskSet (arXiv 2002.11887) is built.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def batch_norm(
    x: Float[Array, "batch *shape channels"],
    offset: Float[Array, "channels"],
    eps: float = 1e-3,
) -> Float[Array, "batch *shape channels"]:
    """Mean 0 and variance 1 of each channel in the batch, plus its offset."""
    return _standardize(x, tuple(range(x.ndim - 1)), eps) + offset


def layer_norm(
    x: Float[Array, "batch features"],
    scale: Float[Array, "features"],
    offset: Float[Array, "features"],
    eps: float = 1e-5,
) -> Float[Array, "batch features"]:
    """Mean 0 and variance 1 over the features of each example, then scale and offset."""
    return scale * _standardize(x, (-1,), eps) + offset


def _standardize(
    x: Float[Array, "..."], axes: tuple[int, ...], eps: float
) -> Float[Array, "..."]:
    centered = x - jnp.mean(x, axes, keepdims=True)
    variance = jnp.mean(centered**2, axes, keepdims=True)
    return centered * jax.lax.rsqrt(variance + eps)
