"""STAR against its equations in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import AdafactorMLP, Star

OPTIMIZER = Star(nominal_step=0.01, step_size=0.02)
DECAYS = (0.9, 0.99, 0.999)
SHAPES = {"scalar": (), "vector": (3,), "matrix": (2, 4), "rank4": (2, 3, 1, 2)}


def normal(seed):
    rng = np.random.default_rng(seed)
    return {k: np.float32(rng.normal(size=s)) for k, s in SHAPES.items()}


def random_theta():
    """Meta-parameters for which every part of the update matters."""
    rng = np.random.default_rng(0)
    theta = jax.jit(OPTIMIZER.init)(jax.random.key(0))
    noisy = lambda x: x + np.float32(0.3 * rng.normal(size=x.shape))
    layers = list(jax.tree.map(noisy, theta.layers))
    # Magnitudes are multiplied by .001: thousands are what it takes to see them.
    layers[-1] = layers[-1]._replace(b=layers[-1].b + np.array([0, 500.0, -700.0]))
    return theta._replace(layers=tuple(layers))


class NumpyStar:
    """One tensor, by the paper's update and the features of its baseline."""

    def __init__(self, layers, shape):
        self.layers = [[np.asarray(x, np.float64) for x in layer] for layer in layers]
        self.m = np.zeros((3, *shape))
        self.v = np.zeros(shape)
        self.full = np.zeros((3, *shape))  # second moments, to be averaged over axes

    def features(self, g, p):
        decays = np.reshape(DECAYS, (3,) + (1,) * g.ndim)
        self.m = decays * self.m + (1 - decays) * g
        self.v = 0.999 * self.v + 0.001 * g**2
        self.full = decays * self.full + (1 - decays) * (g**2 + 1e-30)
        if g.ndim < 2:
            row = column = self.full
            by_factors = g / np.sqrt(self.full + 1e-9)
            momentum = self.m / np.sqrt(self.full + 1e-6)
        else:
            shape = np.array(g.shape)
            second, longest = 1 + np.argsort(shape, kind="stable")[-2:]
            row = self.full.mean(longest, keepdims=True)
            column = self.full.mean(second, keepdims=True)
            mean = row.mean(second, keepdims=True)
            root = np.sqrt(np.maximum(row / (mean + 1e-9), 1e-9))
            root = root * np.sqrt(np.maximum(column, 1e-9))
            by_factors, momentum = g / root, self.m / root
            row, column = (np.broadcast_to(x, self.full.shape) for x in (row, column))
        root = np.sqrt(self.v + 1e-6)
        rows = [[g], [p], self.m, [self.v], self.m / root, [1 / root], by_factors]
        rows += [row, column, 1 / np.sqrt(row + 1e-8), 1 / np.sqrt(column + 1e-8)]
        x = np.concatenate([*rows, momentum])
        axes = tuple(range(1, x.ndim))
        return x / np.sqrt(np.mean(x**2, axis=axes, keepdims=True) + 1e-5)

    def step(self, t, g, p):
        x = self.features(g, p)
        scales = np.array([1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5])
        time = np.tanh(t / scales - 1).reshape((11,) + (1,) * g.ndim)
        x = np.concatenate([x, np.broadcast_to(time, (11, *g.shape))])
        for depth, (w, b) in enumerate(self.layers):
            x = np.tensordot(w, x, axes=((0,), (0,))) + b.reshape((-1,) + (1,) * g.ndim)
            x = np.maximum(x, 0) if depth < 2 else x
        d, m_b, m_g = x
        root = np.sqrt(self.v + 1e-6)
        nominal = np.mean(self.m, axis=0) / root
        learned = 0.02 * np.exp(0.001 * m_b) * d / root
        return -0.01 * np.exp(0.001 * m_g) * nominal - learned


def test_four_steps_equal_a_recomputation_in_numpy():
    theta, params = random_theta(), normal(1)
    tx = OPTIMIZER.transform(theta)
    update, state = jax.jit(tx.update), tx.init(params)
    numpy_rules = {k: NumpyStar(theta.layers, s) for k, s in SHAPES.items()}
    for t in range(4):
        grads = normal(10 + t)
        updates, state = update(grads, state, params)
        for k, rule in numpy_rules.items():
            expected = rule.step(t, grads[k], params[k])
            scale = np.abs(expected).max()
            np.testing.assert_allclose(
                updates[k], expected, rtol=1e-3, atol=1e-4 * scale
            )
        params = optax.apply_updates(params, updates)


def test_it_has_one_output_more_than_its_baseline():
    count = lambda o: sum(x.size for x in jax.tree.leaves(o.init(jax.random.key(0))))
    assert count(Star()) == 202 == count(AdafactorMLP()) + 5


def test_without_a_learned_term_it_is_adam_with_three_momenta():
    zero = jax.tree.map(jnp.zeros_like, OPTIMIZER.init(jax.random.key(0)))
    tx, params = OPTIMIZER.transform(zero), normal(0)
    update, state, m, v = jax.jit(tx.update), tx.init(params), [0.0] * 3, 0.0
    for t in range(3):
        grads = normal(t + 1)
        updates, state = update(grads, state, params)
        g = grads["matrix"]
        m = [d * x + (1 - d) * g for d, x in zip(DECAYS, m, strict=True)]
        v = 0.999 * v + 0.001 * g**2
        nominal = -0.01 * np.mean(m, axis=0) / np.sqrt(v + 1e-6)
        np.testing.assert_allclose(updates["matrix"], nominal, rtol=1e-4)


def test_it_descends_before_any_training():
    optimizer = Star(nominal_step=0.03, step_size=0.0)
    tx = optimizer.transform(optimizer.init(jax.random.key(0)))
    loss = lambda x: jnp.sum(x**2 * jnp.array([1.0, 100.0]))

    def body(carry, _):
        x, state = carry
        updates, state = tx.update(jax.grad(loss)(x), state, x)
        return (x + updates, state), None

    x = jnp.ones(2)
    (last, _), _ = jax.jit(lambda c: jax.lax.scan(body, c, length=100))((x, tx.init(x)))
    assert loss(last) < 0.05 * loss(x)


@pytest.mark.parametrize("which", ["m", "v", "factored"])
def test_decays_are_meta_learned(which):
    theta, params = random_theta(), normal(0)
    moved = theta._replace(
        decays=theta.decays._replace(**{which: getattr(theta.decays, which) + 0.1})
    )

    def second_step(theta):
        tx = OPTIMIZER.transform(theta)
        _, state = tx.update(normal(1), tx.init(params), params)
        return tx.update(normal(2), state, params)[0]["matrix"]

    a, b = jax.jit(second_step)(theta), jax.jit(second_step)(moved)
    assert not np.allclose(a, b, rtol=1e-3)
