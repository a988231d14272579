"""Small systems with exact answers, shared by the tests of estimators."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Linear:
    """s_t = s_{t-1} + theta, L_t = s_t: the sum of losses has gradient T(T+1)/2."""

    def init(self, key):
        del key
        return jnp.zeros(())

    def step(self, theta, state, key):
        del key
        return state + theta, state + theta


class Multilinear:
    """s_t = theta s_{t-1}, s_0 = 1, and a loss only at t = 4: L = theta^4."""

    def init(self, key):
        del key
        return jnp.ones(()), jnp.zeros((), jnp.int32)

    def step(self, theta, state, key):
        del key
        x, t = state
        x, t = theta * x, t + 1
        return (x, t), jnp.where(t == 4, x, 0.0)


class Spied(NamedTuple):
    """What a `Spy` remembers of an episode.

    Attributes:
      step: inner steps since the episode began.
      total: sum of the thetas of all those steps, ``[theta]``.
      losses: the losses of the latest steps, a ring ``[window]``.
      noise: chance of this episode, so that losses differ between lanes.
    """

    step: jax.Array
    total: jax.Array
    losses: jax.Array
    noise: jax.Array


class Spy:
    """L_t = c_t . (theta_1 + ... + theta_t)^2 + chance: every loss sees all thetas so far.

    Its state tells which perturbations a particle lived through, so a test can work out
    from the outside which of them each loss must be credited to.
    """

    def __init__(self, window: int):
        self.window = window

    def init(self, key):
        return Spied(
            jnp.zeros((), jnp.int32),
            jnp.zeros(3),
            jnp.zeros(self.window),
            jax.random.normal(key, ()),
        )

    def step(self, theta, state, key):
        total = state.total + theta
        weight = jnp.sin(1.0 + state.step + jnp.arange(3)) + state.noise
        loss = jnp.sum(weight * total**2) + jax.random.normal(key, ())
        losses = state.losses.at[state.step % self.window].set(loss)
        return Spied(state.step + 1, total, losses, state.noise), loss


class Windows(NamedTuple):
    step: jax.Array
    thetas: jax.Array


class Quadrant:
    """L_w = sum over tau <= w of g[w, tau] . theta_tau, one step per window.

    Attributes:
      gradients: ``[windows, windows, theta]``, zero above the diagonal.
    """

    def __init__(self, gradients):
        self.gradients = jnp.asarray(gradients)

    def init(self, key):
        del key
        return Windows(jnp.zeros((), jnp.int32), jnp.zeros(self.gradients.shape[1:]))

    def step(self, theta, state, key):
        del key
        thetas = state.thetas.at[state.step].set(theta)
        loss = jnp.sum(self.gradients[state.step] * thetas)
        return Windows(state.step + 1, thetas), loss


class Begun:
    """s_0 = theta num_steps through `begin`, then constant; L_t = s."""

    def init(self, key):
        del key
        return jnp.zeros(())

    def begin(self, theta, state, num_steps):
        del state
        return theta * num_steps

    def step(self, theta, state, key):
        del theta, key
        return state, state


class Diverging:
    """Half of the episodes turn non-finite at step 3, whatever theta is."""

    def init(self, key):
        bad = jax.random.bernoulli(key)
        return bad, jnp.zeros((), jnp.int32)

    def step(self, theta, state, key):
        del key
        bad, t = state
        return (bad, t + 1), jnp.where(bad & (t >= 3), jnp.nan, theta)
