"""equinox models, which are pytrees with functions in them, train with every one."""

import io

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt

few = pytest.mark.parametrize(
    "case",
    [
        name if name == "scale_free" else pytest.param(name, marks=pytest.mark.slow)
        for name in learned_opt.names()
    ],
    indirect=True,
)

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).normal(size=(8, 3)), jnp.float32)


class Model(eqx.Module):
    """A linear layer, a function, and numbers that are not trained."""

    linear: eqx.nn.Linear
    activation: object
    calls: jax.Array

    def __init__(self):
        self.linear = eqx.nn.Linear(4, 3, key=jax.random.key(0))
        self.activation = jnp.tanh
        self.calls = jnp.zeros((), jnp.int32)

    def __call__(self, x):
        return self.activation(self.linear(x))


def loss(model):
    return jnp.mean((jax.vmap(model)(X) - Y) ** 2)


def step(model, state, tx):
    value, grads = eqx.filter_value_and_grad(loss)(model)
    params = eqx.filter(model, eqx.is_inexact_array)
    updates, state = tx.update(grads, state, params, value=value)
    return eqx.apply_updates(model, updates), state


def test_a_model_trains_with_every_one(case):
    model = Model()
    state = case.tx.init(eqx.filter(model, eqx.is_inexact_array))
    after, new_state = eqx.filter_eval_shape(step, model, state, case.tx)
    assert jax.tree.structure(after) == jax.tree.structure(model)
    assert jax.tree.structure(new_state) == jax.tree.structure(state)


@few
def test_compiled_steps_are_those_of_the_parameters_alone(case):
    model = Model()
    state = case.tx.init(eqx.filter(model, eqx.is_inexact_array))
    compiled = eqx.filter_jit(step)
    params = {"b": model.linear.bias, "w": model.linear.weight}
    alone = case.tx.init(params)

    @jax.jit
    def by_hand(params, state):
        distance = lambda p: jnp.mean((jnp.tanh(X @ p["w"].T + p["b"]) - Y) ** 2)
        value, grads = jax.value_and_grad(distance)(params)
        updates, state = case.tx.update(grads, state, params, value=value)
        return jax.tree.map(jnp.add, params, updates), state

    for _ in range(3):
        model, state = compiled(model, state, case.tx)
        params, alone = by_hand(params, alone)
    np.testing.assert_allclose(model.linear.weight, params["w"], atol=1e-5)
    np.testing.assert_allclose(model.linear.bias, params["b"], atol=1e-5)
    assert model.activation is jnp.tanh and model.calls.dtype == jnp.int32


def test_a_model_that_was_not_filtered_is_an_error_that_says_how():
    optimizer = learned_opt.Adam()
    tx = optimizer.transform(optimizer.init(jax.random.key(0)))
    with pytest.raises(ValueError, match=r"\.activation is .*eqx\.filter\(model"):
        tx.init(Model())
    with pytest.raises(ValueError, match=r"\.calls is int32.*eqx\.is_inexact_array"):
        tx.init(eqx.filter(Model(), eqx.is_array))


@pytest.mark.parametrize("case", ["adafactor_mlp", "hierarchical"], indirect=True)
def test_a_state_survives_equinox_serialisation(case):
    params = eqx.filter(Model(), eqx.is_inexact_array)
    state = jax.tree.map(lambda x: x + 1, case.tx.init(params))
    file = io.BytesIO()
    eqx.tree_serialise_leaves(file, state)
    file.seek(0)
    again = eqx.tree_deserialise_leaves(
        file, eqx.filter_eval_shape(case.tx.init, params)
    )
    assert jax.tree.structure(again) == jax.tree.structure(state)
    assert all(map(np.array_equal, jax.tree.leaves(again), jax.tree.leaves(state)))
