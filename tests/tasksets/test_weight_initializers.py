"""Initialisers: the variance, the support and the shape of what they draw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasksets.initializers import init_weight, initializer

SHAPE = (90, 60)
KEY = jax.random.key(0)
VARIANCES = {
    "he_normal": (None, 2 / 90),
    "he_uniform": (None, 2 / 90),
    "glorot_normal": (None, 2 / 150),
    "glorot_uniform": (None, 2 / 150),
    "orthogonal": (3.0, 9 / 90),
    "random_uniform": (0.5, 0.25 / 3),
    "random_normal": (0.5, 0.25),
    "truncated_normal": (0.5, 0.25 * 0.8796256**2),
    "variance_scaling": (0.5, 0.5 / 90),
}


@pytest.mark.parametrize("name", VARIANCES)
def test_entries_have_mean_zero_and_the_variance_of_their_law(name):
    scale, variance = VARIANCES[name]
    matrix = init_weight(*initializer(name, scale), SHAPE, KEY)
    assert matrix.shape == SHAPE
    num_entries = 90 * 60
    assert abs(matrix.mean()) < 4 * np.sqrt(variance / num_entries)
    # The relative deviation of a sample variance is at most sqrt(2 / n) = 0.02.
    np.testing.assert_allclose(jnp.mean(matrix**2), variance, rtol=0.08)


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("truncated_normal", 2 * 0.5),
        ("random_uniform", 0.5),
        ("he_uniform", np.sqrt(6 / 90)),
        ("he_normal", 2 * np.sqrt(2 / 90) / 0.8796256),
    ],
)
def test_bounded_laws_reach_their_bound_and_stay_below(name, bound):
    scale, _ = VARIANCES[name]
    most = jnp.abs(init_weight(*initializer(name, scale), SHAPE, KEY)).max()
    assert 0.97 * bound < most <= bound * (1 + 1e-6)


def test_a_plain_normal_would_not_pass_for_a_truncated_one():
    matrix = init_weight(*initializer("random_normal", 0.5), SHAPE, KEY)
    assert jnp.abs(matrix).max() > 2 * 0.5


@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_the_short_side_of_an_orthogonal_matrix_is_orthogonal(shape):
    w = init_weight(*initializer("orthogonal", 2.0), shape, KEY)
    gram = w.T @ w if shape[0] > shape[1] else w @ w.T
    np.testing.assert_allclose(gram, 4 * np.eye(4), atol=1e-5)


def test_initializers_that_differ_in_their_law_stack():
    kinds = {initializer(name, 0.5)[0] for name in VARIANCES}
    assert kinds == {"entrywise", "orthogonal"}
    he, glorot = initializer("he_normal", None), initializer("glorot_uniform", None)
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), he[1], glorot[1])
    drawn = jax.vmap(lambda n: init_weight(he[0], n, (5, 3), KEY))(both)
    np.testing.assert_allclose(drawn[1], init_weight(*glorot, (5, 3), KEY), rtol=1e-6)
