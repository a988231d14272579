"""Celo in two phases: the rule first, then its scheduler alone."""

import dataclasses

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
import pretrained
from learned_opt import CeloScheduler
from meta_train import Horizons, TaskMix, TrainConfig, run

FIRST = TrainConfig(
    optimizer="celo_rule",
    mix=TaskMix(suites=("quadratic",), task_options=("dims=2&noise=none",)),
    horizons=Horizons(window=2, min_horizon=2, max_horizon=8),
    num_tasks=2,
    num_pairs=2,
    outer_steps=2,
)


@pytest.fixture(scope="module")
def phases(tmp_path_factory):
    """The folders of what the two phases have trained."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "lane_mesh", lambda: None)
        first, second = (tmp_path_factory.mktemp(name) for name in ("rule", "celo"))
        run.train(FIRST, first)
        config = dataclasses.replace(
            FIRST, optimizer="celo", frozen_rule=str(first / "theta")
        )
        result = run.train(config, second)
    return first / "theta", config, result


def test_the_second_phase_trains_the_scheduler_and_nothing_else(phases):
    first, config, result = phases
    optimizer = config.learned_optimizer()
    assert isinstance(optimizer, CeloScheduler)
    assert optimizer is config.learned_optimizer()  # groups share their programs
    start, end = (ravelled(x) for x in (config.initial_theta(), result.theta))
    assert np.any(start != end)
    found = pretrained.load(result.folder / "theta")
    assert learned_opt.name_of(found.optimizer) == "celo"
    np.testing.assert_array_equal(ravelled(found.theta.scheduler), end)
    rule = pretrained.load(first).theta
    jax.tree.map(np.testing.assert_array_equal, found.theta.rule, rule)


def test_what_two_phases_have_trained_is_an_optax_transform(phases):
    tx = pretrained.optimizer(phases[2].folder / "theta", num_steps=10)
    params = {"w": jnp.ones((2, 3))}
    updates, _ = tx.update(params, tx.init(params), params, value=1.0)
    assert np.all(np.isfinite(updates["w"])) and np.any(updates["w"])


def test_the_second_phase_can_go_on_from_a_celo(phases):
    _, config, result = phases
    again = dataclasses.replace(config, init_from=str(result.folder / "theta"))
    jax.tree.map(np.testing.assert_array_equal, again.initial_theta(), result.theta)


def test_other_optimizers_have_no_rule_to_freeze(phases):
    with pytest.raises(ValueError, match="for the optimizer celo, not for adam"):
        TrainConfig(optimizer="adam", frozen_rule="runs/rule/theta")
    scheduler = dataclasses.replace(
        phases[1], frozen_rule=str(phases[2].folder / "theta")
    )
    with pytest.raises(ValueError, match="is a trained celo, not a celo_rule"):
        scheduler.learned_optimizer()


def test_theta_cannot_start_from_that_of_another_optimizer():
    config = TrainConfig(optimizer="adam", init_from="scale_free")
    with pytest.raises(ValueError, match="'scale_free' is a trained scale_free, not a"):
        config.initial_theta()


def ravelled(theta):
    return np.asarray(jax.flatten_util.ravel_pytree(theta)[0])
