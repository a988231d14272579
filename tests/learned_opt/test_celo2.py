"""Celo2 against its equations in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import Celo2, Celo2Harness, LearnedOptimizer
from learned_opt.celo2 import orthogonalize

OPTIMIZER = Celo2(learning_rate=0.01)
DECAYS = (0.9, 0.99, 0.999)
SHAPES = {"scalar": (), "vector": (3,), "matrix": (2, 4), "rank4": (3, 2, 2, 5)}


def normal(seed, shapes=SHAPES):
    rng = np.random.default_rng(seed)
    return {k: np.float32(rng.normal(size=s)) for k, s in shapes.items()}


@pytest.fixture(scope="module")
def theta():
    rng = np.random.default_rng(0)
    noisy = lambda x: x + np.float32(0.2 * rng.normal(size=x.shape))
    return jax.tree.map(noisy, jax.jit(OPTIMIZER.init)(jax.random.key(0)))


def unit_rms(x):
    """Over the last two axes; the leading one counts features."""
    axes = tuple(range(1, x.ndim))[-2:]
    return x / np.sqrt(np.mean(x**2, axis=axes, keepdims=True) + 1e-9)


class NumpyCelo2:
    """One tensor, by the paper's description and the constants of its code."""

    def __init__(self, layers, shape):
        self.layers = [[np.asarray(x, np.float64) for x in layer] for layer in layers]
        self.m = np.zeros((3, *shape))
        self.v = np.zeros((1, *shape))
        self.full = np.zeros((3, *shape))

    def step(self, g, p):
        g = np.clip(g, -1000, 1000)
        decays = np.reshape(DECAYS, (3,) + (1,) * g.ndim)
        self.m = decays * self.m + (1 - decays) * g
        self.v = 0.95 * self.v + 0.05 * g**2
        self.full = decays * self.full + (1 - decays) * (g**2 + 1e-30)
        root = np.sqrt(self.v + 1e-8)
        own = [[g], [np.clip(g, -0.1, 0.1)], [p], self.m, self.v, self.m / root]
        own += [1 / root]
        if g.ndim < 2:
            x = np.concatenate([*own, g / np.sqrt(self.full + 1e-9), g / root])
        else:
            second, longest = 1 + np.argsort(g.shape, kind="stable")[-2:]
            row = self.full.mean(longest, keepdims=True)
            column = self.full.mean(second, keepdims=True)
            mean = row.mean(second, keepdims=True)
            factors = np.sqrt(np.maximum(row / (mean + 1e-9), 1e-9))
            factors = factors * np.sqrt(np.maximum(column, 1e-9))
            row, column = (np.broadcast_to(x, self.full.shape) for x in (row, column))
            own += [g / factors, g / root, row, column]
            own += [1 / np.sqrt(row + 1e-8), 1 / np.sqrt(column + 1e-8)]
            x = np.concatenate([*own, self.m / factors])
        x = unit_rms(x)
        for depth, (w, b) in enumerate(self.layers):
            w = w[: len(x)]
            x = np.tensordot(w, x, axes=((0,), (0,))) + b.reshape((-1,) + (1,) * g.ndim)
            x = np.maximum(x, 0) if depth < 2 else x
        return -0.01 * unit_rms(x[:1])[0]


def test_four_steps_equal_a_recomputation_in_numpy(theta):
    params = normal(1)
    tx = OPTIMIZER.transform(theta)
    update, state = jax.jit(tx.update), tx.init(params)
    numpy_rules = {k: NumpyCelo2(theta.layers, s) for k, s in SHAPES.items()}
    for t in range(4):
        # Small gradients show every constant, a huge one the clip.
        grads = {k: g * 10.0 ** (t - 3) for k, g in normal(10 + t).items()}
        grads["matrix"][0, 0] = 1e5 if t == 3 else grads["matrix"][0, 0]
        updates, state = update(grads, state, params)
        for k, rule in numpy_rules.items():
            expected = rule.step(grads[k], params[k])
            np.testing.assert_allclose(updates[k], expected, rtol=2e-3, atol=1e-5)
        params = optax.apply_updates(params, updates)


def test_every_matrix_takes_a_step_of_the_size_of_the_learning_rate(theta):
    params, grads = normal(0), normal(1)
    tx = OPTIMIZER.transform(theta)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    for k, u in updates.items():
        axes = tuple(range(u.ndim))[-2:]
        np.testing.assert_allclose(np.mean(u**2, axis=axes), 0.01**2, rtol=1e-3)
        assert u.shape == SHAPES[k]


def test_a_rescaled_loss_changes_little(theta):
    """The absolute constants (a clip at .1, eps) are all that is not free of scale."""
    params = normal(0, {"w": (8, 6)})
    tx = OPTIMIZER.transform(theta)
    update = jax.jit(tx.update)

    def second_step(scale):
        state = tx.init(params)
        for t in (1, 2):
            grads = {"w": scale * normal(t, {"w": (8, 6)})["w"]}
            updates, state = update(grads, state, params)
        return updates["w"] / 0.01

    np.testing.assert_allclose(second_step(30.0), second_step(100.0), atol=0.02)


def test_only_the_first_output_has_an_effect(theta):
    params, grads = normal(0), normal(1)

    def step(theta):
        tx = OPTIMIZER.transform(theta)
        return tx.update(grads, tx.init(params), params)[0]

    *first, last = theta.layers
    other = last._replace(w=last.w.at[:, 1:].add(3.0), b=last.b.at[1:].add(3.0))
    jax.tree.map(
        np.testing.assert_array_equal,
        jax.jit(step)(theta),
        jax.jit(step)(theta._replace(layers=(*first, other))),
    )


def test_orthogonalised_matrices_have_nearly_equal_singular_values():
    tx = orthogonalize()
    x = normal(0, {"tall": (12, 4), "wide": (4, 12), "stack": (3, 4, 6), "bias": (4,)})
    y, _ = tx.update(x, tx.init(x))
    for name in ("tall", "wide", "stack"):
        values = np.linalg.svd(y[name], compute_uv=False)
        ideal = np.sqrt(np.prod(y[name].shape[-2:]) / min(y[name].shape[-2:]))
        assert np.all(values > 0.6 * ideal) and np.all(values < 1.4 * ideal)
        rms = np.sqrt(np.mean(y[name] ** 2, axis=(-2, -1)))
        np.testing.assert_allclose(rms, 1, rtol=1e-3)
        u, _, v = np.linalg.svd(x[name], full_matrices=False)
        closest = u @ v
        cosine = np.sum(y[name] * closest) / np.linalg.norm(y[name])
        assert cosine / np.linalg.norm(closest) > 0.97
    np.testing.assert_array_equal(y["bias"], x["bias"])


class TestHarness:
    shapes = {"w": (4, 3), "b": (3,), "gain": ()}
    schedule = staticmethod(lambda t: 0.1 / (1 + t))
    harness = Celo2Harness(schedule, weight_decay=0.2, adamw_factor=20.0)

    def run(self, theta, tx):
        params = normal(0, self.shapes)
        state, trajectory = tx.init(params), []
        update = jax.jit(tx.update)
        for t in range(3):
            updates, state = update(normal(t + 1, self.shapes), state, params)
            trajectory.append((params, updates))
            params = optax.apply_updates(params, updates)
        return trajectory

    def test_it_is_a_learned_optimizer_with_the_theta_of_the_rule(self):
        assert isinstance(self.harness, LearnedOptimizer)
        theta = self.harness.init(jax.random.key(0))
        assert sum(x.size for x in jax.tree.leaves(theta)) == 347

    def test_a_state_can_be_made_abstractly(self, theta):
        tx = self.harness.transform(theta)
        params = normal(0, self.shapes)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
        assert tx.init(shapes) == jax.eval_shape(tx.init, params)

    def test_biases_take_the_steps_of_adamw_at_a_higher_rate(self, theta):
        ours = self.run(theta, self.harness.transform(theta, num_steps=3))
        faster = lambda t: 20 * self.schedule(t)
        adamw = self.run(theta, optax.adamw(faster, 0.9, 0.95, weight_decay=0.2))
        for name in ("b", "gain"):
            for (_, a), (_, b) in zip(ours, adamw, strict=True):
                np.testing.assert_allclose(a[name], b[name], rtol=1e-4)

    def test_matrices_take_orthogonal_steps_and_decay(self, theta):
        rule = Celo2(learning_rate=1.0).transform(theta)
        state = rule.init({"w": np.zeros((4, 3), np.float32)})
        for t, (params, updates) in enumerate(
            self.run(theta, self.harness.transform(theta))
        ):
            grads = {"w": normal(t + 1, self.shapes)["w"]}
            raw, state = rule.update(grads, state, {"w": params["w"]})
            step, _ = orthogonalize().update(raw, optax.EmptyState())
            expected = self.schedule(t) * (step["w"] - 0.2 * params["w"])
            np.testing.assert_allclose(updates["w"], expected, rtol=1e-3, atol=1e-6)

    @pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
    def test_of_half_precision_parameters_it_computes_in_float32(self, theta, dtype):
        half = lambda seed: {
            name: x.astype(dtype) for name, x in normal(seed, self.shapes).items()
        }
        single = lambda tree: {name: x.astype(np.float32) for name, x in tree.items()}
        tx = self.harness.transform(theta)
        close = lambda a, b: np.testing.assert_allclose(
            np.float32(a), np.float32(b), rtol=1e-5, atol=1e-7
        )
        params, update = half(0), jax.jit(tx.update)
        state, expected_state = tx.init(params), tx.init(single(params))
        for t in range(3):
            grads = half(t + 1)
            updates, state = update(grads, state, params)
            expected, expected_state = update(
                single(grads), expected_state, single(params)
            )
            assert {x.dtype for x in jax.tree.leaves(updates)} == {jnp.dtype(dtype)}
            expected = jax.tree.map(lambda x: x.astype(dtype), expected)
            jax.tree.map(close, updates, expected)
            jax.tree.map(close, state, expected_state)
            params = optax.apply_updates(params, updates)
        types = {x.dtype.name for x in jax.tree.leaves(state)}
        assert types == {"float32", "int32"}
