"""Row and column moments against numpy, and against what they approximate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import Flat, PerTensor, factored
from learned_opt.adafactor_features import velo_root

SHAPES = {
    "a": (),
    "b": (3,),
    "c": (2, 4),
    "d": (4, 2),
    "e": (3, 2, 3),
    "f": (2, 5, 1, 3),
}
AXES = {"c": (1, 0), "d": (0, 1), "e": (2, 0), "f": (1, 3)}  # longest, second longest
DECAYS = np.array([0.5, 0.9])
layouts = pytest.mark.parametrize("kind", [Flat, PerTensor])


def normal(seed):
    rng = np.random.default_rng(seed)
    return {k: np.float32(rng.normal(size=s)) for k, s in SHAPES.items()}


def run(kind, trees):
    layout = kind(trees[0])

    @jax.jit
    def moments_of(trees):
        moments = factored.start(2, layout.ravel(trees[0]), layout)
        for tree in trees:
            rates = 1 - DECAYS
            moments = factored.update(moments, layout.ravel(tree), rates, layout)
        return moments

    return layout, moments_of(trees)


@layouts
def test_they_are_running_means_of_the_means_of_rows_and_columns(kind):
    trees = [normal(t) for t in range(3)]
    layout, moments = run(kind, trees)
    rows = layout.rows.tensors(moments.rows)
    columns = layout.columns.tensors(moments.columns)
    for name, row, column in zip(SHAPES, rows, columns, strict=True):
        expected = np.zeros((2, *SHAPES[name]))
        for tree in trees:
            decays = DECAYS.reshape(2, *(1,) * len(SHAPES[name]))
            expected = decays * expected + (1 - decays) * np.square(tree[name])
        if name not in AXES:  # the full moment, twice
            np.testing.assert_allclose(row, expected, rtol=1e-5)
            np.testing.assert_allclose(column, expected, rtol=1e-5)
            continue
        for axis, mean in zip(AXES[name], (row, column), strict=True):
            np.testing.assert_allclose(
                mean, expected.mean(1 + axis, keepdims=True), rtol=1e-5
            )


@layouts
def test_the_inverse_roots_are_exact_for_squares_of_rank_one(kind):
    rng = np.random.default_rng(0)
    grads = {}
    for name, shape in SHAPES.items():
        if name not in AXES:
            grads[name] = rng.uniform(1, 3, shape)
            continue
        one_axis = lambda axis, shape=shape: rng.uniform(
            1, 3, [n if i == axis else 1 for i, n in enumerate(shape)]
        )
        stack = [1 if i in AXES[name] else n for i, n in enumerate(shape)]
        longest, second = AXES[name]
        grads[name] = rng.uniform(1, 3, stack) * one_axis(longest) * one_axis(second)
    grads = jax.tree.map(np.float32, grads)
    layout, moments = run(kind, [grads])
    for roots in factored.inverse_roots(moments, layout, velo_root):
        row, column = (
            layout.spread_rows(roots.rows),
            layout.spread_columns(roots.columns),
        )
        inverse = layout.map(jnp.multiply, row, column)
        for name, x in zip(SHAPES, layout.tensors(inverse), strict=True):
            v = (1 - DECAYS).reshape(2, *(1,) * len(SHAPES[name])) * grads[name] ** 2
            np.testing.assert_allclose(x, v**-0.5, rtol=1e-5)


def test_they_are_small():
    params = {"w": jnp.zeros((1000, 50))}
    of_tensors = factored.start(3, params, PerTensor(params))
    assert jax.tree.map(jnp.shape, of_tensors) == ([(3, 1, 50)], [(3, 1000, 1)])
    flat = factored.start(3, jnp.zeros(50_000), Flat(params))
    assert jax.tree.map(jnp.shape, flat) == ((3, 50), (3, 1000))


@layouts
def test_zero_gradients_and_empty_tensors_are_finite(kind):
    tree = {"b": jnp.zeros(3), "w": jnp.zeros((2, 3)), "z": jnp.zeros((0, 2))}
    layout, moments = run(kind, [tree, tree])
    leaves = jax.tree.leaves(
        (moments, factored.inverse_roots(moments, layout, velo_root))
    )
    assert all(np.isfinite(x).all() for x in leaves)
    of_grads, of_means = factored.inverse_roots(moments, layout, velo_root)
    largest = lambda roots: max(x.max(initial=0) for x in map(np.asarray, roots))
    assert largest(jax.tree.leaves(of_grads)) <= 1e4 * 10**0.5 * 1.001
    assert largest(jax.tree.leaves(of_means.rows)) <= 1.001e10


def test_a_small_bias_is_scaled_by_its_own_size():
    layout, moments = run(Flat, [{"b": jnp.float32([1e-7, 2e-7])}])
    _, of_means = factored.inverse_roots(moments, layout, velo_root)
    expected = (0.5 * np.square([1e-7, 2e-7])) ** -0.5
    np.testing.assert_allclose(of_means.rows[0], expected, rtol=1e-4)
