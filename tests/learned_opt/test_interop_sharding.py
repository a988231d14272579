"""Sharded parameters: the state lies where they lie, and they stay where they are.

Eight devices are a mesh of 4 x 2. What a trace can tell is tested for every optimizer.
Programs are compiled for five of them, which between them have every kind of state and
need every signal that there is (the first test says so); the others are slow.
"""

import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType

import learned_opt

FEW = ("scale_free", "adafactor_mlp", "hierarchical", "hyper_v2", "rnn")
slow = lambda name: pytest.param(name, marks=pytest.mark.slow)
only = lambda *names: pytest.mark.parametrize("case", names, indirect=True)
few = only(*(name if name in FEW else slow(name) for name in learned_opt.names()))

SPECS = {"b": jax.P("x"), "w": jax.P("x", "y")}
SHAPES = {"b": (32,), "w": (256, 192)}
SHARD = 256 * 192 // 8
VALUE = jnp.float32(1.5)


def make_mesh(axis_type):
    return jax.make_mesh((4, 2), ("x", "y"), axis_types=(axis_type,) * 2)


def sharded(mesh, seed):
    """Normal numbers of the shapes and shardings above."""
    rng = np.random.default_rng(seed)
    return {
        key: jax.device_put(
            rng.normal(size=shape).astype(np.float32),
            jax.NamedSharding(mesh, SPECS[key]),
        )
        for key, shape in SHAPES.items()
    }


def of_parameters(slots):
    """The arrays of a state that hold a number or more for each parameter, by name."""
    named = jax.tree_util.tree_leaves_with_path(slots)
    return [(path[-1].key, leaf) for path, leaf in named]


def lie_where_the_parameters_lie(mesh, named):
    """Leading axes, of more than one number per parameter, are whole."""

    def check(key, leaf):
        lead = (None,) * (leaf.ndim - len(SHAPES[key]))
        expected = jax.NamedSharding(mesh, jax.P(*lead, *SPECS[key]))
        return leaf.sharding.is_equivalent_to(expected, leaf.ndim)

    return all(check(key, leaf) for key, leaf in named)


def collectives(program):
    """What a compiled program sends: pairs of operation and number of elements."""
    pattern = r"= (\(.*?\)|\S+) (all-[a-z]+|collective-[a-z]+|reduce-scatter)[a-z-]*\("
    found = []
    for shapes, operation in re.findall(pattern, program.as_text()):
        for dims in re.findall(r"\w+\[([\d,]*)\]", shapes):
            found.append(
                (operation, math.prod(map(int, filter(None, dims.split(",")))))
            )
    return found


# Which optimizers stand for all.


def kinds(name):
    """Kinds of arrays in the state, by how they grow with a model, and what it needs."""
    optimizer = learned_opt.get(name)()
    matrices = lambda *sizes: {str(n): jnp.zeros((n, 2 * n)) for n in sizes}

    def traced(f, num_steps=50):
        def run(key):
            return f(optimizer.transform(optimizer.init(key), num_steps=num_steps))

        return jax.eval_shape(run, jax.random.key(0))

    def shapes(*sizes):
        state = traced(lambda tx: tx.init(matrices(*sizes)).rule)
        parts = state._replace(slots=())
        return [[leaf.shape for leaf in jax.tree.leaves(part)] for part in parts]

    found = set()
    for one, two in zip(shapes(8), shapes(8, 16), strict=True):
        if len(one) < len(two):  # arrays of their own for each tensor
            found.add("of rows or columns")
        elif one:
            found.add("of the model" if one == two else "of tensors")
    for _, leaf in of_parameters(traced(lambda tx: tx.init(matrices(8)).rule.slots)):
        found.add("of parameters" if leaf.ndim == 2 else "several of parameters")

    params = matrices(8)
    update = lambda tx, **losses: tx.update(params, tx.init(params), params, **losses)
    for signal, without in (
        ("value", lambda: traced(update)),
        ("num_steps", lambda: traced(lambda tx: update(tx, value=VALUE), None)),
    ):
        try:
            without()
        except ValueError:
            found.add(f"needs {signal}")
    return found


def test_few_optimizers_have_every_kind_of_state_and_need_every_signal():
    every = {name: kinds(name) for name in learned_opt.names()}
    assert set().union(*(every[name] for name in FEW)) == set().union(*every.values())
    assert set().union(*every.values()) == {
        "of parameters",
        "several of parameters",
        "of rows or columns",
        "of tensors",
        "of the model",
        "needs value",
        "needs num_steps",
    }


# Types, as optax tests its own.


def test_explicit_shardings_of_a_state_are_the_same_before_and_after(case):
    kind = lambda x: (x.shape, x.dtype, x.weak_type, x.sharding.spec)
    types = []

    def run(params):
        state = case.tx.init(params)
        updates, after = case.tx.update(params, state, params, value=VALUE)
        for tree in (params, updates, state, after):
            types.append(jax.tree.map(lambda x: kind(jax.typeof(x)), tree))

    with jax.set_mesh(jax.make_mesh((8,), ("x",), axis_types=(AxisType.Explicit,))):
        spec = jax.P(None, "x")
        jax.eval_shape(run, jnp.zeros((2, 8, 4), jnp.float16, out_sharding=spec))
    of_params, of_updates, of_state, of_state_after = types
    assert of_params == of_updates
    assert of_state == of_state_after


@few
def test_a_state_made_eagerly_is_the_one_made_by_a_compiled_init(case):
    mesh = make_mesh(AxisType.Explicit)
    with jax.set_mesh(mesh):
        params = sharded(mesh, 0)
        eager, compiled = case.tx.init(params), jax.jit(case.tx.init)(params)
        assert jax.tree.map(jax.typeof, eager) == jax.tree.map(jax.typeof, compiled)
        assert lie_where_the_parameters_lie(mesh, of_parameters(compiled.rule.slots))


# Compiled programs.


@functools.cache
def one_step(tx, axis_type):
    """What a compiled step returns, and what it sends."""
    mesh = make_mesh(axis_type)
    with jax.set_mesh(mesh):
        params, grads = sharded(mesh, 0), sharded(mesh, 1)
        state = tx.init(params)
        assert lie_where_the_parameters_lie(mesh, of_parameters(state.rule.slots))
        step = jax.jit(lambda g, s, p: tx.update(g, s, p, value=VALUE))
        program = step.lower(grads, state, params).compile()
        updates, after = program(grads, state, params)
        assert lie_where_the_parameters_lie(mesh, updates.items())
        assert lie_where_the_parameters_lie(mesh, of_parameters(after.rule.slots))
    return jax.tree.map(np.asarray, (updates, after)), collectives(program)


@few
def test_nothing_as_large_as_a_shard_is_sent(case):
    _, sent = one_step(case.tx, AxisType.Auto)
    assert all(size < SHARD for _, size in sent), sent


@only("adafactor_mlp", slow("hierarchical"), slow("hyper_v2"), slow("celo2"))
def test_explicit_shardings_do_not_change_what_is_computed_and_send_no_more(case):
    expected, _ = one_step(case.tx, AxisType.Auto)
    found, sent = one_step(case.tx, AxisType.Explicit)
    assert all(size < SHARD for _, size in sent), sent
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(close, found, expected)


def test_the_flat_layout_does_send_parameters():
    optimizer = learned_opt.Momentum()
    theta = optimizer.init(jax.random.key(0))
    tx = optimizer.transform(theta, layout=learned_opt.Flat)
    mesh = make_mesh(AxisType.Auto)
    with jax.set_mesh(mesh):
        params = sharded(mesh, 0)
        program = jax.jit(tx.update).lower(params, tx.init(params), params).compile()
    assert any(size >= SHARD for _, size in collectives(program))
