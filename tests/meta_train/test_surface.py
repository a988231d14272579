"""Slices of the meta-loss against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train import surface

KEYS = jax.random.split(jax.random.key(0), 3)


class Bowl:
    """L = |theta|^2 at every step."""

    def init(self, key):
        del key
        return jnp.zeros(())

    def step(self, theta, state, key):
        del key
        return state, jnp.sum(theta**2)


class Cliff(Bowl):
    """Not a number where theta is negative."""

    def step(self, theta, state, key):
        del key
        return state, jnp.sum(jnp.sqrt(theta))


def test_a_line_is_the_loss_along_a_direction():
    theta, direction = jnp.array([1.0, 2.0]), jnp.array([0.0, 1.0])
    offsets = np.linspace(-3, 3, 7)
    height = surface.meta_loss(Bowl(), KEYS, 4)
    heights = surface.line(height, theta, direction, offsets)
    np.testing.assert_allclose(heights, 1 + (2 + offsets) ** 2, rtol=1e-5)


def test_rows_of_a_plane_follow_the_first_direction():
    offsets = np.linspace(-1, 1, 5)
    directions = jnp.array([2.0, 0.0]), jnp.array([0.0, 1.0])
    height = surface.meta_loss(Bowl(), KEYS, 4)
    heights = surface.plane(height, jnp.zeros(2), directions, offsets)
    expected = (2 * offsets[:, None]) ** 2 + offsets**2
    np.testing.assert_allclose(heights, expected, rtol=1e-5, atol=1e-6)


def test_smoothing_a_bowl_lifts_it_by_its_dimension_times_sigma_squared():
    height = surface.meta_loss(Bowl(), KEYS, 4)
    smooth = surface.smoothed(height, 0.5, jax.random.key(1), 20_000)
    theta = jnp.array([1.0, -1.0, 0.5])
    lifted = float(smooth(theta)) - float(height(theta))
    assert lifted == pytest.approx(3 * 0.25, rel=0.03)


def test_losses_that_are_not_numbers_count_as_the_cap():
    height = surface.meta_loss(Cliff(), KEYS, 4, cap=7.0)
    heights = surface.line(height, jnp.zeros(1), jnp.ones(1), np.array([-1.0, 4.0]))
    np.testing.assert_allclose(heights, [7.0, 2.0])
