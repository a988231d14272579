"""VeLO's optimizer against a recomputation in numpy, in both readings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import HyperV2

SHAPES = {"a": (), "b": (3,), "c": (2, 4), "d": (4, 2, 2), "e": (2, 3, 1, 4)}
NUM_STEPS = 20
LOSSES = [3.0, 4.5, 2.5, 2.9, 2.0]
both = pytest.mark.parametrize("legacy", [False, True])


def normal(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda shape: np.float32(scale * rng.normal(size=shape))
    return {name: draw(shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def thetas():
    """Random everywhere, by ``legacy``."""

    @jax.jit
    def make(key, theta):
        leaves, structure = jax.tree.flatten(theta)
        keys = jax.random.split(key, len(leaves))
        noise = lambda k, x: x + 0.02 * jax.random.normal(k, x.shape)
        return jax.tree.unflatten(structure, list(map(noise, keys, leaves)))

    init = lambda legacy: jax.jit(HyperV2(legacy).init)(jax.random.key(0))
    return {x: make(jax.random.key(1), init(x)) for x in (False, True)}


def test_its_meta_parameters_add_up(thetas):
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    sizes = {name: size(part) for name, part in thetas[False]._asdict().items()}
    assert sizes == {
        "mix": 14_848,
        "inputs": 14_848,
        "lstm": 2_099_200,
        "initial_hidden": 512,
        "initial_cell": 512,
        "controls": 131_328,
        "step_size": 513,
        "bank": 40_704,
    }
    # The released file has 9,282,507 bytes: these floats, and 967 of names.
    overwritten = 30 * 512 + 512
    assert 4 * (size(thetas[True]) + overwritten) == 9_282_507 - 967


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def clog(x):
    return 0.5 * np.clip(np.log(1e-8 + np.abs(10 * x)), -5, 5)


class Losses:
    def __init__(self, legacy):
        self.decays = np.exp(-1 / 10 ** np.linspace(1, np.log10(NUM_STEPS), 10))
        self.means, self.minima, self.t = np.zeros(10), np.full(10, np.inf), 0
        self.ahead = 1 if legacy else 0

    def features(self, value):
        if self.t:
            bias = 1 - self.decays ** (self.t + self.ahead)
            value = min(value, 2 * abs(np.max(self.means / bias)))
        self.t += 1
        self.means = self.decays * self.means + (1 - self.decays) * value
        means = self.means / (1 - self.decays**self.t)
        self.minima = np.minimum(self.minima, means)
        gap = np.maximum(means[1:] - self.minima[:-1], 1e-8)
        row = np.clip((means[:-1] - self.minima[:-1]) / gap - 1, -1, 1)
        return row if self.t > 2 else 0 * row


class Numpy:
    """The optimizer written down once more, one tensor at a time."""

    def __init__(self, theta, legacy, averages):
        self.theta = jax.tree.map(lambda x: np.asarray(x, np.float64), theta)
        self.legacy, self.losses, self.t = legacy, Losses(legacy), 0
        self.averages = {n: averages(s) for n, s in SHAPES.items()}
        self.h = {n: self.theta.initial_hidden for n in SHAPES}
        self.c = {n: self.theta.initial_cell for n in SHAPES}

    def step(self, grads, params, loss):
        th, steps, xs = self.theta, {}, {}
        centres = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])
        shared = [*np.tanh(10 * (self.t / NUM_STEPS - centres))]
        shared += [*self.losses.features(loss)]
        for n, shape in SHAPES.items():
            scale = 1 / np.sqrt(np.mean(np.float64(params[n]) ** 2))
            m, v = scale * self.averages[n].m, scale * self.averages[n].v[0]
            axes = tuple(range(1, m.ndim))
            mean_m = m.mean(axes)
            about = mean_m if self.legacy else [v.mean()]
            rank = sum(k > 1 for k in shape)
            own = [clog(v.mean()), *np.eye(5)[rank], *clog(m.var(axes))]
            own += [clog(np.mean((v - a) ** 2)) for a in about]
            xs[n] = np.array(shared + own)
        told = [np.maximum(x @ th.mix.w + th.mix.b, 0) for x in xs.values()]
        for n, shape in SHAPES.items():
            u = xs[n] @ th.inputs.w + th.inputs.b + np.max(told, axis=0)
            gates = np.concatenate([u, self.h[n]]) @ th.lstm.w + th.lstm.b
            i, g, f, o = np.split(gates, 4)
            self.c[n] = sigmoid(f + 1) * self.c[n] + sigmoid(i) * np.tanh(g)
            self.h[n] = sigmoid(o) * np.tanh(self.c[n])
            controls = self.h[n] @ th.controls.w + th.controls.b
            lr = (self.h[n] @ th.step_size.w + th.step_size.b)[0]
            p = np.float64(params[n])
            x = self.averages[n].step(np.clip(np.float64(grads[n]), -1000, 1000), p)
            for depth, layer in enumerate(th.bank):
                w = 100 / 256 * sum(controls[k] * layer.w[k] for k in range(256))
                b = 100 / 256 * sum(controls[k] * layer.b[k] for k in range(256))
                x = np.tensordot(w, x, (0, 0)) + b.reshape(-1, *(1,) * len(shape))
                x = np.maximum(x, 0) if depth < 2 else x
            size = np.sqrt(np.mean(p**2) + 1e-9)
            steps[n] = -0.001 * lr * size * x[0] * np.exp(0.001 * x[1])
        self.t += 1
        return steps


@both
def test_five_steps_equal_a_recomputation_in_numpy(thetas, legacy, adafactor_in_numpy):
    theta, params = thetas[legacy], normal(0)
    tx = HyperV2(legacy).transform(theta, num_steps=NUM_STEPS)
    update = jax.jit(lambda g, s, p, value: tx.update(g, s, p, value=value))
    state, reference = tx.init(params), Numpy(theta, legacy, adafactor_in_numpy)
    for t, loss in enumerate(LOSSES):
        grads = normal(t + 1, scale=2e3 if t == 1 else 0.1)  # one meets the clip
        updates, state = update(grads, state, params, loss)
        expected = reference.step(grads, params, loss)
        for name in SHAPES:
            scale = np.abs(expected[name]).max()
            np.testing.assert_allclose(
                updates[name], expected[name], rtol=2e-3, atol=2e-3 * scale
            )
    for i, name in enumerate(SHAPES):
        np.testing.assert_allclose(
            state.rule.hidden[i], reference.h[name], rtol=1e-3, atol=1e-4
        )


@pytest.fixture(scope="module")
def run(thetas):
    def run(params, grads, losses=LOSSES[:2]):
        tx = HyperV2().transform(thetas[False], num_steps=NUM_STEPS)
        update = jax.jit(lambda g, s, value: tx.update(g, s, params, value=value))
        state = tx.init(params)
        for loss in losses:
            updates, state = update(grads, state, loss)
        return updates, state

    return run


def test_permuting_the_tensors_permutes_the_updates(run):
    p, g = normal(0), normal(1)
    forward, _ = run([p["b"], p["c"]], [g["b"], g["c"]])
    backward, _ = run([p["c"], p["b"]], [g["c"], g["b"]])
    for a, b in zip(forward, reversed(backward), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-7)


def test_tensors_hear_each_other_but_not_an_empty_one(run):
    p, g = normal(0), normal(1)
    two = lambda tree, **more: {"b": tree["b"], "c": tree["c"]} | more
    alone = run({"c": p["c"]}, {"c": g["c"]})[0]["c"]
    together = run(two(p), two(g))[0]["c"]
    nothing = np.zeros((0, 2), np.float32)
    with_empty = run(two(p, z=nothing), two(g, z=nothing))[0]["c"]
    assert not np.allclose(alone, together, rtol=1e-4)
    np.testing.assert_allclose(with_empty, together, rtol=1e-4)


def test_losses_that_are_not_finite_do_not_poison_it(run):
    p, g = normal(0), normal(1)
    updates, state = run(p, g, losses=(1.0, jnp.nan, jnp.inf, 2.0))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state)))


def test_it_says_what_it_needs(thetas):
    p = normal(0)
    tx = HyperV2().transform(thetas[False])
    with pytest.raises(ValueError, match=r"HyperV2 needs .*num_steps=\.\.\."):
        tx.update(p, tx.init(p), p, value=1.0)
    tx = HyperV2().transform(thetas[False], num_steps=NUM_STEPS)
    with pytest.raises(ValueError, match="HyperV2 needs .*value=loss"):
        tx.update(p, tx.init(p), p)
