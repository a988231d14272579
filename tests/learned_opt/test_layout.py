"""Both layouts against numpy, on any list of tensors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learned_opt import Flat, PerTensor, pieces
from learned_opt import layout as layout_module

SHAPES = st.lists(
    st.lists(st.integers(0, 3), max_size=3).map(tuple), min_size=1, max_size=4
)
few_examples = settings(max_examples=8, deadline=None)


class Many(Flat):
    """`Flat` as it is for many tensors."""

    def __init__(self, tree):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(layout_module, "_MANY_TENSORS", 1)
            patch.setattr(layout_module, "_BLOCK", 4)
            super().__init__(tree)
            _ = self.rows, self.columns  # are made when they are first asked for


layouts = pytest.mark.parametrize("kind", [Flat, Many, PerTensor])


def tensors(shapes, lead=()):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=lead + s), jnp.float32) for s in shapes]


@layouts
@few_examples
@given(shapes=SHAPES)
def test_unravel_undoes_ravel(kind, shapes):
    tree = tensors(shapes)
    layout = kind(tree)
    back = layout.unravel(layout.ravel(tree))
    assert all(np.array_equal(a, b) for a, b in zip(tree, back, strict=True))


@layouts
@few_examples
@given(shapes=SHAPES)
def test_mean_is_the_mean_of_each_tensor_and_zero_for_an_empty_one(kind, shapes):
    tree = tensors(shapes, lead=(2,))
    layout = kind([x[0] for x in tree])
    mean = layout.mean(layout.ravel(tree))
    expected = [
        x.reshape(2, -1).mean(1) if x.size else np.zeros(2) for x in map(np.array, tree)
    ]
    np.testing.assert_allclose(mean, np.stack(expected, -1), atol=1e-6)


@layouts
@pytest.mark.parametrize("lead", [(), (2,)])
@few_examples
@given(shapes=SHAPES)
def test_spread_repeats_each_value_over_its_tensor(kind, lead, shapes):
    tree = tensors(shapes, lead)
    layout = kind(tensors(shapes))
    values = jnp.arange(len(shapes)) + 10.0 * jnp.ones(lead + (1,))
    zeros = jax.tree.map(jnp.zeros_like, tree)
    field = layout.map(jnp.add, layout.ravel(zeros), layout.spread(values))
    for i, x in enumerate(layout.unravel(field)):
        assert x.shape == lead + shapes[i]
        assert np.all(np.asarray(x) == i + 10.0)


def test_spreading_over_many_tensors_is_the_same_function():
    sizes = [1, 3] * 10
    layout = Flat([jnp.zeros(n) for n in sizes])
    values = jnp.arange(40.0).reshape(2, 20)
    assert np.array_equal(layout.spread(values), np.repeat(values, sizes, axis=1))


@layouts
def test_a_model_without_tensors_is_a_model(kind):
    layout = kind({})
    assert layout.unravel(layout.ravel({})) == {}
    assert layout.mean(layout.ravel({})).shape == (0,)


@layouts
@few_examples
@given(shapes=SHAPES)
def test_means_of_rows_and_columns_are_those_of_numpy(kind, shapes):
    tree = tensors(shapes, lead=(2,))
    layout = kind(tensors(shapes))
    field = layout.ravel(tree)
    for which, lines, means in (
        (-1, layout.rows, layout.row_means(field)),
        (-2, layout.columns, layout.column_means(field)),
    ):
        assert sum(x.size for x in jax.tree.leaves(means)) == 2 * sum(lines.sizes)
        for x, mean in zip(tree, lines.tensors(means), strict=True):
            rank = x.ndim - 1
            if rank < 2:
                np.testing.assert_array_equal(mean, x)
                continue
            axis = 1 + int(np.argsort(x.shape[1:], kind="stable")[which])
            total = np.sum(x, axis, keepdims=True)
            np.testing.assert_allclose(mean, total / max(x.shape[axis], 1), atol=1e-6)


@layouts
@few_examples
@given(shapes=SHAPES)
def test_spreading_means_of_rows_keeps_them(kind, shapes):
    tree = tensors(shapes, lead=(2,))
    layout = kind(tensors(shapes))
    field = layout.ravel(tree)
    zeros = layout.map(jnp.zeros_like, field)
    for means_of, spread in (
        (layout.row_means, layout.spread_rows),
        (layout.column_means, layout.spread_columns),
    ):
        means = means_of(field)
        again = layout.map(jnp.add, zeros, spread(means))
        assert all(
            a.shape == b.shape for a, b in zip(tree, layout.tensors(again), strict=True)
        )
        close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6)
        jax.tree.map(close, means_of(again), means)


@layouts
def test_means_of_a_function_are_means_of_its_outputs(kind):
    tree = tensors([(), (3,), (2, 4)])
    layout = kind(tree)
    outputs = lambda x, y: [x * y, jnp.square(x)]
    field = layout.ravel(tree)
    expected = [[np.mean(x * x) for x in tree]] * 2
    np.testing.assert_allclose(layout.means(outputs, field, field), expected, rtol=1e-5)


@layouts
def test_a_field_is_made_of_its_tensors(kind):
    tree = tensors([(2, 3), ()], lead=(4,))
    layout = kind(tensors([(2, 3), ()]))
    back = layout.tensors(layout.field(tree))
    assert all(np.array_equal(a, b) for a, b in zip(tree, back, strict=True))


@layouts
def test_what_is_mapped_in_pieces_comes_with_means_over_tensors(kind):
    tree = tensors([(3,), (2, 4), ()])
    layout = kind(tree)
    field = layout.ravel(tree)
    f = lambda x: (x + 1, jnp.stack([x, x**2]))
    outputs, means = layout.map_in_pieces(f, field)
    for x, y in zip(tree, layout.tensors(outputs), strict=True):
        np.testing.assert_allclose(y, x + 1)
    expected = [[np.mean(x), np.mean(x**2)] for x in tree]
    np.testing.assert_allclose(means.T, expected, rtol=1e-5)


@layouts
def test_mean_squares_are_means_of_squares(kind):
    tree = tensors([(3,), (2, 4), ()])
    layout = kind(tree)
    outputs = lambda x: [x, 2 * x]
    expected = [[np.mean(k * k * x * x) for x in tree] for k in (1, 2)]
    found = layout.mean_squares(outputs, layout.ravel(tree))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@layouts
def test_what_repeats_over_a_tensor_is_its_own_mean(kind, monkeypatch):
    monkeypatch.setattr(pieces, "_ON_CPU", 8)  # the largest is worked on in pieces
    shapes = [(3,), (6, 4), ()]
    layout = kind(tensors(shapes))
    values = jnp.array([2.0, -3.0, 5.0])
    field = layout.spread(values)
    np.testing.assert_allclose(layout.mean(field), values)
    twice = lambda x: [x, 2 * x]
    np.testing.assert_allclose(layout.means(twice, field), [values, 2 * values])
    squares = layout.mean_squares(twice, field)
    np.testing.assert_allclose(squares, [values**2, 4 * values**2])
    outputs, means = layout.map_in_pieces(lambda x: (x, x + 1), field)
    np.testing.assert_allclose(means, values + 1)
    for x, shape, value in zip(layout.tensors(outputs), shapes, values, strict=True):
        np.testing.assert_array_equal(x, jnp.full(shape, value))


def test_the_end_of_a_last_block_counts_for_nothing():
    layout = Many([jnp.zeros(3), jnp.zeros(5)])
    field = layout.map(lambda x: jnp.log(x), layout.ravel([jnp.ones(3), jnp.ones(5)]))
    assert not np.isfinite(field).all()  # the logarithm of what belongs to nobody
    np.testing.assert_array_equal(layout.mean(field), [0, 0])
