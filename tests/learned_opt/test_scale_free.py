"""The scale-free rule: what its steps are relative to, and what they do not depend on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import pretrained
from learned_opt import scale_free


def shipped(num_steps):
    return pretrained.optimizer("scale_free", num_steps=num_steps)


def steps_of(tx, params, gradients, count):
    """All updates, ``[count, *shape]`` for each tensor."""

    def body(carry, t):
        params, state = carry
        updates, state = tx.update(gradients(params, t), state, params)
        return (optax.apply_updates(params, updates), state), updates

    carry = (params, tx.init(params))
    return jax.lax.scan(body, carry, jnp.arange(count))[1]


def test_a_logistic_regression_that_starts_at_zero_is_trained():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 20)).astype(np.float32)
    y = x @ rng.normal(size=20) + rng.normal(size=256) > 0

    def loss(params):
        logits = x @ params["w"] + params["b"]
        return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, y))

    params = {"w": jnp.zeros(20), "b": jnp.zeros(())}
    gradients = lambda params, t: jax.grad(loss)(params)
    steps = jax.jit(lambda: steps_of(shipped(200), params, gradients, 200))()
    assert loss(jax.tree.map(lambda x: jnp.sum(x, axis=0), steps)) < 0.6 * np.log(2)


def test_tensors_that_start_at_zero_move_when_they_are_all_it_trains():
    tx = optax.masked(shipped(10), {"w": False, "b": True})
    params = {"w": jnp.ones((4, 3)), "b": jnp.zeros(3)}
    updates, _ = tx.update(params | {"b": jnp.ones(3)}, tx.init(params), params)
    assert np.all(np.abs(updates["b"]) > 1e-4)


def test_a_model_with_a_size_of_its_own_never_meets_the_size_for_zeros(monkeypatch):
    params = {"w": 1e-3 * jnp.arange(1.0, 13).reshape(4, 3), "b": jnp.zeros(3)}
    gradients = lambda params, t: jax.tree.map(jnp.cos, params)
    run = lambda: jax.jit(lambda: steps_of(shipped(10), params, gradients, 10))()
    before = run()
    monkeypatch.setattr(scale_free, "_OF_NOTHING", 1e3)
    jax.tree.map(np.testing.assert_array_equal, run(), before)


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6, 1e9, 1e17])
def test_steps_do_not_depend_on_the_scale_of_the_loss(factor):
    rng = np.random.default_rng(0)
    size = lambda *shape: rng.choice([-1, 1], shape) * rng.uniform(1, 10, shape)
    params = {"w": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32)}
    history = jnp.asarray(size(20, 4, 3), jnp.float32)

    def run(factor):
        gradients = lambda params, t: {"w": factor * history[t]}
        return steps_of(shipped(20), params, gradients, 20)["w"]

    run = jax.jit(run)
    expected = run(1.0)
    off = 1e-3 * np.abs(expected).max()
    np.testing.assert_allclose(run(factor), expected, rtol=0, atol=off)
