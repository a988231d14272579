"""Random orthogonal matrices, and that no batch of decompositions is ever asked for."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets.decompositions import orthogonal, orthogonal_factor

KEYS = jax.random.split(jax.random.key(0), 3)


@pytest.mark.parametrize("shape", [(5, 5), (7, 3), (3, 7)])
def test_these_are_the_orthogonal_matrices_of_jax(shape):
    mine = orthogonal(KEYS[0], *shape)
    np.testing.assert_array_equal(
        mine, jax.random.orthogonal(KEYS[0], shape[0], m=shape[1])
    )


def test_the_factor_leaves_a_triangle_of_positive_diagonal():
    matrix = jax.random.normal(KEYS[0], (6, 4))
    q = orthogonal_factor(matrix)
    r = q.T @ matrix
    np.testing.assert_allclose(q.T @ q, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(np.tril(r, -1), 0, atol=1e-5)
    assert (np.diagonal(r) > 0).all()


def test_many_at_once_are_what_each_is_alone():
    together = jax.vmap(lambda key: orthogonal(key, 4, 3))(KEYS)
    apart = jnp.stack([orthogonal(key, 4, 3) for key in KEYS])
    np.testing.assert_allclose(together, apart, atol=1e-6)


def _decomposed(program) -> list[str]:
    """The shapes that a program gives to LAPACK's decomposition."""
    text = program.as_text()
    return re.findall(r"geqrf\w*\(.*?: \(tensor<(.*?)>\)", text)


def test_a_batch_of_tasks_decomposes_one_matrix_at_a_time():
    task = tasksets.get("quadratic_family/seed0?dims=6")  # noise with eigenvectors
    params = task.init(KEYS[0])
    losses = jax.jit(jax.vmap(lambda key: jax.grad(task.loss)(params, (), key)))
    assert set(_decomposed(losses.lower(KEYS))) == {"6x6xf32"}


def test_the_search_for_decompositions_would_see_a_batch():
    batch = jax.jit(jax.vmap(jnp.linalg.qr)).lower(jnp.ones((3, 6, 6)))
    assert _decomposed(batch) == ["3x6x6xf32"]
