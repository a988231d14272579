"""Full evolution strategies: one perturbation for a whole episode, one estimate per episode.

A pair draws ``eps ~ N(0, sigma^2 I)``, runs a complete episode under ``theta +- eps`` and
contributes ``eps (L^+ - L^-) / (2 sigma^2)`` with ``L`` the mean loss per step. Unbiased for
the gradient of ``E L(theta + eps)``, variance ``(P + 1) |grad|^2`` for linear losses with
``P`` meta-parameters, but a whole episode must pass between updates (Salimans et al.
2017, 1703.03864; the reference in Vicol, Metz & Sohl-Dickstein 2021, 2112.13835).
"""

from typing import Any

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


class FullES(EvolutionStrategy):
    """Full evolution strategies; see the module docstring."""

    whole_episodes = True

    def _window(
        self, theta: Perturbable, lane: Lane, key: PRNGKeyArray
    ) -> tuple[WindowResult, Lane]:
        eps = theta.noise(key, self.sigma)
        pair = theta.along(eps, 1.0, -1.0)

        def body(carry: Any) -> Any:
            window, states, losses, guarded = carry
            states, window_losses = self._unroll(pair, states, lane, window, key)
            capped, share = guard(window_losses, self.loss_cap)
            return window + 1, states, losses + capped, guarded + share

        no_losses = jnp.zeros((2, self.truncation.window))
        count, states, losses, guarded = jax.lax.while_loop(
            lambda carry: carry[0] < lane.num_windows,
            body,
            (jnp.zeros((), jnp.int32), lane.system, no_losses, jnp.zeros(())),
        )
        losses, guarded = losses / count, guarded / count
        noise = theta.vector(eps)
        grad = noise * jnp.mean(losses[0] - losses[1]) / (2 * self.sigma**2)
        lane = lane._replace(system=states, window=count, xi=noise)
        return WindowResult(grad, losses, guarded, noise, 1), lane
