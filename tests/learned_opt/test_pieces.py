"""Working on a tensor in pieces gives what working on it at once gives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import learned_opt
from learned_opt import Flat, PerTensor, pieces

SHAPES = st.lists(st.integers(1, 12), max_size=3).map(tuple)
KEY = jax.random.key(0)


@pytest.fixture
def small_pieces(monkeypatch):
    monkeypatch.setattr(pieces, "_ON_CPU", 8)


def _of_all(x, row, scale):
    """An elementwise function: two outputs, of which one has a leading axis; one sum."""
    y = jnp.sin(x + row) * scale
    return (y, jnp.stack([x, y])), jnp.stack([y, y**2])


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES)
def test_pieces_give_what_the_whole_gives(shape):
    x = jax.random.normal(KEY, shape)
    row = jax.random.normal(KEY, (*shape[:-1], 1) if shape else ())
    scale = jnp.full((1,) * len(shape), 1.5)
    whole, summed = _of_all(x, row, scale)
    axes = tuple(range(1, x.ndim + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_ON_CPU", 8)
        outputs, sums = pieces.map_and_sum(_of_all, shape, x, row, scale)
    jax.tree.map(np.testing.assert_array_equal, outputs, whole)
    np.testing.assert_allclose(sums, jnp.sum(summed, axes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "shape, devices, cut",
    [
        ((16,), 1, None),  # small
        ((4096,), 1, None),  # a vector is left whole
        ((1, 4096), 1, (0, 1)),  # and so is a row
        ((64, 8), 1, (0, 64)),  # 8 elements each
        ((3, 3, 16, 4), 1, (2, 16)),  # 36 elements: nearer than 48
        ((7, 1000), 1, (0, 7)),
        ((64, 8), 8, (0, 8)),  # each device may have 8 rows, and has 1 of every piece
        ((8, 64, 4), 8, (1, 8)),  # a matrix each
        ((8, 4, 4), 8, (0, 1)),
        ((7, 1000), 8, (0, 7)),  # 7 rows do not divide over 8 devices
    ],
)
def test_a_cut_comes_near_to_the_size_asked_for(shape, devices, cut):
    assert pieces._cut(shape, 8, devices) == cut


def test_an_axis_of_few_divisors_does_not_fall_to_crumbs(monkeypatch):
    monkeypatch.setattr(pieces, "_ON_CPU", 64)
    x = jax.random.normal(KEY, (1009, 4))  # of 1,009 rows, a prime, one is apart
    f = lambda x: pieces.map_and_sum(lambda x: (jnp.sin(x), x**2), x.shape, x)
    (scan,) = [e for e in jax.make_jaxpr(f)(x).eqns if e.primitive.name == "scan"]
    assert scan.params["length"] < 200
    outputs, total = f(x)
    np.testing.assert_array_equal(outputs, jnp.sin(x))
    np.testing.assert_allclose(total, jnp.sum(x**2), rtol=1e-5)


@pytest.mark.parametrize("name", ["hierarchical", "per_parameter_mlp", "rnn"])
def test_an_optimizer_does_not_notice(name, small_pieces):
    optimizer = learned_opt.get(name)()
    theta = optimizer.init(KEY)
    params = {"w": jax.random.normal(KEY, (16, 12)), "b": jnp.ones(3)}
    grads = jax.tree.map(lambda x: x**2, params)

    def updates(most):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pieces, "_ON_CPU", most)
            tx = optimizer.transform(theta, num_steps=10)
            state = tx.init(params)
            for _ in range(3):
                found, state = tx.update(grads, state, params, value=1.0)
        return found

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-8),
        updates(8),
        updates(10**6),
    )


@pytest.mark.parametrize("name", ["hierarchical", "per_parameter_mlp"])
def test_large_intermediate_results_exist_for_one_piece_only(name):
    """All features and hidden units of all parameters would be 4 to 8 times the state."""
    optimizer = learned_opt.get(name)()
    theta = optimizer.init(KEY)
    params = {"w": jnp.zeros((1024, 512))}
    tx = optimizer.transform(theta)
    state = jax.eval_shape(tx.init, params)
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, value=1.0))
    memory = update.lower(params, state, params).compile().memory_analysis()
    kept = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves((state, params)))
    assert memory.temp_size_in_bytes < 1.2 * kept


@pytest.mark.parametrize(
    "shape, devices, most",
    [
        ((64, 16), 2, 64),  # 4 rows at a time
        ((8, 64, 16), 8, 1024),  # not a matrix, but 8 rows of every matrix
    ],
)
def test_tensors_that_are_sharded_stay_where_they_are(
    monkeypatch, shape, devices, most
):
    """Each device cuts the rows it has: nothing is gathered."""
    monkeypatch.setattr(pieces, "_ON_CPU", most)
    mesh = jax.make_mesh((devices,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("x"))
    x = jax.device_put(jnp.ones(shape), rows)
    layout = PerTensor([x])

    def f(x):
        outputs, _ = layout.map_in_pieces(lambda x: (jnp.sin(x), None), [x])
        return outputs[0]

    program = jax.jit(f).lower(x).compile()
    assert "while" in program.as_text()  # it is cut
    assert "all-" not in program.as_text()
    assert program(x).sharding.is_equivalent_to(rows, x.ndim)


@pytest.mark.parametrize("name", ["per_parameter_mlp", "adafactor_mlp", "celo2", "rnn"])
def test_each_shard_of_a_map_can_have_parameters_of_its_own(name, small_pieces):
    optimizer = learned_opt.get(name)()
    tx = optimizer.transform(optimizer.init(KEY))
    params = jax.random.normal(KEY, (2, 16, 8))

    def updated(params):
        updates, _ = tx.update(params, tx.init(params), params)
        return updates

    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    one = lambda params: updated(params[0])[None]
    mapped = jax.shard_map(one, mesh=mesh, in_specs=jax.P("x"), out_specs=jax.P("x"))
    expected = jnp.stack([updated(p) for p in params])
    np.testing.assert_allclose(jax.jit(mapped)(params), expected, rtol=2e-4, atol=1e-8)


def test_tensors_whose_type_says_how_they_are_sharded_are_left_whole(small_pieces):
    mesh = jax.make_mesh((2,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x = jax.device_put(jnp.ones((64, 16)), jax.P("x"))
        f = lambda x: PerTensor([x]).map_in_pieces(lambda x: (jnp.sin(x), None), [x])
        assert "while" not in jax.jit(f).lower(x).as_text()
        outputs, _ = jax.jit(f)(x)
    assert jax.typeof(outputs[0]).sharding.spec == jax.P("x", None)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("hierarchical", 60, 70), ("per_parameter_mlp", 60, 70), ("rnn", 100, 200)],
)
def test_the_flat_layout_needs_the_memory_that_the_documentation_says(name, low, high):
    optimizer = learned_opt.get(name)()
    theta = jax.eval_shape(optimizer.init, KEY)
    params = {"w": jax.ShapeDtypeStruct((512, 512), jnp.float32)}

    def update(theta, state, params):
        tx = optimizer.transform(theta, layout=Flat)
        return tx.update(params, state, params, value=1.0)

    init = lambda theta, params: optimizer.transform(theta, layout=Flat).init(params)
    state = jax.eval_shape(init, theta, params)
    memory = jax.jit(update).lower(theta, state, params).compile().memory_analysis()
    assert low < memory.temp_size_in_bytes / (4 * 512**2) < high
