"""The LSTM of Andrychowicz et al. 2016 against its equations in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import Flat
from learned_opt.rnn import Rnn

OPTIMIZER = Rnn()
THETA = jax.tree.map(
    lambda x: x + 0.1 * np.random.default_rng(0).normal(size=x.shape),
    jax.jit(OPTIMIZER.init)(jax.random.key(0)),
)
SHAPES = {"scalar": (), "vector": (3,), "rank4": (2, 1, 3, 2)}


def transform(theta=THETA):
    return OPTIMIZER.transform(theta, layout=Flat)


def normal(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    draw = lambda shape: np.float32(scale * rng.normal(size=shape))
    return {name: draw(shape) for name, shape in SHAPES.items()}


def preprocessed(g):
    """Appendix A of the paper, with p = 10, in its two cases."""
    if abs(g) >= np.exp(-10):
        return np.array([np.log(abs(g)) / 10, np.sign(g)])
    return np.array([-1.0, np.exp(10) * g])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def numpy_lstm(gates, x, state):
    """One parameter: Hochreiter & Schmidhuber's LSTM with a forget bias of 1."""
    hidden, cell = state
    x = np.concatenate([x, hidden]) @ np.asarray(gates.w) + np.asarray(gates.b)
    i, g, f, o = x.reshape(4, 20)
    cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def numpy_steps(gradients):
    """The steps of one parameter that meets these gradients."""
    first = second = np.zeros((2, 20))
    for g in gradients:
        first = numpy_lstm(THETA.first, preprocessed(g), first)
        second = numpy_lstm(THETA.second, first[0], second)
        out = second[0] @ np.asarray(THETA.out.w) + np.asarray(THETA.out.b)
        yield 0.1 * out[0]


def test_it_has_the_weights_of_two_layers_of_20_units():
    shapes = jax.tree.map(jnp.shape, tuple(map(tuple, THETA)))
    assert shapes == (((22, 80), (80,)), ((40, 80), (80,)), ((20, 1), (1,)))
    assert sum(x.size for x in jax.tree.leaves(THETA)) == 5141


def test_every_parameter_takes_the_steps_of_a_recomputation_in_numpy():
    params, tx = normal(1), transform()
    update = jax.jit(tx.update)
    state = tx.init(params)
    # From gradients that count as small (below e^-10) to large ones.
    gradients = [normal(2 + t, scale) for t, scale in enumerate((1.0, 1e-5, 1e-2, 1e3))]
    updates = []
    for grads in gradients:
        step, state = update(grads, state, params)
        updates.append(step)
    for name, shape in SHAPES.items():
        for index in np.ndindex(*shape):
            expected = list(numpy_steps([g[name][index] for g in gradients]))
            actual = [u[name][index] for u in updates]
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_parameters_do_not_see_each_other():
    grads = jnp.array([1.0, -0.3, 1e-6])
    tx = transform()
    together, _ = tx.update(grads, tx.init(grads), grads)
    for i in range(3):
        one = grads[i]
        alone, _ = tx.update(one, tx.init(one), one)
        np.testing.assert_allclose(together[i], alone, rtol=1e-5)


def test_the_state_is_80_numbers_per_parameter():
    state = transform().init(normal(0))
    assert sum(x.size for x in jax.tree.leaves(state.rule.slots)) == 80 * (1 + 3 + 12)


@pytest.mark.parametrize("g", [0.0, np.exp(-10), -np.exp(-10), 1e30, -1e-30])
def test_steps_and_their_slopes_are_finite_for_any_gradient(g):
    def step(theta, g):
        tx = transform(theta)
        return tx.update(g, tx.init(g), g)[0]

    g = jnp.float32(g)
    slopes = jax.grad(step, argnums=(0, 1))(THETA, g)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((step(THETA, g), slopes)))
