"""Truncated evolution strategies: cheap, low variance, biased to the short term.

Each lane keeps *one* state, advanced under the unperturbed theta. Every window a pair
starts from it under ``theta +- eps_w`` and contributes ``eps_w (L_w^+ - L_w^-) / (2
sigma^2)``. What theta did to the windows before is not seen: the estimate points down the
loss of one window from a fixed start (short-horizon bias; Wu et al. 2018, 1803.02021).
This is the baseline of Vicol, Metz & Sohl-Dickstein 2021 (arXiv 2112.13835) and phase one
of Metz et al. 2020 (2009.11243). Compute: three particles a lane.
"""

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from meta_train.estimators.evolution import (
    EvolutionStrategy,
    Lane,
    WindowResult,
    guard,
)
from meta_train.estimators.perturbations import Perturbable


class TruncatedES(EvolutionStrategy):
    """Truncated evolution strategies; see the module docstring."""

    particles = 1
    unrolled = 3

    def _window(
        self, theta: Perturbable, lane: Lane, key: PRNGKeyArray
    ) -> tuple[WindowResult, Lane]:
        eps = theta.noise(key, self.sigma)
        starts = jax.tree.map(lambda x: jnp.concatenate([x] * 3), lane.system)
        three = theta.along(eps, 1.0, -1.0, 0.0)
        states, losses = self._unroll(three, starts, lane, 0, key)
        pair, guarded = guard(losses[:2], self.loss_cap)
        delta = jnp.mean(pair[0] - pair[1])
        noise = theta.vector(eps)
        grad = noise * delta / (2 * self.sigma**2)
        lane = lane._replace(
            system=jax.tree.map(lambda x: x[2:], states),
            window=lane.window + 1,
            xi=noise,
        )
        return WindowResult(grad, pair, guarded, noise, 1), lane
