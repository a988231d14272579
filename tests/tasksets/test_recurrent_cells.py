"""Recurrent cells: their equations written out, flax's cells, and how they start."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasksets.initializers import SONNET
from tasksets.names import UnknownNameError
from tasksets.recurrent import (
    CoreConfig,
    TokenRnn,
    build_recurrent,
    cell_class,
    default_core,
)

KEY = jax.random.key(5)
CORES = ("vanilla", "gru", "lstm")
every_core = pytest.mark.parametrize("core", CORES)


def _core(core: str, size: int = 4, inputs: int = 3, **fields):
    config = default_core(core, size, trainable_state=True)
    recurrent, numbers = build_recurrent(dataclasses.replace(config, **fields))
    params = recurrent.init(numbers, inputs, KEY)
    # a start that is not 0, and biases that are not
    leaves, treedef = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(6), len(leaves))
    moved = [
        leaf + 0.3 * jax.random.normal(key, leaf.shape)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return recurrent, numbers, jax.tree.unflatten(treedef, moved)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


def _written_out(core: str, weights, state, inputs):
    w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), weights)
    h = np.asarray(state["hidden"], np.float64)
    c = np.asarray(state.get("cell", 0.0), np.float64)
    outputs = []
    for x in np.asarray(inputs, np.float64):
        if core == "vanilla":
            first, second = w["in_to_hidden"], w["hidden_to_hidden"]
            h = np.tanh(x @ first["w"] + first["b"] + h @ second["w"] + second["b"])
        elif core == "gru":
            z = _sigmoid(x @ w["wz"] + h @ w["uz"] + w["bz"])
            r = _sigmoid(x @ w["wr"] + h @ w["ur"] + w["br"])
            h = (1 - z) * h + z * np.tanh(x @ w["wh"] + (r * h) @ w["uh"] + w["bh"])
        else:
            h = np.broadcast_to(h, (len(x), len(h))) if h.ndim == 1 else h
            gates = np.concatenate([x, h], axis=1) @ w["w_gates"] + w["b_gates"]
            i, j, f, o = np.split(gates, 4, axis=1)
            c = _sigmoid(f + 1) * c + _sigmoid(i) * np.tanh(j)
            h = _sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.stack(outputs)


@every_core
def test_unrolling_is_the_equation_of_the_cell_step_by_step(core):
    recurrent, numbers, params = _core(core)
    inputs = jax.random.normal(KEY, (6, 2, 3))
    expected = _written_out(core, params["cell"], params["state"], inputs)
    found = recurrent.apply(numbers, params, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def _unroll_flax(cell: nn.RNNCellBase, params, carry, inputs):
    outputs = []
    for x in inputs:
        carry, output = cell.apply({"params": params}, carry, x)
        outputs.append(output)
    return jnp.stack(outputs)


@every_core
def test_unrolling_is_that_of_the_flax_cell_with_the_same_weights(core):
    recurrent, numbers, params = _core(core)
    weights = params["cell"]
    if core == "gru":
        # flax's reset gate acts after U_h, which is the same where it is diagonal
        weights["uh"] = jnp.diag(jnp.array([0.5, -1.0, 2.0, 0.1]))
    inputs = jax.random.normal(KEY, (6, 2, 3))
    start = {k: jnp.broadcast_to(s, (2, 4)) for k, s in params["state"].items()}
    kernel = lambda w, b=None: {"kernel": w} if b is None else {"kernel": w, "bias": b}
    if core == "vanilla":
        cell, carry = nn.SimpleCell(4), start["hidden"]
        i, h = weights["in_to_hidden"], weights["hidden_to_hidden"]
        flax_params = {"i": kernel(i["w"], i["b"] + h["b"]), "h": kernel(h["w"])}
    elif core == "gru":
        cell, carry = nn.GRUCell(4), start["hidden"]
        # and its update gate keeps what ours replaces
        flax_params = {
            "ir": kernel(weights["wr"], weights["br"]),
            "iz": kernel(-weights["wz"], -weights["bz"]),
            "in": kernel(weights["wh"], weights["bh"]),
            "hr": kernel(weights["ur"]),
            "hz": kernel(-weights["uz"]),
            "hn": kernel(weights["uh"], jnp.zeros(4)),
        }
    else:
        cell, carry = nn.OptimizedLSTMCell(4), (start["cell"], start["hidden"])
        by_gate = lambda w: dict(zip("igfo", jnp.split(w, 4, axis=-1), strict=True))
        columns, biases = by_gate(weights["w_gates"]), by_gate(weights["b_gates"])
        biases["f"] += 1
        inner = {f"i{gate}": kernel(w[:3]) for gate, w in columns.items()}
        outer = {f"h{g}": kernel(w[3:], biases[g]) for g, w in columns.items()}
        flax_params = {**inner, **outer}
    expected = _unroll_flax(cell, flax_params, carry, inputs)
    found = recurrent.apply(numbers, params, inputs)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@every_core
def test_an_output_knows_the_past_and_not_the_future(core):
    recurrent, numbers, params = _core(core)
    inputs = jax.random.normal(KEY, (5, 2, 3))
    other = inputs.at[3].add(1.0)
    first = recurrent.apply(numbers, params, inputs)
    second = recurrent.apply(numbers, params, other)
    np.testing.assert_array_equal(first[:3], second[:3])
    assert np.all(first[4] != second[4])


@every_core
def test_a_trainable_start_is_parameters_with_a_gradient(core):
    recurrent, numbers, params = _core(core)
    fixed = dataclasses.replace(recurrent, trainable_state=False)
    assert set(params) == {"cell", "state"}
    assert set(fixed.init(numbers, 3, KEY)) == {"cell"}
    assert set(params["state"]) == set(cell_class(core).STATE)
    for start in recurrent.init(numbers, 3, KEY)["state"].values():
        np.testing.assert_array_equal(start, np.zeros(4))
    inputs = jax.random.normal(KEY, (5, 2, 3))
    loss = lambda params: jnp.sum(recurrent.apply(numbers, params, inputs) ** 2)
    grads = jax.grad(loss)(params)
    for grad in jax.tree.leaves(grads):
        assert np.isfinite(grad).all() and np.any(grad != 0)


def test_every_weight_has_its_own_law():
    laws = (("in_to_hidden", ("random_uniform", 0.2)),) + (
        ("hidden_to_hidden", ("orthogonal", 3.0)),
    )
    recurrent, numbers = build_recurrent(
        dataclasses.replace(
            default_core("vanilla", 60, trainable_state=False), core_initializers=laws
        )
    )
    cell = recurrent.init(numbers, 50, KEY)["cell"]
    w, u = (
        np.asarray(cell["in_to_hidden"]["w"]),
        np.asarray(cell["hidden_to_hidden"]["w"]),
    )
    assert np.abs(w).max() < 0.2 < np.abs(w).max() * 1.02
    np.testing.assert_allclose(u @ u.T, 9 * np.eye(60), atol=1e-4)
    for layer in cell.values():
        np.testing.assert_array_equal(layer["b"], np.zeros(60))


def test_six_weights_of_a_gru_are_six_draws():
    recurrent, numbers = build_recurrent(default_core("gru", 30, trainable_state=False))
    weights = recurrent.init(numbers, 30, KEY)["cell"]
    names = cell_class("gru").WEIGHTS
    for first in names:
        limit = np.sqrt(6 / 60)  # glorot_uniform
        assert 0.97 * limit < np.abs(weights[first]).max() <= limit
        for second in names:
            if first != second:
                assert np.all(weights[first] != weights[second])


def test_biases_start_as_those_of_sonnet():
    start = lambda core: build_recurrent(default_core(core, 400, trainable_state=False))
    lstm, lstm_numbers = start("lstm")
    b = np.asarray(lstm.init(lstm_numbers, 100, KEY)["cell"]["b_gates"])
    unit = 1 / np.sqrt(500)
    assert np.abs(b).max() <= 2 * unit
    # 1600 draws: the standard deviation is known to 2%
    np.testing.assert_allclose(b.std(), 0.8796 * unit, rtol=0.06)
    gru, gru_numbers = start("gru")
    weights = gru.init(gru_numbers, 100, KEY)["cell"]
    for name in ("bz", "br", "bh"):
        limit = np.sqrt(3 / 400)
        assert np.abs(weights[name]).max() <= limit
        np.testing.assert_allclose(weights[name].std(), limit / np.sqrt(3), rtol=0.12)


def test_the_default_law_is_the_truncated_normal_of_one_over_root_fan_in():
    recurrent, numbers = build_recurrent(
        default_core("lstm", 60, trainable_state=False)
    )
    w = np.asarray(recurrent.init(numbers, 40, KEY)["cell"]["w_gates"])
    assert 0.19 < np.abs(w).max() <= 0.2
    np.testing.assert_allclose(w.std(), 0.08796, rtol=0.02)


def test_an_irnn_keeps_what_it_has_read():
    recurrent, numbers, _ = _core("vanilla")
    config = dataclasses.replace(
        default_core("vanilla", 4, trainable_state=False, activation="relu"),
        core_initializers=(
            ("in_to_hidden", SONNET),
            ("hidden_to_hidden", ("identity", None)),
        ),
    )
    recurrent, numbers = build_recurrent(config)
    params = recurrent.init(numbers, 3, KEY)
    np.testing.assert_array_equal(params["cell"]["hidden_to_hidden"]["w"], np.eye(4))
    inputs = jnp.zeros((9, 2, 3)).at[0].set(jax.random.normal(KEY, (2, 3)))
    outputs = recurrent.apply(numbers, params, inputs)
    assert np.any(outputs[0] > 0)
    np.testing.assert_array_equal(outputs, np.broadcast_to(outputs[0], outputs.shape))


def test_tokens_are_read_by_their_row_and_those_beyond_by_the_last():
    recurrent, numbers, _ = _core("gru")
    network = TokenRnn(recurrent, vocab_size=7, embedding_size=3)
    params = network.init(numbers, KEY)
    tokens = jnp.array([[0, 6, 3], [2, 9, 250]])
    rows = np.asarray(params["embedding"]["w"])[np.minimum(tokens, 6).T]
    expected = recurrent.apply(numbers, params, jnp.asarray(rows))
    found = network.apply(numbers, params, tokens)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.shape == (3, 2, 4)


def test_embeddings_start_as_standard_normal():
    recurrent, numbers, _ = _core("gru", inputs=50)
    w = TokenRnn(recurrent, 200, 50).init(numbers, KEY)["embedding"]["w"]
    np.testing.assert_allclose(np.std(w), 1, rtol=0.03)
    assert np.abs(w).max() > 3


def test_the_activation_is_a_number_and_stacks():
    cells = [
        build_recurrent(
            default_core("vanilla", 4, trainable_state=False, activation=name)
        )
        for name in ("cos", "leaky_relu2", "tanh")
    ]
    assert len({recurrent for recurrent, _ in cells}) == 1
    recurrent = cells[0][0]
    params = recurrent.init(cells[0][1], 3, KEY)
    inputs = jax.random.normal(KEY, (5, 2, 3))
    numbers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(n for _, n in cells))
    apply = lambda numbers: recurrent.apply(numbers, params, inputs)
    for lane, (_, alone) in enumerate(cells):
        np.testing.assert_allclose(
            jax.vmap(apply)(numbers)[lane], apply(alone), rtol=1e-5, atol=1e-6
        )


def test_errors_say_what_a_core_needs():
    with pytest.raises(UnknownNameError, match="lstm"):
        default_core("lsmt", 4, trainable_state=False)
    gru = default_core("gru", 4, trainable_state=False)
    for wrong in ({"core": "lstm"}, {"core_activation": "relu"}):
        with pytest.raises(ValueError, match="core has initializers for w"):
            build_recurrent(dataclasses.replace(gru, **wrong))
    assert isinstance(gru, CoreConfig)
