"""The hierarchical optimizer against a recomputation in numpy, and its symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import Hierarchical, loss_features, network

OPTIMIZER = Hierarchical()
DECAYS = [0.5, 0.9, 0.99, 0.999, 0.9999]


@pytest.fixture(scope="module")
def theta():
    """Random everywhere, so that no meta-parameter can hide behind a zero."""
    theta = jax.jit(OPTIMIZER.init)(jax.random.key(0))
    leaves, structure = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    noisy = [
        x + 0.1 * jax.random.normal(k, x.shape)
        for x, k in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, noisy)


def make_tree(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: (scale * rng.normal(size=shape)).astype(np.float32)
    return {"b": draw(3) + 0.5 * scale, "w": draw(4, 3)}


def test_its_meta_parameters_add_up(theta):
    sizes = {
        name: sum(x.size for x in jax.tree.leaves(part))
        for name, part in theta._asdict().items()
    }
    assert sizes == {
        "lstm": 29_952,
        "initial_hidden": 64,
        "initial_cell": 64,
        "to_lstm": 1_170,
        "to_mlp": 1_105,
        "layers": 3_410,
        "initial_from_lstm": 18,
        "initial_from_mlp": 16,
    }
    assert sum(sizes.values()) == 35_799


def clog(x):
    return np.clip(np.log(1e-8 + np.abs(x)), -5, 5)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


class Numpy:
    """The optimizer written down once more, one tensor and one feature at a time."""

    def __init__(self, theta, params):
        self.theta = jax.tree.map(lambda x: np.asarray(x, np.float64), theta)
        self.names = sorted(params)
        zeros = lambda: {
            n: [np.zeros(params[n].shape) for _ in DECAYS] for n in self.names
        }
        self.m, self.v, self.t, self.rms = zeros(), zeros(), 0, [1.0]
        self.h = {n: self.theta.initial_hidden for n in self.names}
        self.c = {n: self.theta.initial_cell for n in self.names}
        self.from_mlp = {n: self.theta.initial_from_mlp for n in self.names}
        self.from_lstm = self.theta.initial_from_lstm

    def step(self, grads, params, loss_pair):
        th, steps, told = self.theta, {}, []
        weights = np.array([0.01 * 0.99**i for i in range(len(self.rms))][::-1])
        limit = 10 * np.sum(weights * self.rms) / (1 - 0.99 ** len(self.rms))
        grads = {n: np.clip(grads[n], -limit, limit) for n in self.names}
        self.rms.append(
            np.sqrt(1e-8 + np.mean([np.mean(grads[n] ** 2) for n in self.names]))
        )
        for n in self.names:
            g, p = grads[n].astype(np.float64), params[n].astype(np.float64)
            m = [d * a + (1 - d) * g for d, a in zip(DECAYS, self.m[n], strict=True)]
            v = [d * a + (1 - d) * g**2 for d, a in zip(DECAYS, self.v[n], strict=True)]
            self.m[n], self.v[n] = m, v
            shape = (list(p.shape) + [1, 1, 1, 1])[:4]
            tensor = []
            for x in (m, v, p):
                tensor += [clog(np.mean(x)), np.sign(np.mean(x)), clog(np.var(x))]
            tensor += [clog(np.linalg.norm(p)), clog(np.linalg.norm(g))]
            tensor += [1.0 if p.shape == () else -1.0, *(np.log(shape) - 1)]
            tensor += list(loss_pair)
            x = np.concatenate([tensor, self.from_mlp[n], self.from_lstm, self.h[n]])
            assert x.size == 52 + 64
            i, c, f, o = np.split(x @ th.lstm.w + th.lstm.b, 4)
            self.c[n] = sigmoid(f + 1) * self.c[n] + sigmoid(i) * np.tanh(c)
            self.h[n] = sigmoid(o) * np.tanh(self.c[n])
            told.append(self.h[n] @ th.to_lstm.w + th.to_lstm.b)

            inv = [1 / np.sqrt(a + 1e-6) for a in v]
            adam = [a * b for a, b in zip(m, inv, strict=True)]
            own = [g, p, clog(p), *m, *adam, *v, *inv]
            own = [a / np.sqrt(np.mean(a**2) + 1e-5) for a in own]
            scales = [1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5]
            shared = [np.sin(self.t / (s * np.pi)) for s in scales]
            shared += [np.log(len(self.names)) - 1, clog(np.linalg.norm(p))]
            shared += [np.log(p.size), *(self.h[n] @ th.to_mlp.w + th.to_mlp.b)]
            own += [np.full(p.shape, s) for s in shared]
            x = np.stack(own, axis=-1)
            for depth, layer in enumerate(th.layers):
                x = x @ layer.w + layer.b
                x = np.maximum(x, 0) if depth < 2 else x
            steps[n] = -0.001 * x[..., 0] * np.exp(0.001 * x[..., 1])
            self.from_mlp[n] = x[..., 2:].reshape(-1, 16).mean(0)
        self.from_lstm = np.mean(told, axis=0)
        self.t += 1
        return steps


def test_three_steps_equal_a_recomputation_in_numpy(theta):
    params = make_tree(0)
    tx = OPTIMIZER.transform(theta)
    update = jax.jit(lambda g, s, p, l, v: tx.update(g, s, p, value=l, valid_value=v))
    state, reference = tx.init(params), Numpy(theta, params)
    losses, valids = [2.0, 1.5, 1.8], [2.1, np.nan, 1.9]
    for t in range(3):
        grads = make_tree(t + 1, scale=40.0 if t == 1 else 1.0)  # one meets the clip
        updates, state = update(grads, state, params, losses[t], valids[t])
        pair = loss_features.features(state.rule.losses, losses[t])
        expected = reference.step(grads, params, np.asarray(pair))
        for name in params:
            np.testing.assert_allclose(updates[name], expected[name], rtol=2e-4)
    np.testing.assert_allclose(state.rule.from_lstm, reference.from_lstm, rtol=1e-4)
    for i, name in enumerate(reference.names):
        np.testing.assert_allclose(state.rule.hidden[i], reference.h[name], rtol=1e-4)
        np.testing.assert_allclose(
            state.rule.from_mlp[i], reference.from_mlp[name], rtol=1e-4, atol=1e-5
        )


def test_the_lstm_is_the_one_of_flax(theta):
    from flax import linen

    rng = np.random.default_rng(0)
    x, h, c = (rng.normal(size=(2, n)).astype(np.float32) for n in (52, 64, 64))
    wi, wc, wf, wo = np.split(np.asarray(theta.lstm.w), 4, axis=1)
    bi, bc, bf, bo = np.split(np.asarray(theta.lstm.b), 4)
    weights = {}
    for gate, w, b in (
        ("i", wi, bi), ("g", wc, bc), ("f", wf, bf + 1), ("o", wo, bo)
    ):  # fmt: skip
        weights[f"i{gate}"] = {"kernel": w[:52]}
        weights[f"h{gate}"] = {"kernel": w[52:], "bias": b}
    cell = linen.OptimizedLSTMCell(64)
    (c_flax, h_flax), _ = cell.apply({"params": weights}, (c, h), x)
    h_ours, c_ours = network.lstm(theta.lstm, x, h, c)
    np.testing.assert_allclose(h_ours, h_flax, atol=1e-6)
    np.testing.assert_allclose(c_ours, c_flax, atol=1e-6)


def run(theta, tensors, gradients, steps=3, losses=(1.0, 1.2, 0.9)):
    tx = OPTIMIZER.transform(theta)
    state = tx.init(tensors)
    update = jax.jit(lambda g, s, p, l: tx.update(g, s, p, value=l))
    for t in range(steps):
        updates, state = update(gradients, state, tensors, losses[t])
    return updates, state


def test_permuting_the_tensors_permutes_the_updates(theta):
    p, g = make_tree(0), make_tree(1)
    forward, _ = run(theta, [p["b"], p["w"]], [g["b"], g["w"]])
    backward, _ = run(theta, [p["w"], p["b"]], [g["w"], g["b"]])
    for a, b in zip(forward, reversed(backward), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_tensors_hear_each_other_from_the_second_step_on(theta):
    p, g = make_tree(0), make_tree(1)
    louder = {"b": 0.01 * g["b"], "w": g["w"]}
    a, b = run(theta, p, g, steps=1)[0], run(theta, p, louder, steps=1)[0]
    assert np.array_equal(a["w"], b["w"])
    a, b = run(theta, p, g, steps=2)[0], run(theta, p, louder, steps=2)[0]
    assert not np.array_equal(a["w"], b["w"])


def test_an_empty_tensor_changes_nothing_for_the_others(theta):
    p, g, empty = make_tree(0), make_tree(1), {"z": np.zeros((0, 2), np.float32)}
    a, b = run(theta, p, g)[0], run(theta, p | empty, g | empty)[0]
    np.testing.assert_allclose(a["w"], b["w"], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(a["b"], b["b"], rtol=1e-4, atol=1e-7)


def test_zero_parameters_and_gradients_give_finite_updates(theta):
    zeros = {"s": jnp.zeros(()), "w": jnp.zeros((2, 2))}
    updates, _ = run(theta, zeros, zeros)
    assert all(np.isfinite(u).all() for u in jax.tree.leaves(updates))


def test_gradients_are_clipped_at_ten_times_their_running_rms(theta):
    p, g = make_tree(0), make_tree(1)
    huge = jax.tree.map(lambda x: 1e8 * np.sign(x), g)
    bounded = jax.tree.map(lambda x: 10 * np.sign(x), g)
    state = run(theta, p, huge, steps=1)[1].rule
    expected = run(theta, p, bounded, steps=1)[1].rule
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), state, expected
    )
    debiased = state.grad_rms / (1 - 0.99**2)
    np.testing.assert_allclose(debiased, (0.99 * 1 + 10) / 1.99, rtol=1e-4)


def test_losses_that_are_not_finite_do_not_poison_it(theta):
    p, g = make_tree(0), make_tree(1)
    updates, state = run(theta, p, g, losses=(1.0, np.nan, np.inf))
    leaves = jax.tree.leaves((updates, state))
    assert all(np.isfinite(x).all() for x in leaves)


def test_it_reads_both_losses(theta):
    p, g = make_tree(0), make_tree(1)
    tx = OPTIMIZER.transform(theta)
    state = run(theta, p, g, steps=2)[1]
    update = lambda l, v: tx.update(g, state, p, value=l, valid_value=v)[0]["w"]
    base = update(1.0, 1.0)
    assert not np.array_equal(base, update(3.0, 1.0))
    assert not np.array_equal(base, update(1.0, 3.0))


def test_without_a_loss_it_says_how_to_give_one(theta):
    p = make_tree(0)
    tx = OPTIMIZER.transform(theta)
    with pytest.raises(ValueError, match="Hierarchical needs .*value=loss"):
        tx.update(p, tx.init(p), p)
