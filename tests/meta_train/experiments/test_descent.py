"""Descent over a grid of learning rates and seeds; stopping and going on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train import outer
from meta_train.estimators import NRES
from meta_train.experiments import descent
from meta_train.experiments.influence_balancing import Influence
from meta_train.truncation import Truncation

ESTIMATOR = NRES(Influence(), Truncation.constant(40, 1), 8, 0.1)
SETTINGS = {"rates": (1e-3, 1e-2), "seeds": (0, 5, 7), "num_steps": 12, "records": 4}


def init(key):
    return 0.1 * jax.random.normal(key, (), jnp.float32)


def test_every_run_is_the_outer_loop_at_its_rate_and_seed():
    trace = descent.descend(ESTIMATOR, init, optimizer=optax.sgd, **SETTINGS)
    assert trace.theta.shape == (2, 3, 4)
    np.testing.assert_array_equal(trace.step, [3, 6, 9, 12])
    theta_key, run_key = jax.random.split(jax.random.key(5))
    tx = optax.sgd(1e-2)
    state = outer.start((ESTIMATOR,), init(theta_key), tx, run_key)
    state = state._replace(key=run_key)
    step = outer.make_step(tx, clip=float("inf"))
    losses = []
    for i in range(12):
        state, metrics = step((ESTIMATOR,), state)
        losses.append(metrics["loss"])
        if i % 3 == 2:
            found = trace.theta[1, 1, i // 3]
            np.testing.assert_allclose(found, state.theta, rtol=1e-5)
    np.testing.assert_allclose(
        trace.metrics["loss"][1, 1], np.reshape(losses, (4, 3)).mean(axis=1), rtol=1e-5
    )


def test_a_run_that_was_stopped_goes_on_to_the_same_end(tmp_path, monkeypatch):
    whole = descent.descend(ESTIMATOR, init, **SETTINGS)
    save, saved = descent._save, []

    def save_twice(folder, progress):
        save(folder, progress)
        saved.append(int(progress.done))
        if len(saved) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(descent, "_save", save_twice)
    with pytest.raises(KeyboardInterrupt):
        descent.descend(ESTIMATOR, init, **SETTINGS, folder=tmp_path)
    resumed = descent.descend(ESTIMATOR, init, **SETTINGS, folder=tmp_path)
    assert saved == [1, 2, 3, 4]
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    again = descent.descend(ESTIMATOR, init, **SETTINGS, folder=tmp_path)
    assert saved == [1, 2, 3, 4]
    jax.tree.map(np.testing.assert_array_equal, again, whole)


@pytest.mark.parametrize(
    "other",
    [
        {"seeds": (0, 5, 8)},
        {"optimizer": optax.sgd},
        {"estimator": dataclasses.replace(ESTIMATOR, sigma=0.2)},
        {"estimator": NRES(Influence(), Truncation.constant(80, 1), 8, 0.1)},
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path, other):
    mine = {"estimator": ESTIMATOR, "init": init, **SETTINGS, "folder": tmp_path}
    descent.descend(**mine)
    with pytest.raises(ValueError, match="other settings"):
        descent.descend(**{**mine, **other})


def test_records_must_divide_the_steps():
    with pytest.raises(ValueError, match="do not divide"):
        descent.descend(ESTIMATOR, init, rates=(1,), seeds=(0,), num_steps=7, records=3)


def test_jobs_run_side_by_side_and_keep_their_names():
    where = descent.concurrently(
        {
            name: lambda name=name: (name, jnp.zeros(1).devices())
            for name in ("a", "b", "c")
        }
    )
    assert list(where) == ["a", "b", "c"]
    assert all(name == found for name, (found, _) in where.items())
