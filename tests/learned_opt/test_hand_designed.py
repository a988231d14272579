"""The hand-designed optimizers are those of optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import moments

PAIRS = {
    "sgd": (learned_opt.Sgd(0.1), optax.sgd(0.1)),
    "momentum": (learned_opt.Momentum(0.1, 0.9), optax.sgd(0.1, momentum=0.9)),
    "adam": (learned_opt.Adam(0.1, 0.8, 0.95, 1e-6), optax.adam(0.1, 0.8, 0.95, 1e-6)),
    "adam without momentum": (learned_opt.Adam(0.1, b1=0.0), optax.adam(0.1, b1=0.0)),
    "nadamw": (
        learned_opt.NAdamW(0.1, weight_decay=0.02),
        optax.nadamw(0.1, weight_decay=0.02),
    ),
    "adamw": (
        learned_opt.NAdamW(0.1, weight_decay=0.02, nesterov=False),
        optax.adamw(0.1, weight_decay=0.02),
    ),
    "nadamw of a tiny eps": (
        learned_opt.NAdamW(1e-11, eps=1e-15),
        optax.nadamw(1e-11, eps=1e-15, weight_decay=0.0),
    ),
    "l2": (
        learned_opt.NAdamW(0.1, l2=0.3, nesterov=False),
        optax.chain(optax.add_decayed_weights(0.3), optax.adam(0.1)),
    ),
    "schedule": (
        learned_opt.NAdamW(
            0.1, warmup_fraction=0.2, constant_fraction=0.5, min_lr_mult=0.1
        ),
        optax.nadamw(
            optax.join_schedules(
                [
                    optax.linear_schedule(0.025, 0.1, 3),
                    optax.constant_schedule(0.1),
                    optax.cosine_decay_schedule(0.1, 10, alpha=0.1),
                ],
                [3, 10],
            ),
            weight_decay=0.0,
        ),
    ),
}


def trajectory(tx, steps=20):
    params = {"w": jnp.linspace(-1, 1, 6).reshape(2, 3), "b": jnp.array(0.3)}

    def body(carry, key):
        params, state = carry
        noise = jax.random.normal(key, (6,)).reshape(2, 3)
        grads = {"w": params["w"] + 0.3 * noise, "b": params["b"] + noise[0, 0]}
        updates, state = tx.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), updates

    keys = jax.random.split(jax.random.key(0), steps)
    return jax.jit(lambda: jax.lax.scan(body, (params, tx.init(params)), keys)[1])()


@pytest.mark.parametrize("name", PAIRS)
def test_updates_equal_those_of_optax(name):
    ours, theirs = PAIRS[name]
    theta = ours.init(jax.random.key(0))
    a = trajectory(ours.transform(theta, num_steps=20))
    b = trajectory(theirs)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * np.abs(y).max())


def test_a_schedule_needs_the_length_of_the_run():
    for options in ({"warmup_fraction": 0.1}, {"constant_fraction": 0.5}):
        optimizer = learned_opt.NAdamW(**options)
        tx = optimizer.transform(optimizer.init(jax.random.key(0)))
        x = jnp.ones(2)
        with pytest.raises(ValueError, match=r"NAdamW needs .*num_steps=\.\.\."):
            tx.update(x, tx.init(x), x)


def test_l2_pulls_weights_towards_zero():
    optimizer = learned_opt.NAdamW(l2=0.1)
    tx = optimizer.transform(optimizer.init(jax.random.key(0)))
    x = jnp.array([2.0, -3.0])
    updates, _ = tx.update(jnp.zeros(2), tx.init(x), x)
    assert np.all(np.sign(updates) == -np.sign(x))


@pytest.mark.parametrize("nesterov", [False, True])
def test_without_decay_what_has_no_gradient_does_not_move(nesterov):
    optimizer = learned_opt.NAdamW(0.1, nesterov=nesterov)
    ours = optimizer.transform(optimizer.init(jax.random.key(0)))
    theirs = optax.nadamw(0.1, weight_decay=0.0, nesterov=nesterov)
    x, zeros = jnp.full(2, 100.0), jnp.zeros(2)
    for tx in (ours, theirs):
        state = tx.init(x)
        for _ in range(3):
            updates, state = tx.update(zeros, state, x)
            np.testing.assert_array_equal(optax.apply_updates(x, updates), x)


@pytest.mark.parametrize("b2", [0.999, 0.0])
@pytest.mark.parametrize("above", [0.0, 0.1])
@pytest.mark.parametrize(
    "kind", [learned_opt.Adam, learned_opt.Adam8p, learned_opt.NAdamW]
)
def test_an_average_without_memory_has_a_finite_meta_gradient(kind, above, b2):
    optimizer = kind(0.1, b1=0.0, b2=b2)
    theta = optimizer.init(jax.random.key(0))
    theta = theta._replace(log_one_minus_b1=theta.log_one_minus_b1 + above)

    def distance(theta):
        tx = optimizer.transform(theta, num_steps=10)
        x = jnp.array([1.0, -2.0, 0.0])
        state = tx.init(x)
        for _ in range(3):
            updates, state = tx.update(x, state, x)
            x = optax.apply_updates(x, updates)
        return jnp.sum(x**2)

    slopes = jax.grad(distance)(theta)
    assert all(np.isfinite(slope) for slope in jax.tree.leaves(slopes))
    assert slopes.log_learning_rate < 0


@pytest.mark.parametrize("step", [1, 2, 5])
def test_the_correction_of_an_average_has_the_slope_of_its_definition(step):
    correction = lambda rate: moments.debias(jnp.int32(step), rate)
    defined = lambda rate: 1 / (1 - (1 - rate) ** step)
    for rate in (0.01, 0.5, 1.0):
        for f, g in ((correction, defined), (jax.grad(correction), jax.grad(defined))):
            np.testing.assert_allclose(f(rate), g(rate), rtol=1e-5)


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "nadamw"])
def test_every_real_vector_is_a_valid_optimizer(name):
    optimizer = learned_opt.get(name)()
    theta = optimizer.init(jax.random.key(0))
    for shift in (-5.0, 5.0):
        moved = jax.tree.map(lambda x, s=shift: x + s, theta)
        tx = optimizer.transform(moved, num_steps=10)
        x = jnp.array([1.0, -1e-3, 0.0])
        state = tx.init(x)
        for _ in range(3):
            updates, state = tx.update(x, state, x)
        assert np.isfinite(updates).all()
