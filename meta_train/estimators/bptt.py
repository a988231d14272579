"""Backpropagation through a whole episode, one estimate per episode.

Each lane runs a complete episode of W windows and contributes the exact gradient of its
mean loss per step, unsmoothed: ``d/dtheta (1/T) sum_t L_t(theta)`` (Rumelhart, Hinton &
Williams 1986; for hyperparameters Maclaurin, Duvenaud & Adams 2015, 1502.03492).

Memory: the states at the borders of windows and the K states within one window, ``W + K``
in place of ``T = W K``, as every window is run again on the way back (Griewank & Walther
2000; Chen et al. 2016, 1604.06174); least where ``K`` is about the root of ``T``. Compute:
two forward passes and one backward pass of ``max_horizon`` steps, for shorter episodes too.
Wins where the unroll is short and smooth; over long chaotic ones the exact gradient
explodes (Metz et al. 2019, 1810.10180) and smoothing estimators do better.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from meta_train.estimators.analytic import (
    AnalyticGradient,
    Episode,
    Point,
    Slope,
    choose,
)
from meta_train.system import State


class BPTT(AnalyticGradient):
    """Backpropagation through a whole episode; see the module docstring."""

    whole_episodes = True

    def _window(
        self, theta: Point, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Slope, Episode]:
        count = episode.num_windows

        def loss(flat: Float[Array, "theta"]):
            thetas = theta.unravel(flat)

            @functools.partial(jax.checkpoint, prevent_cse=False)
            def window(state: State, index: Int[Array, ""]):
                # After its end an episode runs its first window again and again. That
                # counts for nothing, and unlike the steps after a planned end it is sure
                # to have derivatives that a weight of zero makes zero.
                active = index < count
                first = (index == 0) | ~active
                start = choose(active, state, episode.system)
                xs = self._inputs(start, key, index)
                end, losses, guarded = self._unroll(
                    thetas, start, xs, episode.horizon, first
                )
                share = active / count
                losses = jnp.where(active, losses / count, 0.0)
                return choose(active, end, state), (losses, guarded * share)

            windows = jnp.arange(self.truncation.max_windows)
            state, results = jax.lax.scan(window, episode.system, windows)
            losses, guarded = jax.tree.map(lambda x: jnp.sum(x, axis=0), results)
            return jnp.mean(losses), (state, losses, guarded)

        grad, (state, losses, guarded) = jax.grad(loss, has_aux=True)(theta.flat)
        return Slope(grad, losses, guarded), episode._replace(
            system=state, window=count
        )
