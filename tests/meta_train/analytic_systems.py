"""Systems whose gradients are known, for the tests of estimators that differentiate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from meta_systems import Begun, Linear, Multilinear, Spy

from meta_train.estimators.bptt import BPTT
from meta_train.estimators.dodge import DODGE
from meta_train.estimators.rtrl import RTRL
from meta_train.estimators.tbptt import TBPTT
from meta_train.estimators.uoro import UORO
from meta_train.truncation import Truncation

KEY = jax.random.key(7)
UNBIASED = (BPTT, RTRL, UORO, DODGE)
ESTIMATORS = (TBPTT, *UNBIASED)
THETA = jnp.array([0.3, -0.2, 0.5])


class InfluenceBalancing:
    """s_t = A s_{t-1} + theta v: theta helps at first and harms in the long run.

    The stationary s[0] is -6 theta, so the long-run loss (s[0] - 1)^2 / 2 has the gradient
    36 theta + 6 and its minimum at -1/6 (Tallec & Ollivier 2017, section 5).
    """

    matrix = np.float32(0.5 * (np.eye(23) + np.eye(23, k=1)))
    drive = np.float32(np.where(np.arange(23) < 10, 1, -1))

    def init(self, key):
        del key
        return jnp.ones(23)

    def step(self, theta, state, key):
        del key
        state = jnp.asarray(self.matrix) @ state + theta * self.drive
        return state, 0.5 * (state[0] - 1) ** 2


class Recurrent:
    """A recurrent network of two units with a noisy input; theta is all its weights."""

    size = 2

    def init(self, key):
        return jax.random.normal(key, (self.size,)), jnp.zeros((), jnp.int32)

    def step(self, theta, state, key):
        hidden, t = state
        x = jax.random.normal(key, ())
        hidden = jnp.tanh(theta["recurrent"] @ hidden + theta["input"] * x)
        return (hidden, t + 1), (hidden @ theta["output"] - x + 0.1 * t) ** 2

    @staticmethod
    def theta():
        keys = jax.random.split(jax.random.key(3), 3)
        names = {"recurrent": (2, 2), "input": (2,), "output": (2,)}
        return {
            name: 0.7 * jax.random.normal(key, shape)
            for key, (name, shape) in zip(keys, names.items(), strict=True)
        }


class Trained(NamedTuple):
    weights: tuple
    momentum: tuple
    horizon: jax.Array


class TrainedNetwork:
    """Training a small network by SGD; theta is rate, decay, momentum, and its start."""

    def init(self, key):
        keys = jax.random.split(key)
        weights = (
            jax.random.normal(keys[0], (4, 8)) / 2,
            jax.random.normal(keys[1], (8, 1)) / 3,
        )
        return Trained(weights, jax.tree.map(jnp.zeros_like, weights), jnp.zeros(()))

    def begin(self, theta, state, num_steps):
        momentum = jax.tree.map(lambda w: theta["start"] * w, state.weights)
        return state._replace(momentum=momentum, horizon=num_steps)

    def step(self, theta, state, key):
        x = jax.random.normal(key, (16, 4))
        y = jnp.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]

        def loss(weights):
            return jnp.mean((jax.nn.silu(x @ weights[0]) @ weights[1] - y) ** 2)

        value, grads = jax.value_and_grad(loss)(state.weights)
        rate, keep = jnp.exp(theta["rate"]), jax.nn.sigmoid(theta["momentum"])
        rate = rate / (1 + jnp.exp(theta["decay"]) / state.horizon)
        momentum = jax.tree.map(lambda m, g: keep * m + g, state.momentum, grads)
        weights = jax.tree.map(lambda w, m: w - rate * m, state.weights, momentum)
        return Trained(weights, momentum, state.horizon), value

    @staticmethod
    def theta():
        values = {"rate": -2.0, "decay": 0.5, "momentum": 0.2, "start": 0.1}
        return {name: jnp.float32(value) for name, value in values.items()}


class Chained:
    """A system whose chance comes from a random key in its state, none from outside.

    Whoever unrolls it in windows of whatever length sees the same episode.
    """

    def __init__(self, system):
        self.system = system

    def init(self, key):
        chain, init_key = jax.random.split(key)
        return chain, self.system.init(init_key)

    def begin(self, theta, state, num_steps):
        chain, inner = state
        if hasattr(self.system, "begin"):
            inner = self.system.begin(theta, inner, num_steps)
        return chain, inner

    def step(self, theta, state, key):
        del key
        chain, inner = state
        chain, now = jax.random.split(chain)
        inner, loss = self.system.step(theta, inner, now)
        return (chain, inner), loss


PROBLEMS = {
    "linear": (Linear(), jnp.float32(0.5)),
    "multilinear": (Multilinear(), jnp.float32(0.9)),
    "influence balancing": (InfluenceBalancing(), jnp.float32(0.5)),
    "spy": (Spy(2), THETA),
    "begun": (Begun(), jnp.float32(0.5)),
    "recurrent network": (Recurrent(), Recurrent.theta()),
    "trained network": (TrainedNetwork(), TrainedNetwork.theta()),
}


def estimates(estimator, theta, num_windows, key=KEY):
    """The gradient and loss of consecutive windows, ``[windows, ...]``."""

    def run(estimator, theta, key):
        init_key, key = jax.random.split(key)

        def body(state, window_key):
            estimate, state = estimator.estimate(theta, state, window_key)
            return state, estimate

        keys = jax.random.split(key, num_windows)
        return jax.lax.scan(body, estimator.init(theta, init_key), keys)[1]

    return jax.jit(run)(estimator, theta, key)


def vector(tree):
    """The trees ``[windows, ...]`` as vectors ``[windows, theta]``."""
    return jax.vmap(lambda x: jax.flatten_util.ravel_pytree(x)[0])(tree)


def lockstep(horizon, window):
    return Truncation.constant(horizon, window, stagger=False)


def first_episode(cls, system, theta, truncation, num_keys=4):
    """Mean gradient over a lane's first episode, one per key, ``[keys, theta]``."""
    estimator = cls(Chained(system), truncation, 1)
    windows = 1 if issubclass(cls, BPTT) else truncation.max_windows

    def one(key):
        # The first key decides the episode; the others only pass the time.
        keys = jnp.stack(
            [key] + [jax.random.fold_in(key, w) for w in range(1, windows)]
        )

        def body(state, key):
            estimate, state = estimator.estimate(theta, state, key)
            flat, _ = jax.flatten_util.ravel_pytree(estimate.grad)
            return state, (flat, state.num_windows[0])

        _, (grads, counts) = jax.lax.scan(body, estimator.init(theta, key), keys)
        count = 1 if issubclass(cls, BPTT) else counts[0]
        return jnp.sum(grads * (jnp.arange(windows) < count)[:, None], axis=0) / count

    return jax.jit(jax.vmap(one))(jax.random.split(KEY, num_keys))
