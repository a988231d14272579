"""Mixes of suites: shares, options, wrappers, the cap on cost."""

import dataclasses
import math

import numpy as np
import pytest

import tasksets
from meta_train import curriculum
from meta_train.curriculum import TaskMix
from tasksets.families import quadratic

QUADRATIC = TaskMix(suites=("quadratic",), task_options=("dims=3",))


def _family(task):
    return task.name.split("/")[0]


def test_a_sample_has_every_suite_by_its_share():
    mix = TaskMix(suites=("small_mlp", "quadratic"), weights=(3.0, 1.0))
    families = [_family(task) for task in mix.sample(20, seed=0)]
    assert families.count("small_mlp") == 15
    assert families.count("quadratic_family") == 5


def test_a_sample_is_of_different_tasks_and_repeats_with_its_seed():
    names = [task.name for task in QUADRATIC.sample(30, seed=3)]
    assert len(set(names)) == 30
    assert names == [task.name for task in QUADRATIC.sample(30, seed=3)]
    assert names != [task.name for task in QUADRATIC.sample(30, seed=4)]
    assert all(tasksets.split_of(name) == "train" for name in names)


def test_groups_draw_their_suite_by_its_weight():
    mix = TaskMix(suites=("small_mlp", "quadratic"), weights=(0.0, 1.0))
    assert all(_family(t) == "quadratic_family" for t in mix.sample_alike(3, 0, [7]))
    mix = dataclasses.replace(mix, weights=())
    drawn = [_family(mix.sample_alike(1, 0, [i])[0]) for i in range(20)]
    assert 3 < drawn.count("small_mlp") < 17


def test_tasks_that_are_alike_are_different_where_there_are_enough():
    mix = TaskMix(task_options=("hidden=32&activation=relu",))
    names = [task.name for task in mix.sample_alike(8, 0, [1])]
    assert len(set(names)) == 8


def test_where_few_are_alike_they_come_several_times():
    mix = TaskMix(suites=("quadratic",))  # of up to 3000 dimensions each
    tasks = mix.sample_alike(4, 0, [2])
    assert len(tasks) == 4 and len({task.name for task in tasks}) < 4
    tasksets.stack(tasks)


def test_only_the_tasks_of_a_group_draw_their_numbers(monkeypatch):
    drawn = []
    draw = quadratic._draw_matrix
    monkeypatch.setattr(quadratic, "_draw_matrix", lambda c: drawn.append(c) or draw(c))
    mix = TaskMix(suites=("quadratic",), max_megaflops=0.01)
    tasks = mix.sample_alike(4, 0, [5])
    assert len(drawn) == len({task.name for task in tasks})
    assert all(config.dims < 100 for config in drawn)


def test_augmented_groups_are_wrapped_alike_with_seeds_of_their_own():
    mix = dataclasses.replace(QUADRATIC, augmentation=1.0)
    groups = [mix.sample_alike(3, 0, [i]) for i in range(6)]
    for tasks in groups:
        tasksets.stack(tasks)
        first, second, _ = (task.name for task in tasks)
        assert first.count("+") == second.count("+")
        if "+reparametrized" in first:
            wrapped = [name.partition("+")[2] for name in (first, second)]
            assert wrapped[0] != wrapped[1]
    assert sum("+reparametrized" in tasks[0].name for tasks in groups) > 1


def test_the_chance_of_augmentation_is_that_of_a_task():
    mix = dataclasses.replace(QUADRATIC, augmentation=0.3)
    wrapped = ["+" in task.name for task in mix.sample(200, seed=0)]
    expected = 0.3 * 0.8  # some draws hold no wrapper
    assert np.mean(wrapped) == pytest.approx(expected, abs=0.1)


def test_tasks_above_the_cap_are_drawn_again():
    mix = TaskMix(suites=("quadratic",), max_megaflops=0.1)
    for tasks in (mix.sample(5, 0), mix.sample_alike(1, 0, [3])):
        assert all(tasksets.gradient_operations(task).total <= 1e5 for task in tasks)
    uncapped = dataclasses.replace(mix, max_megaflops=math.inf)
    assert any(
        tasksets.gradient_operations(t).total > 1e5 for t in uncapped.sample(20, 0)
    )


def test_a_cap_that_nothing_meets_is_an_error(monkeypatch):
    monkeypatch.setattr(curriculum, "_MOST_DRAWS", 3)
    mix = dataclasses.replace(QUADRATIC, max_megaflops=1e-6)
    with pytest.raises(ValueError, match="suite 'quadratic' .* megaflops"):
        mix.sample_alike(1, 0, [0])


def test_absent_data_are_an_error_unless_they_are_left_out(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))  # where nothing is prepared
    mix = TaskMix(suites=("fixed",))
    with pytest.raises(tasksets.DataNotFoundError):
        mix.sample(60, seed=0)
    present = dataclasses.replace(mix, absent_data="leave out")
    assert present.sample(3, seed=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"suites": ()},
        {"weights": (1.0,)},
        {"weights": (0.0, 0.0)},
        {"weights": (-1.0, 2.0)},
        {"augmentation": 1.5},
        {"max_megaflops": 0.0},
    ],
)
def test_impossible_mixes_are_errors(wrong):
    with pytest.raises(ValueError):
        TaskMix(**({"suites": ("small_mlp", "quadratic")} | wrong))
