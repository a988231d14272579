"""UORO, unbiased online recurrent optimization (Tallec & Ollivier 2017, 1702.05043).

In place of the matrix ``J_t = ds_t/dtheta`` of `RTRL` each lane carries two vectors whose
outer product has J_t as its mean. With signs ``nu`` of equal chance, drawn every step,

    s~_t     = rho_0 (df/ds) s~_{t-1} + rho_1 nu,
    theta~_t = theta~_{t-1} / rho_0   + nu^T (df/dtheta) / rho_1,
    g_t      = (dL_t/ds . s~_{t-1}) theta~_{t-1} + dL_t/dtheta.

Unbiased for the gradient of the loss itself for any scalings rho that do not depend on the
sign of nu; these are the ones with the least variance,

    rho_0^2 = |theta~_{t-1}| / |(df/ds) s~_{t-1}|,  rho_1^2 = |nu^T df/dtheta| / |nu|,

with ``EPSILON`` added to the denominators and to the roots. Where theta is updated between
windows the vectors mix the thetas they have seen.

Compute: a forward, a directional and two backward derivatives a step. Memory: two states
and one vector like theta. The variance is that of a random rank-one matrix in every step,
growing with the size of the *state*: expect to need many lanes or small outer steps. Wins
where neither the P derivatives of `RTRL` nor the memory of `BPTT` can be had and
directions kept for an episode (`DODGE`) are worse. The system must allow forward
differentiation (no ``jax.custom_vjp`` within).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

from meta_train.estimators.analytic import (
    AnalyticGradient,
    Episode,
    Point,
    Slope,
    choose,
    merge,
    rough,
    smooth,
)
from meta_train.estimators.evolution import guard
from meta_train.system import Driven, Episodic, State

EPSILON = 1e-7


class RankOne(NamedTuple):
    """Two vectors whose outer product is J on average.

    Attributes:
      state: s~, along the smooth part of the state, ``[state]``.
      theta: theta~, along the meta-parameters, ``[theta]``.
    """

    state: Float[Array, "state"]
    theta: Float[Array, "theta"]


class UORO(AnalyticGradient):
    """Unbiased online recurrent optimization; see the module docstring."""

    def _carried(
        self, flat: Float[Array, "theta"], state: State, key: PRNGKeyArray
    ) -> RankOne:
        del key
        vector, _ = ravel_pytree(smooth(state))
        return RankOne(jnp.zeros_like(vector), jnp.zeros_like(flat))

    def _window(
        self, theta: Point, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Slope, Episode]:
        system = self.system
        xs = self._inputs(episode.system, key)
        begin_key, step_key = jax.random.split(jax.random.fold_in(key, 1))
        step = system.advance if isinstance(system, Driven) else system.step
        state, carried = episode.system, episode.carried

        if isinstance(system, Episodic):
            first = episode.window == 0

            def start(thetas: Any, state: State, _: None):
                begun = system.begin(thetas, state, episode.horizon)
                return choose(first, begun, state), jnp.zeros(())

            begun, (state, _), _ = _step(start, theta, state, None, carried, begin_key)
            carried = choose(first, begun, carried)

        def guarded_step(thetas: Any, state: State, x: Any):
            state, loss = step(thetas, state, x)
            losses, share = guard(loss[None, None], self.loss_cap)
            return state, losses[0, 0], share

        def body(carry: tuple[State, RankOne], x: Any):
            state, carried = carry
            x, nu_key = x
            carried, (state, loss, share), grad = _step(
                guarded_step, theta, state, x, carried, nu_key
            )
            return (state, carried), (grad, loss, share)

        keys = jax.random.split(step_key, self.truncation.window)
        (state, carried), (grads, losses, shares) = jax.lax.scan(
            body, (state, carried), (xs, keys)
        )
        episode = episode._replace(
            system=state, window=episode.window + 1, carried=carried
        )
        return Slope(jnp.mean(grads, axis=0), losses, jnp.mean(shares)), episode


def _step(
    step: Callable[..., Any],
    theta: Point,
    state: State,
    x: Any,
    carried: RankOne,
    key: PRNGKeyArray,
) -> tuple[RankOne, Any, Float[Array, "theta"]]:
    """One step of the system and of the two vectors.

    Returns:
      The new vectors, what ``step`` returned, the estimate of ``dL_t / dtheta``.
    """
    vector, unravel = ravel_pytree(smooth(state))
    constant = rough(state)

    def run(flat: Float[Array, "theta"], vector: Float[Array, "state"]):
        state, loss, *rest = step(
            theta.unravel(flat), merge(unravel(vector), constant), x
        )
        return (ravel_pytree(smooth(state))[0], loss), (state, loss, *rest)

    at_theta = lambda vector: run(theta.flat, vector)[0]
    _, (moved, moved_loss) = jax.jvp(at_theta, (vector,), (carried.state,))
    at_state = lambda flat: run(flat, vector)
    (_, loss), pull, result = jax.vjp(at_state, theta.flat, has_aux=True)
    nu = jax.random.rademacher(key, vector.shape, vector.dtype)
    (kicked,) = pull((nu, jnp.zeros_like(loss)))
    (direct,) = pull((jnp.zeros_like(vector), jnp.ones_like(loss)))
    norm = jnp.linalg.norm
    rho_0 = jnp.sqrt(norm(carried.theta) / (norm(moved) + EPSILON)) + EPSILON
    rho_1 = jnp.sqrt(norm(kicked) / (norm(nu) + EPSILON)) + EPSILON
    new = RankOne(
        rho_0 * moved + rho_1 * nu,
        carried.theta / rho_0 + kicked / rho_1,
    )
    return new, result, moved_loss * carried.theta + direct
