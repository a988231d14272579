"""The small network with Adafactor features against a recomputation in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import AdafactorMLP
from learned_opt.adafactor_features import Rates
from learned_opt.adafactor_mlp import AdafactorDecays
from learned_opt.decays import learned_rates

OPTIMIZER = AdafactorMLP()
SHAPES = {"a": (), "b": (3,), "c": (2, 4), "d": (4, 2, 2), "e": (2, 3, 1, 4)}
TIME = [1, 3, 10, 30, 100, 300, 1e3, 3e3, 1e4, 3e4, 1e5]


def normal(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda shape: np.float32(scale * rng.normal(size=shape))
    return {name: draw(shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def theta():
    """Random everywhere, decays too."""
    theta = jax.jit(OPTIMIZER.init)(jax.random.key(0))
    rng = np.random.default_rng(1)
    noisy = lambda scale: lambda x: x + np.float32(scale * rng.normal(size=x.shape))
    layers = jax.tree.map(noisy(0.3), theta.layers)
    return theta._replace(layers=layers, decays=jax.tree.map(noisy(0.05), theta.decays))


def test_its_meta_parameters_add_up(theta):
    size = lambda tree: sum(x.size for x in jax.tree.leaves(tree))
    assert (size(theta.layers), size(theta.decays)) == (190, 7)


def decays_of(offsets, initial):
    return 1 - np.exp(10 * (np.log(1 - np.array(initial)) / 10 + np.array(offsets)))


@pytest.mark.parametrize("scales", [(1.0, 1e-3, 30.0, 1e-6), (1e-3, 3e-4, 1e-3, 1e-4)])
def test_four_steps_equal_a_recomputation_in_numpy(theta, adafactor_in_numpy, scales):
    params = normal(0)
    tx = OPTIMIZER.transform(theta)
    state, update = tx.init(params), jax.jit(tx.update)
    initial = (0.9, 0.99, 0.999)
    decays = [
        decays_of(theta.decays.m, initial),
        decays_of(theta.decays.v, (0.999,)),
        decays_of(theta.decays.factored, initial),
    ]
    reference = {n: adafactor_in_numpy(s, *decays) for n, s in SHAPES.items()}
    for t, scale in enumerate(scales):
        grads = normal(t + 1, scale)
        updates, state = update(grads, state, params)
        for name, shape in SHAPES.items():
            x = reference[name].step_of_28(
                *map(np.float64, (grads[name], params[name]))
            )
            time = [np.full((1, *shape), np.tanh(t / s - 1)) for s in TIME]
            x = np.concatenate([x, *time])
            for depth, (w, b) in enumerate(theta.layers):
                x = np.tensordot(np.float64(w), x, (0, 0))
                x = x + np.reshape(b, (-1,) + (1,) * len(shape))
                x = np.maximum(x, 0) if depth < 2 else x
            expected = -0.001 * x[0] * np.exp(0.001 * x[1])
            np.testing.assert_allclose(updates[name], expected, rtol=5e-4, atol=2e-7)


def test_decays_start_at_the_usual_ones():
    for rates, usual in zip(AdafactorDecays.init().rates(), Rates(), strict=True):
        np.testing.assert_allclose(rates, usual, rtol=1e-6)


def test_a_tenth_is_a_factor_of_e_and_no_decay_falls_below_zero():
    rates = learned_rates(jnp.array([0.1, -0.1, 5.0]), [0.01, 0.01, 0.01])
    np.testing.assert_allclose(rates, [0.01 * np.e, 0.01 / np.e, 1.0], rtol=1e-5)
