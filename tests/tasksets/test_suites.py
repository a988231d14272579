"""Suites: how many tasks they have, which, and which of them are for testing."""

import random

import pytest

import tasksets
from tasksets import registry
from tasksets.excluded import EXCLUDED, TWIN
from tasksets.fixed import TASKSET_GROUPS
from tasksets.names import parse
from tasksets.presence import data_present, dataset_of
from tasksets.suites import TASKSET_FAMILIES

# Less the training tasks that are the same as a test task.
SIZES = {
    "taskset": 12 * 1000 + 109 - 28,
    "taskset-1k": 12 * 88 + 109 - 3,
    "metz2020": 12 * 500 - 14,
    "fixed": 109,
    "digits": 1000,
    "bundled": 7 * 100 - 3,
    "small_mlp": 10000,
    "quadratic": 1000,
}
# The hand-made tasks of TaskSet.
GROUP_SIZES = {
    "fixed_image_conv": 23,
    "fixed_conv_ae": 5,
    "fixed_conv_vae": 7,
    "language_modeling": 5,
    "maf": 3,
    "fixed_mlp": 13,
    "fixed_mlp_ae": 3,
    "fixed_mlp_vae": 7,
    "nvp": 5,
    "text_rnn_classification": 12,
    "TwoD": 8,
    "associative": 9,
    "copy": 9,
}
_ALL = [*tasksets.suites(), *sorted({*tasksets.families()} - {*tasksets.suites()})]
every_suite = pytest.mark.parametrize("suite", _ALL)


def test_suites_have_as_many_names_as_they_promise():
    sizes = {suite: len(tasksets.names(suite)) for suite in tasksets.suites()}
    small = sizes.pop("small")
    assert sizes == SIZES
    assert 100 < small < sizes["taskset-1k"]
    assert set(tasksets.names("small")) <= set(tasksets.names("taskset-1k"))


def test_a_family_is_a_suite_of_a_thousand_seeds():
    assert tasksets.names("vit")[:2] == ["vit/seed0", "vit/seed1"]
    for family in {*tasksets.families()} - {*tasksets.suites(), "losg_tasks_family"}:
        assert len(tasksets.names(family)) == 1000
    with pytest.raises(tasksets.UnknownNameError, match="nearest: vit"):
        tasksets.names("vitt")


def test_the_fixed_tasks_are_those_of_taskset_in_groups():
    assert {group.name: len(group.configs) for group in TASKSET_GROUPS} == GROUP_SIZES
    assert sum(GROUP_SIZES.values()) == 109
    assert sorted(tasksets.names("fixed")) == registry.fixed()


def test_taskset_has_a_thousand_seeds_of_each_of_its_families():
    seeds = {family: [] for family in TASKSET_FAMILIES}
    for name in map(parse, tasksets.names("taskset")):
        if name.seed is not None:
            seeds[name.family].append(name.seed)
    for family, listed in seeds.items():
        twins = [root for root, why in EXCLUDED.items() if why == TWIN]
        left_empty = sum(parse(root).family == family for root in twins)
        assert len(listed) == 1000 - left_empty and listed == sorted(listed)
        passed_over = set(range(listed[-1])) - set(listed)
        assert all(f"{family}/seed{seed}" in EXCLUDED for seed in passed_over)


@every_suite
def test_a_suite_lists_each_name_once_in_one_spelling_and_one_order(suite):
    names = tasksets.names(suite)
    assert len(set(names)) == len(names)
    assert names == tasksets.names(suite)
    assert all(str(parse(name)) == name for name in names)


@every_suite
def test_no_suite_has_an_excluded_task(suite):
    assert not {registry.root_of(name) for name in tasksets.names(suite)} & set(
        EXCLUDED
    )


def test_a_task_is_for_training_or_for_testing_in_all_suites_alike():
    train, test = (
        {
            registry.root_of(name)
            for suite in _ALL
            for name in tasksets.names(suite, split)
        }
        for split in ("train", "test")
    )
    assert not train & test


@every_suite
def test_a_fifth_of_a_suite_is_for_testing_and_none_of_it_for_training(suite):
    every = tasksets.names(suite)
    train, test = (tasksets.names(suite, split) for split in ("train", "test"))
    assert not set(train) & set(test)
    assert sorted(train + test) == sorted(every)
    # Four standard deviations of a hash that is uniform.
    assert abs(len(test) - len(every) / 5) <= 4 * (0.16 * len(every)) ** 0.5


def test_the_split_of_a_task_never_changes_and_ignores_what_follows_the_seed():
    splits = [tasksets.split_of(f"small_mlp/seed{i}") for i in range(12)]
    assert [i for i, split in enumerate(splits) if split == "test"] == [5, 7, 10]
    for seed, split in enumerate(splits):
        for variant in ("@wine?hidden=3", "+bf16", "?hidden=3+gradient_noise:std=1.0"):
            assert tasksets.split_of(f"small_mlp/seed{seed}{variant}") == split


@pytest.mark.parametrize(
    "suite", ["bundled", "digits", "fixed", "quadratic", "taskset-1k"]
)
def test_the_names_whose_data_are_here_are_tasks_that_can_be_got(suite):
    every, here = tasksets.names(suite), tasksets.names(suite, data_here=True)
    in_here = set(here)
    assert in_here <= set(every)
    assert here == [name for name in every if name in in_here]
    for name in random.Random(0).sample(here, min(10, len(here))):
        assert tasksets.get(name).name == name
    for name in random.Random(0).sample(every, min(50, len(every))):
        dataset = dataset_of(name)
        assert (name in in_here) == (dataset is None or data_present(dataset))


def test_an_absent_data_set_is_what_data_here_leaves_out(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    here = tasksets.names("taskset-1k", data_here=True)
    assert {dataset_of(name) for name in here} == {None}
    assert len(tasksets.names("digits", data_here=True)) == 1000
    (absent,) = set(tasksets.names("taskset-1k")[:1]) - set(here)
    with pytest.raises(tasksets.DataNotFoundError):
        tasksets.get(absent)


def test_what_is_drawn_from_a_suite_may_be_limited_to_data_that_are_here(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    drawn = tasksets.sample_names(40, suite="taskset-1k", data_here=True)
    assert {dataset_of(name) for name in drawn} == {None}
    tasks = tasksets.sample(3, suite="taskset-1k", seed=4, data_here=True)
    assert len(tasks) == 3
    with pytest.raises(tasksets.DataNotFoundError):
        tasksets.sample(3, suite="taskset-1k", seed=4)
    with pytest.raises(ValueError, match="has [1-9][0-9]* .* whose data are here, 900"):
        tasksets.sample_names(900, suite="taskset-1k", data_here=True)


def test_an_unknown_suite_shows_the_nearest():
    with pytest.raises(tasksets.UnknownNameError, match="nearest: digits"):
        tasksets.names("digit")


def test_an_unknown_split_and_the_split_of_an_unknown_task_are_errors():
    with pytest.raises(ValueError, match="'train' or 'test', not 'valid'"):
        tasksets.names("digits", "valid")
    with pytest.raises(tasksets.UnknownNameError, match="nearest: .*mlp_family"):
        tasksets.split_of("mlp_famly/seed3")
    with pytest.raises(tasksets.UnknownNameError, match="nearest: TwoD_Bowl1"):
        tasksets.split_of("TwoD_Bowl?seed=1")


def test_sample_is_a_function_of_its_seed_and_stays_in_its_split():
    sampled = [t.name for t in tasksets.sample(6, suite="small_mlp", seed=1)]
    assert sampled == [t.name for t in tasksets.sample(6, suite="small_mlp", seed=1)]
    assert sampled != [t.name for t in tasksets.sample(6, suite="small_mlp", seed=2)]
    assert len(set(sampled)) == 6
    assert all(tasksets.split_of(name) == "train" for name in sampled)
    held_out = tasksets.sample(6, suite="small_mlp", split="test")
    assert all(tasksets.split_of(task.name) == "test" for task in held_out)


def test_sample_in_groups_has_the_same_tasks_in_lists_that_stack():
    flat = tasksets.sample(9, suite="small_mlp")
    groups = tasksets.sample(9, suite="small_mlp", group_by_structure=True)
    assert sorted(t.name for t in flat) == sorted(t.name for g in groups for t in g)
    assert sum(tasksets.stack(group).num_lanes for group in groups) == 9
    assert len(groups) <= 4


def test_sample_cannot_give_more_tasks_than_there_are():
    with pytest.raises(ValueError, match="has 1[0-9]+ tasks to test with"):
        tasksets.sample(900, suite="digits", split="test")
    with pytest.raises(ValueError, match="split is 'train' or 'test'"):
        tasksets.sample(1, suite="digits", split="valid")  # pyright: ignore


def test_bundled_tasks_need_nothing_that_is_not_in_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    names = tasksets.names("bundled")
    assert {dataset_of(name) for name in names} == {"digits", None}
    assert tasksets.names("bundled", data_here=True) == names
    assert len({parse(name).family for name in names}) == 7
