"""How many pairs of lanes a device runs at once."""

import dataclasses
from fractions import Fraction

import jax
import pytest

import learned_opt
import tasksets
from meta_train import InnerTraining, TaskMix, TrainConfig
from meta_train.devices import lane_mesh
from meta_train.turns import pairs_at_once


def system(optimizer, hidden):
    task = tasksets.get(f"small_mlp/seed3@digits?hidden={hidden}&activation=relu")
    return InnerTraining.over([task, task], learned_opt.get(optimizer)())


@pytest.mark.parametrize(
    ("optimizer", "hidden", "num_pairs", "expected"),
    [
        ("scale_free", 32, 32, 8),  # 2,410 parameters
        ("scale_free", 128, 32, 2),  # 9,610
        ("scale_free", 2, 32, None),  # 160: all fit
        ("per_parameter_mlp", 32, 32, 2),  # holds four times as much of each
        ("per_parameter_mlp", 128, 32, 1),
        ("adam", 32, 32, 8),  # no network
        ("scale_free", 32, 4, None),
        ("scale_free", 32, 36, 9),  # turns are equally long
        ("scale_free", 32, 7, None),  # nearer to 8 than 1 is
        ("scale_free", 32, 13, None),
        ("hyper_v2", 128, 32, None),  # all lanes read its theta together
    ],
)
def test_a_turn_is_what_a_cache_holds(optimizer, hidden, num_pairs, expected):
    assert pairs_at_once(system(optimizer, hidden), num_pairs) == expected


def test_accelerators_run_all_at_once(monkeypatch):
    wide = system("per_parameter_mlp", 128)
    assert pairs_at_once(wide, 32) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert pairs_at_once(wide, 32) is None


def test_an_optimizer_that_does_not_say_is_taken_for_a_narrow_one():
    class Stranger:
        init = staticmethod(learned_opt.get("adam")().init)

    narrow = dataclasses.replace(system("adam", 32), optimizer=Stranger())
    assert pairs_at_once(narrow, 32) == 8


def test_runs_take_turns_unless_told():
    config = TrainConfig(
        optimizer="per_parameter_mlp", mix=TaskMix(suites=("small_mlp",)), num_pairs=32
    )
    tasks = [tasksets.get("small_mlp/seed3@digits?hidden=32&activation=relu")]
    batch = lambda config: config.estimator_of(tasks, Fraction(1), None).lane_batch
    assert batch(config) == 2
    assert batch(dataclasses.replace(config, lane_batch=5)) == 5
    narrow = dataclasses.replace(config, optimizer="scale_free")
    assert batch(narrow) == 8
    # Eight devices have four pairs each, and those fit.
    spread_out = narrow.estimator_of(tasks, Fraction(1), lane_mesh())
    assert spread_out.lane_batch is None and spread_out.num_pairs == 32
