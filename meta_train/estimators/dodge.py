"""DODGE, deep online directional gradients (Silver et al., ICLR 2022).

At the start of an episode each lane draws a direction ``v`` of theta, signs of equal
chance, keeps it for the whole episode and carries ``J_t v``, how the state moves along it:

    J_t v = (df/ds) J_{t-1} v + (df/dtheta) v,    g_w = (dL_w/dtheta . v) v.

Since ``E v v^T`` is the identity, unbiased for the gradient of the loss itself, like `RTRL`
with one forward derivative in place of P. Variance ``(P - 1) |grad|^2`` a lane however many
windows an episode has (with normal directions it would be P + 1), and none for a single
meta-parameter. Full ES, told window by window, comes to this as its ``sigma`` goes to 0, but
for its normal directions.

Compute: about two forward passes. Memory: two states and one direction a lane. Wins where
theta is too large for `RTRL`, episodes too long for `BPTT`, and losses smooth. The system
must allow forward differentiation (no ``jax.custom_vjp`` within).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meta_train.estimators.analytic import (
    AnalyticGradient,
    Episode,
    Point,
    Slope,
    smooth,
)
from meta_train.system import State


class Directional(NamedTuple):
    """How the state moves as theta does.

    Attributes:
      direction: v, the direction in which theta moves, ``[theta]``.
      tangent: J v, like the smooth part of the state.
    """

    direction: Float[Array, "theta"]
    tangent: State


class DODGE(AnalyticGradient):
    """Deep online directional gradients; see the module docstring."""

    def _carried(
        self, flat: Float[Array, "theta"], state: State, key: PRNGKeyArray
    ) -> Directional:
        direction = jax.random.rademacher(key, flat.shape, flat.dtype)
        return Directional(direction, jax.tree.map(jnp.zeros_like, smooth(state)))

    def _window(
        self, theta: Point, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Slope, Episode]:
        xs = self._inputs(episode.system, key)
        direction, tangent = episode.carried
        (state, losses, guarded), slope, tangent = self._along(
            theta, episode, xs, direction, tangent
        )
        episode = episode._replace(
            system=state,
            window=episode.window + 1,
            carried=Directional(direction, tangent),
        )
        return Slope(slope * direction, losses, guarded), episode
