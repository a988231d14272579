"""Celo against a recomputation in numpy, and its two phases."""

import jax
import numpy as np
import pytest

import learned_opt
from learned_opt import Celo, CeloRule, CeloScheduler
from learned_opt.celo import CeloTheta

SHAPES = {"a": (), "b": (3,), "c": (2, 4), "d": (4, 2, 2), "e": (2, 3, 1, 4)}
NUM_STEPS = 20
LOSSES = [3.0, 4.5, 2.5, 2.9, 2.0]


def normal(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda shape: np.float32(scale * rng.normal(size=shape))
    return {name: draw(shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def theta():
    """Random everywhere."""
    rng = np.random.default_rng(1)
    noisy = lambda x: x + np.float32(0.2 * rng.normal(size=x.shape))
    return jax.tree.map(noisy, jax.jit(Celo().init)(jax.random.key(0)))


def test_its_meta_parameters_add_up(theta):
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    sizes = {name: size(part) for name, part in theta.scheduler._asdict().items()}
    assert sizes == {
        "mix": 1_216,
        "inputs": 1_216,
        "lstm": 33_024,
        "initial_hidden": 64,
        "initial_cell": 64,
        "step_size": 65,
    }
    assert size(theta.rule) == 159


def trajectory(optimizer, theta):
    """Updates of a run in which the first gradients meet the clip."""
    params = normal(0)
    tx = optimizer.transform(theta, num_steps=NUM_STEPS)
    update = jax.jit(lambda g, s, value: tx.update(g, s, params, value=value))
    state, updates = tx.init(params), []
    for t, loss in enumerate(LOSSES):
        step, state = update(normal(t + 1, scale=0.1 if t else 2e3), state, loss)
        updates.append(step)
    return updates


@pytest.fixture(scope="module")
def rule_steps(theta):
    return trajectory(CeloRule(), theta.rule)


@pytest.fixture(scope="module")
def steps(theta):
    return trajectory(Celo(), theta)


def test_the_rule_equals_a_recomputation_in_numpy(
    theta, rule_steps, adafactor_in_numpy
):
    params = normal(0)
    for name, shape in SHAPES.items():
        averages, p = adafactor_in_numpy(shape), np.float64(params[name])
        for t in range(len(LOSSES)):
            g = np.float64(normal(t + 1, scale=0.1 if t else 2e3)[name])
            x = averages.step(np.clip(g, -1000, 1000), p)
            for depth, (w, b) in enumerate(theta.rule.layers):
                x = np.tensordot(np.float64(w), x, (0, 0))
                x = x + np.reshape(b, (-1,) + (1,) * len(shape))
                x = np.maximum(x, 0) if depth < 2 else x
            size = np.sqrt(np.mean(p**2) + 1e-9)
            expected = -0.001 * size * x[0] * np.exp(0.001 * x[1])
            np.testing.assert_allclose(
                rule_steps[t][name], expected, rtol=1e-3, atol=1e-6 * size
            )


def schedule_in_numpy(theta):
    """The factor of every step."""
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    th = jax.tree.map(np.float64, theta)
    decays = np.exp(-1 / 10 ** np.linspace(1, np.log10(NUM_STEPS), 10))
    centres = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])
    means, minima = np.zeros(10), np.full(10, np.inf)
    h, c, factors = th.initial_hidden, th.initial_cell, []
    for t, value in enumerate(LOSSES):
        if t:
            value = min(value, 2 * abs(np.max(means / (1 - decays**t))))
        means = decays * means + (1 - decays) * value
        now = means / (1 - decays ** (t + 1))
        minima = np.minimum(minima, now)
        gap = np.maximum(now[1:] - minima[:-1], 1e-8)
        loss = np.clip((now[:-1] - minima[:-1]) / gap - 1, -1, 1) * (t > 1)
        x = np.concatenate([np.tanh(10 * (t / NUM_STEPS - centres)), loss])
        u = x @ th.inputs.w + th.inputs.b + np.maximum(x @ th.mix.w + th.mix.b, 0)
        i, g, f, o = np.split(np.concatenate([u, h]) @ th.lstm.w + th.lstm.b, 4)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        factors.append(0.1 * np.exp((h @ th.step_size.w + th.step_size.b)[0]))
    return factors


def test_the_scheduler_multiplies_all_steps_by_its_factor(theta, rule_steps, steps):
    factors = schedule_in_numpy(theta.scheduler)
    assert max(factors) / min(factors) > 1.05
    for factor, rule, step in zip(factors, rule_steps, steps, strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(step[name], factor * rule[name], rtol=1e-3)


def test_the_second_phase_is_celo_with_a_fixed_rule(theta, steps):
    optimizer = CeloScheduler(theta.rule)
    fresh = jax.eval_shape(optimizer.init, jax.random.key(0))
    assert jax.tree.structure(fresh) == jax.tree.structure(theta.scheduler)
    for a, b in zip(trajectory(optimizer, theta.scheduler), steps, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), a, b)


def test_a_scheduler_over_what_is_no_rule_of_celo_is_an_error(theta):
    swapped = CeloTheta(theta.scheduler, theta.rule)
    with pytest.raises(ValueError, match="not one of Celo: it (has|lacks)"):
        Celo().transform(swapped, num_steps=10)
    for other in (theta, learned_opt.Celo2().init(jax.random.key(0))):
        with pytest.raises(ValueError, match="not one of CeloRule"):
            CeloScheduler(other)


def test_it_says_what_it_needs(theta):
    p = normal(0)
    tx = Celo().transform(theta)
    with pytest.raises(ValueError, match=r"Celo needs .*num_steps=\.\.\."):
        tx.update(p, tx.init(p), p, value=1.0)
    tx = Celo().transform(theta, num_steps=NUM_STEPS)
    with pytest.raises(ValueError, match="Celo needs .*value=loss"):
        tx.update(p, tx.init(p), p)
