"""Generalised persistent evolution strategies: a perturbation lives for several windows.

A pair draws ``eps_i ~ N(0, sigma^2 I)`` every ``interval`` windows of an episode and
contributes per window, with ``i`` the perturbation in force,

    g_w = xi_i (L_w^+ - L_w^-) / (2 sigma^2),    xi_i = eps_1 + ... + eps_i.

An interval of one window is `PES`, one of a whole episode is `NRES`; between them lies a
family in one parameter (Li, Harrison, Sohl-Dickstein, Smith & Metz 2023, arXiv 2304.12180).
Unbiased for the gradient of the loss smoothed by noise that is constant within an
interval and independent between intervals. For linear losses its variance is that of
`PES` with the windows of each interval merged into one. Memory: one state per particle,
two theta-sized vectors per pair; compute: a window of two particles. It wins where
gradients of nearby windows agree and those of distant ones do not.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from meta_train.estimators.evolution import (
    EvolutionStrategy,
    Lane,
    WindowResult,
    guard,
)
from meta_train.estimators.lanes import choose
from meta_train.estimators.perturbations import Perturbable


@dataclasses.dataclass(frozen=True)
class GPES(EvolutionStrategy):
    """Generalised persistent evolution strategies; see the module docstring.

    Attributes:
      interval: windows that share a perturbation, >= 1, counted from the start of the
        episode; the last interval of an episode may be shorter.
    """

    interval: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.interval < 1:
            raise ValueError(
                f"interval must be at least 1 window, got {self.interval}."
            )

    def _fresh(self, theta: Perturbable, key: PRNGKeyArray) -> Lane:
        return super()._fresh(theta, key)._replace(eps=theta.none())

    def _window(
        self, theta: Perturbable, lane: Lane, key: PRNGKeyArray
    ) -> tuple[WindowResult, Lane]:
        draws = lane.window % self.interval == 0
        eps = choose(draws, theta.noise(key, self.sigma), lane.eps)
        xi = jnp.where(draws, lane.xi + theta.vector(eps), lane.xi)
        pair = theta.along(eps, 1.0, -1.0)
        states, losses = self._unroll(pair, lane.system, lane, 0, key)
        losses, guarded = guard(losses, self.loss_cap)
        grad = xi * jnp.mean(losses[0] - losses[1]) / (2 * self.sigma**2)
        intervals = lane.window // self.interval + 1
        lane = lane._replace(system=states, window=lane.window + 1, xi=xi, eps=eps)
        return WindowResult(grad, losses, guarded, xi, intervals), lane
