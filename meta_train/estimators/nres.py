"""Noise-reuse evolution strategies: one perturbation per episode, one estimate per window.

A pair draws ``eps ~ N(0, sigma^2 I)`` when an episode begins, keeps it in every window of
that episode, and contributes per window

    g_w = eps (L_w^+ - L_w^-) / (2 sigma^2).

Unbiased for the gradient of ``E L(theta + eps)``, the objective of full ES, but with an
update every window instead of every episode. Published twice: as NRES (Li, Harrison,
Sohl-Dickstein, Smith & Metz 2023, arXiv 2304.12180) and as ES-Single (Vicol, Kolter &
Swersky 2023, arXiv 2304.11153). Memory: one state per particle and one theta-sized vector
per pair; compute: a window of two particles.

For linear losses an episode's estimate has variance ``(P + 1) |grad|^2`` per pair with
``P`` meta-parameters, however many windows there are, where that of `PES` may grow with
their number: prefer it beyond some 50 to 100 windows, `PES` below where windows pull the
same way. An episode without an end never draws again and sees as many directions as
there are pairs: give such problems an artificial horizon.
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
from meta_train.system import choose


class NRES(EvolutionStrategy):
    """Noise-reuse evolution strategies; see the module docstring."""

    def _window(
        self, theta: Perturbable, lane: Lane, key: PRNGKeyArray
    ) -> tuple[WindowResult, Lane]:
        begins = lane.window == 0
        eps = choose(begins, theta.noise(key, self.sigma), lane.xi)
        pair = theta.along(eps, 1.0, -1.0)
        states, losses = self._unroll(pair, lane.system, lane, 0, key)
        losses, guarded = guard(losses, self.loss_cap)
        noise = theta.vector(eps)
        grad = noise * jnp.mean(losses[0] - losses[1]) / (2 * self.sigma**2)
        lane = lane._replace(system=states, window=lane.window + 1, xi=eps)
        return WindowResult(grad, losses, guarded, noise, 1), lane

    def _fresh(self, theta: Perturbable, key: PRNGKeyArray) -> Lane:
        return super()._fresh(theta, key)._replace(xi=theta.none())
