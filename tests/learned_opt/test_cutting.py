"""One vector cut into many tensors: right in every transformation, cheap to compile."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import Flat, cutting

VECTOR = jnp.arange(12.0)
STARTS, SIZES = (0, 3, 8), (3, 4, 2)
EXPECTED = [[0, 1, 2], [3, 4, 5, 6], [8, 9]]


def _cut(vector):
    return cutting.cut(cutting.apart(vector), STARTS, SIZES)


@pytest.mark.parametrize("first", [0.0, np.nan])
def test_pieces_are_where_they_should_be_whatever_the_vector_holds(first):
    pieces = jax.jit(_cut)(VECTOR.at[0].set(first))
    assert [p.shape[0] for p in pieces] == list(SIZES)
    assert np.array_equal(pieces[1], EXPECTED[1]) and np.array_equal(pieces[2], [8, 9])
    np.testing.assert_array_equal(pieces[0], [first, 1, 2])


def test_lanes_are_cut_alike():
    lanes = jnp.stack([VECTOR, VECTOR + 100])
    for piece, expected in zip(jax.vmap(_cut)(lanes), EXPECTED, strict=True):
        np.testing.assert_array_equal(piece[1], np.array(expected) + 100)


def test_leading_axes_stay():
    pieces = _cut(jnp.stack([VECTOR, -VECTOR]))
    np.testing.assert_array_equal(pieces[1], [[3, 4, 5, 6], [-3, -4, -5, -6]])


def test_gradients_go_through_in_both_modes():
    weighted = lambda vector: sum(
        (i + 1) * jnp.sum(piece) for i, piece in enumerate(_cut(vector))
    )
    expected = [1, 1, 1, 2, 2, 2, 2, 0, 3, 3, 0, 0]
    np.testing.assert_array_equal(jax.grad(weighted)(VECTOR), expected)
    _, along = jax.jvp(weighted, (VECTOR,), (jnp.ones(12),))
    assert along == sum(expected)


def test_a_vector_of_odd_length_is_kept_apart_too():
    np.testing.assert_array_equal(jax.jit(cutting.apart)(VECTOR[:7]), VECTOR[:7])


def _programs_of_an_update(num_tensors):
    """Distinct parts of the compiled update of equal tensors, and its exponentials."""
    optimizer = learned_opt.get("scale_free")()
    theta = optimizer.init(jax.random.key(0))
    params = [jnp.ones((5, 7))] * num_tensors
    tx = optimizer.transform(theta, num_steps=10, layout=Flat)
    state = jax.eval_shape(tx.init, params)
    text = jax.jit(tx.update).lower(params, state, params).compile().as_text()
    names = r"%?[a-z][\w-]*\.\d+|%[\w.-]+|param_\d+|, metadata=\{[^}]*\}"
    parts = re.split(r"\n(?=\n|ENTRY|%)", text)
    parts = [re.sub(names, "", part) for part in parts if not part.startswith("ENTRY")]
    return len(set(parts)), text.count(" exponential(")


def test_an_update_of_more_tensors_needs_no_more_programs():
    parts, exponentials = _programs_of_an_update(40)
    more_parts, more_exponentials = _programs_of_an_update(80)
    assert more_parts <= parts + 2 and more_exponentials == exponentials
