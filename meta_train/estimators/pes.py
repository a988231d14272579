"""Persistent evolution strategies (Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835).

Per window ``w`` of an episode each pair draws ``eps_w ~ N(0, sigma^2 I)``, runs the window
under ``theta +- eps_w`` from its own states, and contributes

    g_w = xi_w (L_w^+ - L_w^-) / (2 sigma^2),    xi_w = eps_1 + ... + eps_w.

The loss of a window depends on every perturbation before it, hence ``xi_w`` and not
``eps_w``; that removes the truncation bias of truncated ES. Unbiased for the gradient of
the loss smoothed by *independent* noise in every window (equal to full ES smoothing only
for quadratic losses). Memory: one state and one theta-sized sum per particle pair.
Variance grows with the number of windows where their gradients are uncorrelated.
"""

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from meta_train.estimators.evolution import (
    EvolutionStrategy,
    Lane,
    WindowResult,
    guard,
)
from meta_train.estimators.perturbations import Perturbable


class PES(EvolutionStrategy):
    """Persistent evolution strategies; see the module docstring."""

    def _window(
        self, theta: Perturbable, lane: Lane, key: PRNGKeyArray
    ) -> tuple[WindowResult, Lane]:
        eps = theta.noise(key, self.sigma)
        xi = lane.xi + theta.vector(eps)
        pair = theta.along(eps, 1.0, -1.0)
        states, losses = self._unroll(pair, lane.system, lane, 0, key)
        losses, guarded = guard(losses, self.loss_cap)
        delta = jnp.mean(losses[0] - losses[1])
        grad = xi * delta / (2 * self.sigma**2)
        lane = lane._replace(system=states, window=lane.window + 1, xi=xi)
        return WindowResult(grad, losses, guarded, xi, lane.window), lane
