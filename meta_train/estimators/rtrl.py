"""Real-time recurrent learning: exact gradients, forwards (Williams & Zipser 1989).

With ``s_t = f(s_{t-1}, x_t; theta)`` every lane carries ``J_t = ds_t / dtheta`` along with
the state, from window to window,

    J_t = (df/ds) J_{t-1} + df/dtheta,    dL_t / dtheta = (dL_t/ds) J_{t-1} + dL_t/dtheta,

so each window gets the gradient of its own mean loss, all of the past included. While
theta stays what it is this is exact: the windows of an episode average to what `BPTT`
gives for the episode. Where theta is updated between windows, J mixes the thetas it has
seen. Unsmoothed.

Compute: P forward derivatives a step for P meta-parameters. Memory: ``P |s|`` whatever the
length of the episode. Wins where theta is small and episodes are long or never end. The
system must allow forward differentiation (no ``jax.custom_vjp`` within).
"""

from typing import Any

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


class RTRL(AnalyticGradient):
    """Real-time recurrent learning; see the module docstring."""

    def _carried(
        self, flat: Float[Array, "theta"], state: State, key: PRNGKeyArray
    ) -> Any:
        """J of the smooth part of the state, ``[theta, ...]``."""
        del key
        return jax.tree.map(
            lambda x: jnp.zeros((flat.size, *x.shape), x.dtype), smooth(state)
        )

    def _window(
        self, theta: Point, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Slope, Episode]:
        xs = self._inputs(episode.system, key)
        basis = jnp.eye(theta.flat.size, dtype=theta.flat.dtype)
        # The episode itself is the same along all directions and is run once.
        (state, losses, guarded), grad, jacobian = jax.vmap(
            lambda direction, tangent: self._along(
                theta, episode, xs, direction, tangent
            ),
            out_axes=(None, 0, 0),
        )(basis, episode.carried)
        episode = episode._replace(
            system=state, window=episode.window + 1, carried=jacobian
        )
        return Slope(grad, losses, guarded), episode
