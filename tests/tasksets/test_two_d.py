"""The eight fixed problems of two variables."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasksets.fixed.two_d import FIXED
from tasksets.losg.surfaces import SURFACES
from tasksets.task import Task

KEY = jax.random.key(0)


def _task(name):
    return Task(*FIXED.build(FIXED.configs[name]), name=name)


def test_there_are_the_eight_of_taskset():
    bowls = {f"TwoD_Bowl{condition}" for condition in (1, 10, 100, 1000)}
    others = {"Rosenbrock", "Ackley", "Beale", "StyblinskiTang"}
    assert set(FIXED.configs) == bowls | {f"TwoD_{name}" for name in others}


@pytest.mark.parametrize("condition", [1, 10, 100, 1000])
def test_a_bowl_is_as_steep_as_its_name_says(condition):
    task = _task(f"TwoD_Bowl{condition}")
    loss = task.loss({"x": jnp.array([2.0, 3.0])}, (), KEY)
    np.testing.assert_allclose(loss, 0.5 * (4 * condition + 9), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "minimum"),
    [
        ("TwoD_Rosenbrock", (1, 1)),
        ("TwoD_Ackley", (0, 0)),
        ("TwoD_Beale", (3, 0.5)),
        ("TwoD_StyblinskiTang", (-2.903534, -2.903534)),
    ],
)
def test_a_surface_has_its_minimum_where_it_should(name, minimum):
    task = _task(name)
    loss = task.loss({"x": jnp.float32(minimum)}, (), KEY)
    np.testing.assert_allclose(loss, task.numbers.best_loss, atol=2e-5)
    np.testing.assert_allclose(task.normalize(loss), 0, atol=1e-3)
    assert task.normalize(task.numbers.initial_loss) == 1


@pytest.mark.parametrize("name", FIXED.configs)
def test_losses_are_without_noise_and_batches_empty(name):
    task = _task(name)
    params = task.init(KEY)
    assert task.batch("test", KEY) == ()
    first, second = (
        jax.value_and_grad(task.loss)(params, (), jax.random.key(i)) for i in (0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert np.isfinite(first[0])


def test_starts_have_the_law_of_taskset():
    keys = jax.random.split(KEY, 5000)
    starts = jax.vmap(_task("TwoD_Rosenbrock").init)(keys)["x"]
    low, high = np.array(SURFACES["rosenbrock"].box).T
    np.testing.assert_allclose(starts.min(axis=0), low, atol=0.02)
    np.testing.assert_allclose(starts.max(axis=0), high, atol=0.02)
    bowl_starts = jax.vmap(_task("TwoD_Bowl10").init)(keys)["x"]
    np.testing.assert_allclose(bowl_starts.std(axis=0), 1, atol=0.05)
