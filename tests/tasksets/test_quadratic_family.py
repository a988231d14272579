"""quadratic_family: losses and expectations in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets.families import quadratic

KEY = jax.random.key(0)
# Every kind of noise and of matrix, both outputs, both starts.
SEEDS = {0: "eigen", 10: "uniform", 100: "normal", 106: None, 102: "uniform"}


def _task(name):
    return tasksets.get(name), tasksets.config(name)


@pytest.mark.parametrize("output", ["identity", "log"])
def test_the_loss_without_noise_is_the_formula(output):
    task, config = _task(f"quadratic_family/seed106?output={output}")
    params = task.init(KEY)
    f = np.sum((np.asarray(task.numbers.matrix) @ np.asarray(params["x"])) ** 2)
    expected = config.loss_scale * (np.log(f + 1e-8) if output == "log" else f)
    np.testing.assert_allclose(
        task.loss(params, task.batch("train", KEY), KEY), expected, rtol=1e-4
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_the_initial_loss_is_the_mean_over_starts_and_noise(seed):
    task, _ = _task(f"quadratic_family/seed{seed}?output=identity")
    assert getattr(task.problem, "noise") == SEEDS[seed]  # noqa: B009

    def loss(key):
        init_key, noise_key = jax.random.split(key)
        return task.loss(task.init(init_key), (), noise_key)

    losses = np.asarray(jax.jit(jax.vmap(loss))(jax.random.split(KEY, 4000)))
    error = losses.std() / np.sqrt(4000)
    # The eigenvectors of the noise are only nearly uniform: 1 % more.
    tolerance = 4 * error + 0.01 * losses.mean() * (SEEDS[seed] == "eigen")
    assert abs(losses.mean() - task.numbers.initial_loss) < tolerance
    # Power: leaving the noise out would be seen where the noise is not tiny.
    if seed == 0:
        quiet, _ = _task("quadratic_family/seed0?output=identity&noise=none")
        assert abs(losses.mean() - quiet.numbers.initial_loss) > 2 * tolerance


def test_noise_comes_with_the_key_and_vanishes_at_the_optimum():
    task, _ = _task("quadratic_family/seed10")
    params = task.init(KEY)
    losses = {float(task.loss(params, (), jax.random.key(i))) for i in range(5)}
    assert len(losses) == 5
    assert task.loss({"x": jnp.zeros(2)}, (), KEY) == 0


def test_both_outputs_have_one_normalised_score():
    identity, config = _task("quadratic_family/seed106?output=identity")
    log, _ = _task("quadratic_family/seed106?output=log")
    f = jnp.logspace(-9, 3, 13)
    scores = identity.normalize(config.loss_scale * f)
    np.testing.assert_allclose(
        log.normalize(config.loss_scale * jnp.log(f + 1e-8)), scores, atol=1e-5
    )
    # Well above the floor, ten times less loss is one step on the scale.
    np.testing.assert_allclose(np.diff(scores)[3:8], np.diff(scores)[3], rtol=0.01)


@pytest.mark.parametrize("seed", [10, 103])
def test_matrices_of_a_spectrum_have_that_spectrum(seed):
    task, config = _task(f"quadratic_family/seed{seed}")
    expected = config.matrix.spectrum(config.dims)
    found = np.linalg.eigvalsh(np.asarray(task.numbers.matrix, np.float64))
    np.testing.assert_allclose(found, np.sort(expected), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        expected[[0, -1]], [config.matrix.min, config.matrix.max], rtol=1e-5
    )


def test_the_noise_matrix_has_its_spectrum_in_every_draw():
    spectrum = jnp.array([0.1, 1.0, 5.0])
    first, second = (
        quadratic._matrix_of_spectrum(spectrum, jax.random.key(i)) for i in (0, 1)
    )
    np.testing.assert_allclose(np.linalg.eigvalsh(first), spectrum, atol=1e-5)
    assert np.any(np.abs(first - second) > 0.01)


def test_entries_follow_their_law():
    law = quadratic.Law("uniform", min=-1.0, max=3.0)
    mean, std = law.moments()
    draws = quadratic._entries(
        "uniform",
        quadratic.EntryNumbers(jnp.float32(mean), jnp.float32(std)),
        (5000,),
        KEY,
    )
    assert -1 <= draws.min() < -0.99 and 2.99 < draws.max() <= 3
    np.testing.assert_allclose([mean, std], [1, np.sqrt(16 / 12)])


@pytest.mark.parametrize("seed", SEEDS)
def test_an_outline_is_the_task_but_for_its_matrix(seed, monkeypatch):
    name = f"quadratic_family/seed{seed}?dims=4"
    task = tasksets.get(name)
    with monkeypatch.context() as patch:
        patch.setattr(quadratic, "_draw_matrix", None)
        outline = tasksets.outline(name)
    assert tasksets.structure(outline) == tasksets.structure(task)
    assert outline.name == task.name and not np.any(outline.numbers.matrix)
    filled = tasksets.filled_in(outline)
    jax.tree.map(np.testing.assert_array_equal, filled.numbers, task.numbers)


def test_a_task_without_an_outline_of_its_own_is_its_outline():
    outline = tasksets.outline("small_mlp/seed0")
    assert tasksets.filled_in(outline) is outline
    task = tasksets.get("small_mlp/seed0")
    jax.tree.map(np.testing.assert_array_equal, outline.numbers, task.numbers)
