"""TaskSet's eight-number Adam against its equations in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import Adam
from learned_opt.adam8p import Adam8p

STEPS = 8
SHAPES = {"scalar": (), "vector": (3,), "matrix": (2, 3), "rank4": (1, 2, 2, 3)}
FULL = Adam8p(
    0.1, 0.8, 0.95, 1e-3, l1=0.2, l2=0.3, linear_decay=1.5, exponential_decay=2.0
)


def numpy_trajectory(o, params, gradients):
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        g = g + o.l1 * np.sign(params) + 2 * o.l2 * params
        m, v = o.b1 * m + (1 - o.b1) * g, o.b2 * v + (1 - o.b2) * g**2
        s = (t - 1) / STEPS
        lr = o.learning_rate * max(1 - o.linear_decay * s, 0)
        lr = lr * np.exp(-o.exponential_decay * s)
        m_hat, v_hat = m / (1 - o.b1**t), v / (1 - o.b2**t)
        params = params - lr * m_hat / (np.sqrt(v_hat + 1e-10) + o.eps)
        yield params


@pytest.mark.parametrize("optimizer", [FULL, Adam8p(0.1, eps=1.0)])
def test_a_trajectory_equals_a_recomputation_in_numpy(optimizer):
    rng = np.random.default_rng(0)
    params = {k: np.float32(rng.normal(size=s)) for k, s in SHAPES.items()}
    gradients = [
        {k: np.float32(rng.normal(size=s)) for k, s in SHAPES.items()}
        for _ in range(STEPS)
    ]
    theta = optimizer.init(jax.random.key(0))
    tx = optimizer.transform(theta, num_steps=STEPS)
    expected = {
        k: list(numpy_trajectory(optimizer, params[k], [g[k] for g in gradients]))
        for k in SHAPES
    }
    update, state = jax.jit(tx.update), tx.init(params)
    for t, grads in enumerate(gradients):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
        for k in SHAPES:
            np.testing.assert_allclose(params[k], expected[k][t], rtol=1e-4, atol=1e-6)


def test_it_has_8_meta_parameters_and_6_without_penalties():
    count = lambda o: len(jax.tree.leaves(o.init(jax.random.key(0))))
    assert count(Adam8p(l1=0.1)) == 8 and count(Adam8p(l2=0.1)) == 8
    assert count(Adam8p(l1=0.0, l2=0.0)) == 6


def test_without_penalties_and_decays_it_is_adam():
    grads = [jnp.array([0.3, -2.0]), jnp.array([0.1, 1.0])]
    plain = Adam8p(0.1, l1=0.0, l2=0.0)
    ours, theirs = (
        o.transform(o.init(jax.random.key(0)), num_steps=2) for o in (plain, Adam(0.1))
    )
    a, b = ours.init(grads[0]), theirs.init(grads[0])
    for g in grads:
        x, a = ours.update(g, a, g)
        y, b = theirs.update(g, b, g)
        np.testing.assert_allclose(x, y, rtol=1e-5)


def test_a_line_that_ends_early_stops_training():
    optimizer = Adam8p(linear_decay=4.0)
    tx = optimizer.transform(optimizer.init(jax.random.key(0)), num_steps=8)
    x = jnp.ones(2)
    state, sizes = tx.init(x), []
    for _ in range(4):
        updates, state = tx.update(x, state, x)
        sizes.append(-float(updates[0]) / 1e-3)
    np.testing.assert_allclose(sizes, [1.0, 0.5, 0.0, 0.0], atol=1e-4)


def test_it_needs_the_length_of_the_run():
    optimizer = Adam8p()
    tx = optimizer.transform(optimizer.init(jax.random.key(0)))
    x = jnp.ones(2)
    with pytest.raises(ValueError, match=r"Adam8p needs .*num_steps=\.\.\."):
        tx.update(x, tx.init(x), x)
