"""One outer step: clip, update, skip what is not finite, any optax optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from meta_systems import Linear

import learned_opt
from meta_train import PES, Truncation, outer

KEY = jax.random.key(0)
ESTIMATOR = PES(Linear(), Truncation.constant(4, 2), num_pairs=8, sigma=0.1)


class _Fixed:
    """An estimator that always says the same."""

    def __init__(self, grad):
        self.grad = jax.tree.map(jnp.float32, grad)

    def init(self, theta, key):
        del theta, key
        return jnp.zeros(())

    def estimate(self, theta, state, key):
        from meta_train.estimators import Estimate

        del theta, key
        return Estimate(self.grad, jnp.float32(1.0), {"loss": jnp.float32(1.0)}), state


jax.tree_util.register_pytree_node(
    _Fixed,
    lambda x: ((), (x.grad["a"].item(), x.grad["b"].item())),
    lambda aux, _: _Fixed({"a": aux[0], "b": aux[1]}),
)


def _one_step(grad, clip=0.1):
    theta = {"a": jnp.float32(0.0), "b": jnp.float32(0.0)}
    tx = optax.sgd(1.0)
    estimators = (_Fixed(grad),)
    state = outer.start(estimators, theta, tx, KEY)
    return outer.make_step(tx, clip=clip)(estimators, state)


def test_the_gradient_is_clipped_elementwise():
    state, metrics = _one_step({"a": 5.0, "b": -0.03})
    np.testing.assert_allclose(state.theta["a"], -0.1)
    np.testing.assert_allclose(state.theta["b"], 0.03)
    assert metrics["clipped"] == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(bad):
    state, metrics = _one_step({"a": bad, "b": 1.0})
    assert state.theta["a"] == 0.0 and state.theta["b"] == 0.0
    assert state.step == 1 and metrics["skipped"] == 1


def test_descent_follows_the_gradient_of_a_linear_system():
    tx = optax.sgd(0.01)
    state = outer.start((ESTIMATOR,), jnp.float32(0.0), tx, KEY)
    step = outer.make_step(tx, clip=100.0)
    for _ in range(20):
        state, _ = step((ESTIMATOR,), state)
    # Mean gradient per step of an episode of 4: 2.5; the first episodes are cut.
    np.testing.assert_allclose(state.theta, -20 * 0.01 * 2.5, rtol=0.3)


def test_the_same_key_gives_the_same_run():
    def run():
        tx = optax.adam(0.1)
        state = outer.start((ESTIMATOR,), jnp.float32(0.5), tx, KEY)
        step = outer.make_step(tx)
        for _ in range(5):
            state, metrics = step((ESTIMATOR,), state)
        return state.theta, metrics

    jax.tree.map(np.testing.assert_array_equal, run(), run())


def test_the_average_lags_behind_theta_and_starts_as_a_plain_mean():
    tx = optax.sgd(1.0)
    estimators = (_Fixed({"a": -0.1, "b": 0.0}),)
    theta = {"a": jnp.float32(0.0), "b": jnp.float32(0.0)}
    state = outer.start(estimators, theta, tx, KEY)
    step = outer.make_step(tx, average_rate=0.01)
    for _ in range(4):
        state, _ = step(estimators, state)
    np.testing.assert_allclose(state.theta["a"], 0.4, rtol=1e-5)
    np.testing.assert_allclose(
        state.average["a"], np.mean([0.1, 0.2, 0.3, 0.4]), rtol=1e-5
    )


@pytest.mark.parametrize("name", ["scale_free", "hierarchical", "per_parameter_mlp"])
def test_a_learned_optimizer_can_be_the_outer_optimizer(name):
    optimizer = learned_opt.get(name)()
    tx = optimizer.transform(optimizer.init(KEY), num_steps=50)
    theta = {"w": jnp.full((3, 2), 0.5), "b": jnp.zeros(2)}

    class Sum(Linear):
        def step(self, theta, state, key):
            total = sum(jnp.sum(x) for x in jax.tree.leaves(theta))
            return super().step(total, state, key)

    estimator = PES(Sum(), Truncation.constant(4, 2), num_pairs=8, sigma=0.1)
    state = outer.start((estimator,), theta, tx, KEY)
    step = outer.make_step(tx)
    for _ in range(3):
        state, metrics = step((estimator,), state)
    assert np.isfinite(metrics["loss"]) and metrics["skipped"] == 0
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.theta))
    assert not np.array_equal(state.theta["w"], theta["w"])
