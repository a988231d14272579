"""What a config refuses, and how it is told."""

import dataclasses
import json
import shutil

import jax
import pytest
import small_runs

import learned_opt
import pretrained
from meta_train import TaskMix, TrainConfig
from tasksets import UnknownNameError


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"groups_in_flight": 2, "num_tasks": 8}, "num_tasks does nothing with groups"),
        ({"tasks_per_group": 8}, "tasks_per_group does nothing without groups_in_flig"),
        ({"loss_cap": float("inf")}, "loss_cap must be finite"),
        ({"lane_batch": 0}, "lane_batch must be at least 1"),
        ({"noise_rank": 0}, "noise_rank must be at least 1"),
        ({"estimator": "gpes"}, "'gpes' and gpes_interval go together"),
        ({"gpes_interval": 2}, "'gpes' and gpes_interval go together"),
        ({"estimator": "gpes", "gpes_interval": 0}, "gpes_interval must be at least 1"),
    ],
)
def test_fields_that_do_nothing_or_cannot_be_are_refused_by_name(wrong, sentence):
    with pytest.raises(ValueError, match=sentence):
        TrainConfig(**wrong)


def test_names_that_are_no_choice_are_told_with_the_nearest_that_are():
    with pytest.raises(UnknownNameError, match="'pse'; nearest: pes"):
        TrainConfig(estimator="pse")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="'leave-out'; nearest: leave out"):
        TaskMix(absent_data="leave-out")  # type: ignore[arg-type]


def test_values_that_are_of_another_kind_are_told_what_they_should_be():
    with pytest.raises(TypeError, match="name of a registered one"):
        TrainConfig(optimizer=learned_opt.Adam())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"\('small_mlp',\)"):
        TaskMix(suites="small_mlp")  # type: ignore[arg-type]


def test_a_run_goes_on_with_what_it_began_with_whatever_becomes_of_the_folder(tmp_path):
    optimizer, where = learned_opt.Adam(), tmp_path / "adam"
    theta = optimizer.init(jax.random.key(0))
    card = pretrained.load("scale_free").card
    pretrained.save(where, optimizer, theta, card)
    config = TrainConfig(optimizer="adam", init_from=str(where))
    start = config.initial_theta()
    shutil.rmtree(where)
    again, theta = config.whole(start)
    assert again == optimizer and again is config.learned_optimizer()
    # Another config reads anew.
    pretrained.save(where, optimizer, jax.tree.map(lambda x: x + 1, start), card)
    other = dataclasses.replace(config, seed=1).initial_theta()
    assert jax.tree.leaves(other)[0] == jax.tree.leaves(start)[0] + 1


def test_a_config_is_read_as_it_was_written(tmp_path):
    small_runs.CONFIG.save(tmp_path / "config.json")
    assert TrainConfig.load(tmp_path / "config.json") == small_runs.CONFIG
    older = json.loads(small_runs.CONFIG.text())
    del older["gpes_interval"]
    assert TrainConfig.parse(json.dumps(older)) == small_runs.CONFIG
    with pytest.raises(ValueError, match="nothing_like_it"):
        TrainConfig.parse(json.dumps(older | {"nothing_like_it": 1}))
    other = dataclasses.replace(small_runs.CONFIG, sigma=0.5)
    assert other.differences(small_runs.CONFIG) == ["sigma: 0.5, not 0.03"]


def test_an_infinite_clip_is_none():
    assert TrainConfig(clip=float("inf")).clip == float("inf")
