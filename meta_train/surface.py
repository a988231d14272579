"""The meta-loss around a theta: slices along one or two directions, raw and smoothed.

Meta-losses of long unrolls are rugged: the gradient of the raw surface says little of where
it goes down, that of the surface smoothed by Gaussian noise, which evolution strategies
follow, does (Metz et al. 2019, arXiv 1810.10180, figure 2). Functions compose:

    raw = surface.meta_loss(system, keys, num_steps=1000)
    smooth = surface.smoothed(raw, sigma=0.1, key=key, num_draws=64)
    heights = surface.plane(smooth, theta, (along, across), np.linspace(-1, 1, 41))
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from meta_train.devices import compiler_options
from meta_train.system import System, Theta, episode

Height = Callable[[Theta], Float[Array, ""]]


def meta_loss(
    system: System, keys: PRNGKeyArray, num_steps: int, *, cap: float = float("inf")
) -> Height:
    """The mean loss per step of whole episodes, as a function of theta.

    Args:
      system: what is unrolled.
      keys: of the episodes, ``[episodes]``; the same for every theta.
      num_steps: length of an episode.
      cap: losses above it, and those that are not numbers, count as this much.
    """

    def height(theta: Theta) -> Float[Array, ""]:
        one = lambda key: episode(system, theta, key, num_steps)[1]
        losses = jax.vmap(one)(keys)
        losses = jnp.where(jnp.isnan(losses), cap, losses)
        return jnp.mean(jnp.minimum(losses, cap))

    return height


def smoothed(height: Height, sigma: float, key: PRNGKeyArray, num_draws: int) -> Height:
    """``E height(theta + eps)``, ``eps ~ N(0, sigma^2 I)``, by antithetic pairs.

    The same draws for every theta: the surface is as smooth as the mean is wide.
    """

    def mean(theta: Theta) -> Float[Array, ""]:
        flat, unravel = ravel_pytree(theta)
        eps = sigma * jax.random.normal(key, (num_draws, flat.size))
        at = lambda e: 0.5 * (height(unravel(flat + e)) + height(unravel(flat - e)))
        return jnp.mean(jax.lax.map(at, eps))

    return mean


def line(
    height: Height, theta: Theta, direction: Theta, offsets: Float[Any, "points"]
) -> Float[np.ndarray, "points"]:
    """Heights at ``theta + a direction`` for every offset ``a``."""
    flat, unravel = ravel_pytree(theta)
    along, _ = ravel_pytree(direction)
    points = flat + jnp.asarray(offsets)[:, None] * along
    return _heights(height, unravel, points)


def plane(
    height: Height,
    theta: Theta,
    directions: tuple[Theta, Theta],
    offsets: Float[Any, "points"],
) -> Float[np.ndarray, "points points"]:
    """Heights at ``theta + a u + b v``; rows are offsets ``a``, columns ``b``."""
    flat, unravel = ravel_pytree(theta)
    along, across = (ravel_pytree(direction)[0] for direction in directions)
    a = jnp.asarray(offsets)
    points = flat + a[:, None, None] * along + a[None, :, None] * across
    size = len(a)
    flat_points = points.reshape(size * size, -1)
    return _heights(height, unravel, flat_points).reshape(size, size)


def _heights(height: Height, unravel: Any, points: Float[Array, "points theta"]) -> Any:
    at = lambda point: height(unravel(point))
    # Few at a time: a point may be many episodes of a network.
    heights = jax.jit(
        lambda points: jax.lax.map(at, points, batch_size=64),
        compiler_options=compiler_options(),
    )
    return np.asarray(heights(points))
