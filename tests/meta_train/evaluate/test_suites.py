"""The suites: held out, complete, and of names that mean something."""

from collections import Counter

import jax
import pytest

import tasksets
from meta_train.evaluate import suite_names, suites
from meta_train.evaluate.sweeps import SWEEPS


@pytest.mark.parametrize("suite", ["eval-100", "eval-small", *SWEEPS])
def test_no_task_of_a_suite_was_or_can_be_trained_on(suite):
    names = [item.name for item in suites.items(suite)]
    assert names and all(tasksets.split_of(name) == "test" for name in names)
    for name in names:
        tasksets.config(name)  # every field of a name is one of its family


def test_the_hundred_are_a_hundred_and_the_small_suite_is_a_fifth_of_them():
    hundred = [item.name for item in suites.items("eval-100")]
    small = [item.name for item in suites.items("eval-small")]
    assert len(set(hundred)) == len(hundred) == 100
    assert len(small) == 20 and set(small) < set(hundred)
    families = Counter(name.partition("/")[0] for name in hundred)
    assert families["mlp_family"] == 19 and len(families) >= 10
    assert not [name for name in hundred if name.partition("@")[0] in tasksets.EXCLUDED]
    data = {tasksets.dataset_of(name) for name in hundred}
    assert data == {None, "mnist", "fashion_mnist", "tiny_shakespeare"}


@pytest.mark.parametrize("suite", SWEEPS)
def test_the_parts_of_a_sweep_are_equally_large_along_an_axis(suite):
    items = suites.items(suite)
    assert all(item.part for item in items)
    if items[0].x is not None:
        assert len(set(Counter(item.x for item in items).values())) == 1
    assert len({(item.name, item.num_steps) for item in items}) == len(items)


def test_a_suite_of_tasks_serves_with_its_held_out_ones():
    names = [item.name for item in suites.items("small_mlp", 7)]
    assert len(names) == 7 and {tasksets.split_of(name) for name in names} == {"test"}
    (entry,) = suites.entries(suites.items("small_mlp", 1), 50, "hidden=8")
    assert entry.num_steps == 50 and "hidden=8" in entry.task.name


def test_the_horizon_of_a_task_is_its_own_or_the_one_that_is_asked_for():
    lengths = {e.num_steps for e in suites.entries(suites.items("tabular"), 300)}
    assert lengths == {300}
    assert {item.num_steps for item in suites.items("horizon")} > {100, 2000}


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("small_mlp/seed3", "hidden=8", "small_mlp/seed3?hidden=8"),
        ("a/seed3@digits?x=1&y=2+bf16", "y=5", "a/seed3@digits?x=1&y=5+bf16"),
        ("a/seed3@digits?x=1", "dataset=iris", "a/seed3?x=1&dataset=iris"),
    ],
)
def test_options_go_into_names_that_have_some(name, options, expected):
    assert tasksets.with_options(name, options) == expected


@pytest.mark.parametrize("suite", ["width", "bf16"])
def test_options_reach_the_tasks_of_a_sweep(suite):
    items = suites.items(suite)[:2]
    for entry in suites.entries(items, 100, "dataset=digits&batch_size=7"):
        assert entry.task.batch("train", jax.random.key(0)).labels.shape == (7,)


def test_an_unknown_suite_is_told_with_the_nearest():
    assert {"eval-100", "width", "taskset"} < set(suite_names())
    with pytest.raises(LookupError, match="eval-small"):
        suites.items("eval-smal")
