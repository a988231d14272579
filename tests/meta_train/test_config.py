"""What a config refuses, and how it is told."""

import dataclasses
import json

import pytest
import small_runs

from meta_train import TrainConfig


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
