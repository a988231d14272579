"""Truncated backpropagation through time (Williams & Peng 1990; Werbos 1990).

Each lane runs one window from where it stands and contributes

    g_w = d/dtheta L_w(theta, stop_gradient(s_{w-1})),

the gradient of the window's mean loss as if its first state did not depend on theta. That
is exact where an episode is one window, and otherwise biased to the short term, however
long one averages: with windows shorter than the time it takes theta to act, the estimate
can point the wrong way (Wu et al. 2018, 1803.02021). The limit of truncated ES as its
``sigma`` goes to 0.

Compute: a forward and a backward pass of K steps. Memory: the K states of a window.
Wins where one window already shows what theta does and the unroll is smooth.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meta_train.estimators.analytic import AnalyticGradient, Episode, Point, Slope


class TBPTT(AnalyticGradient):
    """Truncated backpropagation through time; see the module docstring."""

    def _window(
        self, theta: Point, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Slope, Episode]:
        xs = self._inputs(episode.system, key)
        first = episode.window == 0

        def loss(flat: Float[Array, "theta"]):
            state, losses, guarded = self._unroll(
                theta.unravel(flat), episode.system, xs, episode.horizon, first
            )
            return jnp.mean(losses), (state, losses, guarded)

        grad, (state, losses, guarded) = jax.grad(loss, has_aux=True)(theta.flat)
        episode = episode._replace(system=state, window=episode.window + 1)
        return Slope(grad, losses, guarded), episode
