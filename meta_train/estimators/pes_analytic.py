"""PES with analytic gradients: differentiate the window, use evolution for the past only.

Beside the pair, a third particle runs the episode under the unperturbed theta, and
``h_w`` is its loss differentiated through the current window alone (what truncated
backpropagation would use). With ``xi_past = eps_1 + ... + eps_{w-1}``,

    g_w = c_w + xi_past (L_w^+ - L_w^- - 2 eps_w . h_w) / (2 sigma^2).

``xi_past`` carries what theta did to the window through the states it began from; ``c_w``
is what theta does within the window, known exactly instead of sampled; ``eps_w . h_w`` has
mean zero and cancels the window's own noise (Vicol, Metz & Sohl-Dickstein 2021, arXiv
2112.13835, section on PES with analytic gradients). Two choices of ``c_w``:

- `PESAnalytic`, the published one: ``c_w = h_w``. Its share of the window is neither smoothed
  nor taken on the pair's states, so it is unbiased where losses are quadratic or linear
  in theta and the state, and otherwise off by O(sigma^2).
- `PESAnalyticPair`: ``c_w = (dL_w^+/dtheta + dL_w^-/dtheta) / 2``, the gradients of the pair
  itself. By Stein's identity, ``E[eps L(theta + eps)] = sigma^2 E[grad L(theta + eps)]``, it
  is unbiased for the objective of `PES`, the loss smoothed by independent noise in every
  window, whatever the (smooth) loss.

For linear losses the variance is that of PES without the direct gradients of the windows:
zero where windows are independent. They win where losses are smooth and the window holds
much of the gradient; where gradients explode so do the estimates, and `PES` or `NRES` is
the better choice. The loss must be differentiable: one without a derivative has ``h_w = 0``
and loses what theta does within the window. Memory: three states and one theta-sized
vector per lane, and what a reverse pass keeps of a window; compute: three particles
forward and one (`PESAnalytic`) or three backward.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meta_train.estimators.evolution import (
    EvolutionStrategy,
    Lane,
    WindowResult,
    guard,
)
from meta_train.estimators.perturbations import Perturbable


class PESAnalytic(EvolutionStrategy):
    """PES, the window differentiated under theta; see the module docstring.

    A lane whose analytic gradient is not finite makes the estimate of plain PES in that
    window, and the whole lane counts as guarded.
    """

    particles = unrolled = 3

    def _window(
        self, theta: Perturbable, lane: Lane, key: PRNGKeyArray
    ) -> tuple[WindowResult, Lane]:
        eps = theta.noise(key, self.sigma)
        pair = jax.tree.map(lambda x: x[:2], lane.system)
        centre = jax.tree.map(lambda x: x[2:], lane.system)
        pair, losses = self._unroll(theta.along(eps, 1.0, -1.0), pair, lane, 0, key)
        h, (centre, _) = _differentiate(self, theta, (0.0,), centre, lane, key)
        states = jax.tree.map(lambda *x: jnp.concatenate(x), pair, centre)
        noise = theta.vector(eps)
        return _combine(self, lane, noise, states, losses, h[0], h[0])


class PESAnalyticPair(EvolutionStrategy):
    """PES, the window differentiated under theta +- eps; see the module docstring.

    Gradients that are not finite are dealt with as in `PESAnalytic`.
    """

    particles = unrolled = 3

    def _window(
        self, theta: Perturbable, lane: Lane, key: PRNGKeyArray
    ) -> tuple[WindowResult, Lane]:
        eps = theta.vector(theta.noise(key, self.sigma))
        grads, (states, losses) = _differentiate(
            self, theta, (eps, -eps, 0.0), lane.system, lane, key
        )
        current = jnp.mean(grads[:2], axis=0)
        return _combine(self, lane, eps, states, losses[:2], current, grads[2])


def _differentiate(
    estimator: EvolutionStrategy,
    theta: Perturbable,
    offsets: tuple[Array | float, ...],
    states: Any,
    lane: Lane,
    key: PRNGKeyArray,
) -> tuple[Float[Array, "particles theta"], Any]:
    """Each particle's gradient of its mean guarded loss; its state and losses."""

    def total(shifts: Float[Array, "particles theta"]):
        after, losses = estimator._unroll(theta.at(shifts), states, lane, 0, key)
        # One at a time: without a cap the guard would couple the members of a pair.
        guarded, _ = jax.vmap(lambda x: guard(x[None], estimator.loss_cap))(losses)
        return jnp.sum(jnp.mean(guarded, axis=(1, 2))), (after, losses)

    shifts = [jnp.broadcast_to(offset, (theta.size,)) for offset in offsets]
    return jax.grad(total, has_aux=True)(jnp.stack(shifts))


def _combine(
    estimator: EvolutionStrategy,
    lane: Lane,
    eps: Float[Array, "theta"],
    states: Any,
    losses: Float[Array, "2 steps"],
    current: Float[Array, "theta"],
    h: Float[Array, "theta"],
) -> tuple[WindowResult, Lane]:
    """The estimate from ``c_w`` (``current``) and ``h_w`` (``h``)."""
    losses, guarded = guard(losses, estimator.loss_cap)
    delta = jnp.mean(losses[0] - losses[1])
    residual = delta - 2 * jnp.sum(eps * h)
    past, xi = lane.xi, lane.xi + eps
    analytic = current + past * residual / (2 * estimator.sigma**2)
    plain = xi * delta / (2 * estimator.sigma**2)
    usable = jnp.all(jnp.isfinite(current)) & jnp.all(jnp.isfinite(h))
    grad = jnp.where(usable, analytic, plain)
    guarded = jnp.where(usable, guarded, 1.0)
    lane = lane._replace(system=states, window=lane.window + 1, xi=xi)
    return WindowResult(grad, losses, guarded, xi, lane.window), lane
