"""Stale gradients: what arrives is the gradient of n steps ago."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
import tasksets
from meta_train import InnerTraining
from meta_train.stale_gradients import (
    StaleOptimizer,
    StaleRule,
    delay_gradients,
    sample_delay,
    stale,
)

KEY = jax.random.key(3)
TASK = "small_mlp/seed1@digits?hidden=6&activation=tanh&batch_size=8"


@pytest.mark.parametrize("delay", [1, 2, 5])
def test_a_gradient_arrives_after_the_delay_and_the_first_until_then(delay):
    tx = delay_gradients(delay)
    grads = {"a": jnp.arange(1.0, 13)[:, None] * jnp.ones(3), "b": jnp.arange(1.0, 13)}

    def step(state, g):
        g, state = tx.update(g, state)
        return state, g

    start = tx.init(jax.tree.map(lambda g: g[0], grads))
    _, late = jax.jit(lambda start: jax.lax.scan(step, start, grads))(start)
    expected = np.maximum(np.arange(1, 13) - delay, 1)
    np.testing.assert_array_equal(late["b"], expected)
    np.testing.assert_array_equal(late["a"], expected[:, None] * np.ones(3))


def test_it_chains_with_any_transform_and_descends_from_old_parameters():
    rate, delay = 0.1, 2
    tx = optax.chain(delay_gradients(delay), optax.sgd(rate))
    x, state = jnp.float32(1.0), tx.init(jnp.float32(1.0))
    seen = [1.0]
    for t in range(8):
        updates, state = tx.update(2 * x, state, x)
        x = optax.apply_updates(x, updates)
        seen.append(seen[-1] - rate * 2 * seen[max(t - delay, 0)])
        np.testing.assert_allclose(x, seen[-1], rtol=1e-5)


def _losses(optimizer, num_steps=8):
    theta = optimizer.init(jax.random.key(0))

    @jax.jit
    def run(system, theta):
        state = system.begin(theta, system.init(KEY), jnp.float32(num_steps))
        keys = jax.random.split(KEY, num_steps)
        return jax.lax.scan(lambda s, k: system.step(theta, s, k), state, keys)[1]

    return np.asarray(run(InnerTraining(tasksets.get(TASK), optimizer), theta))


def test_a_stale_rule_trains_as_the_stale_transform_does():
    rule = learned_opt.Adam()
    assert isinstance(stale(rule, 3), StaleRule)
    assert isinstance(stale(StaleOptimizer(rule, 1), 3), StaleOptimizer)
    fresh, late = _losses(rule), _losses(stale(rule, 3))
    np.testing.assert_allclose(late, _losses(StaleOptimizer(rule, 3)), rtol=1e-4)
    np.testing.assert_allclose(fresh[0], late[0], rtol=1e-6)
    assert np.all(fresh[2:] != late[2:])


def test_a_stale_rule_is_as_large_and_as_shared_as_its_rule():
    rule = learned_opt.HyperV2()
    late = stale(rule, 3)
    assert late.numbers_held == rule.numbers_held + 3
    theta = jax.eval_shape(rule.init, KEY)
    shift = lambda optimizer: jax.eval_shape(
        lambda theta: optimizer.shift(theta, theta, 1.0), theta
    )
    assert jax.tree.structure(shift(late)) == jax.tree.structure(shift(rule))
    assert jax.tree.structure(shift(late)) != jax.tree.structure(theta)


def test_no_delay_below_one_and_the_law_is_that_of_velo():
    for make in (delay_gradients, lambda delay: stale(learned_opt.Adam(), delay)):
        with pytest.raises(ValueError, match="at least 1 step, not 0"):
            make(0)
    delays = np.array([sample_delay(seed) for seed in range(5000)])
    assert set(delays) == set(range(9))
    assert abs(np.mean(delays > 0) - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 5000)
