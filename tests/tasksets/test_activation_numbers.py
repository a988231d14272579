"""An activation as a number is the activation of that name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasksets.activations import ACTIVATIONS, activate, activation_numbers

POINTS = jnp.array([-90.0, -20, -3, -0.5, -1e-3, -1e-6, 1e-6, 1e-3, 0.5, 3, 20, 90])
every_activation = pytest.mark.parametrize("name", ACTIVATIONS)


@every_activation
def test_value_and_slope_are_those_of_the_function(name):
    numbers = activation_numbers(name)
    found, slopes = jax.vmap(jax.value_and_grad(lambda x: activate(numbers, x)))(POINTS)
    wanted, right = jax.vmap(jax.value_and_grad(ACTIVATIONS[name]))(POINTS)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(slopes, right, rtol=1e-5, atol=1e-7)


@every_activation
def test_the_second_derivative_is_that_of_the_function(name):
    numbers = activation_numbers(name)
    found = jax.vmap(jax.grad(jax.grad(lambda x: activate(numbers, x))))(POINTS[2:-2])
    wanted = jax.vmap(jax.grad(jax.grad(ACTIVATIONS[name])))(POINTS[2:-2])
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


def test_at_zero_relu_is_flat_and_the_rest_are_finite():
    for name in ACTIVATIONS:
        value, slope = jax.value_and_grad(
            lambda x, n=name: activate(activation_numbers(n), x)
        )(0.0)
        assert np.isfinite(value) and np.isfinite(slope)
        assert name != "relu" or slope == 0


def test_lanes_may_differ_in_their_activation():
    names = list(ACTIVATIONS)
    numbers = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *map(activation_numbers, names)
    )
    together = jax.vmap(activate, (0, None))(numbers, POINTS)
    for name, row in zip(names, together, strict=True):
        alone = activate(activation_numbers(name), POINTS)
        np.testing.assert_array_equal(row, alone)
