"""Stacks of tasks: lanes, groups, and the errors of tasks that do not stack."""

import dataclasses
import gc
import weakref
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets import placing, registry

KEY = jax.random.key(0)
NAMES = [f"small_mlp/seed{i}@digits?hidden=8&activation=relu" for i in range(3)]


@pytest.fixture(scope="module")
def tasks():
    return [tasksets.get(name) for name in NAMES]


def test_different_tasks_give_the_same_numbers_in_lanes_as_alone(tasks):
    stacked = tasksets.stack(tasks)
    axes = tasksets.lane_axes(stacked)
    params = jax.vmap(tasksets.Task.init, in_axes=(axes, None))(stacked, KEY)
    batch = jax.vmap(lambda t: t.batch("train", KEY), in_axes=(axes,))(stacked)
    losses = jax.vmap(tasksets.Task.loss, in_axes=(axes, 0, 0, None))(
        stacked, params, batch, KEY
    )
    alone = [t.loss(t.init(KEY), t.batch("train", KEY), KEY) for t in tasks]
    assert len({float(loss) for loss in alone}) == 3
    np.testing.assert_allclose(losses, alone, rtol=1e-5)


def test_the_data_of_a_stack_are_shared_and_not_copied(tasks):
    stacked = tasksets.stack(tasks)
    assert stacked.data is tasks[0].data
    assert stacked.num_lanes == 3 and stacked.stacked and not tasks[0].stacked


def test_a_lane_is_the_task_that_was_stacked_even_with_a_traced_index(tasks):
    stacked = tasksets.stack(tasks)
    scale = jax.jit(lambda task, i: task.lane(i).numbers.reparam_scale)
    for i, task in enumerate(tasks):
        jax.tree.map(np.testing.assert_array_equal, stacked[i].numbers, task.numbers)
        assert scale(stacked, jnp.int32(i)) == task.numbers.reparam_scale


def test_a_stack_iterates_over_its_lanes_and_checks_its_bounds(tasks):
    stacked = tasksets.stack(tasks)
    assert len(list(stacked)) == 3
    with pytest.raises(IndexError, match="lane 3 of a stack of 3"):
        stacked[3]
    with pytest.raises(TypeError, match="not stacked"):
        tasks[0].lane(0)


def test_normalize_of_a_stack_goes_lane_by_lane():
    tasks = [
        tasksets.get(f"quadratic_family/seed106?loss_scale={scale}")
        for scale in (1.0, 100.0)
    ]
    stacked = tasksets.stack(tasks)
    losses = jnp.array([[1.0, 2.0, jnp.nan], [1.0, 2.0, 3.0]])
    expected = [task.normalize(row) for task, row in zip(tasks, losses, strict=True)]
    np.testing.assert_allclose(stacked.normalize(losses), jnp.stack(expected))
    assert np.any(expected[0] != expected[1])


def test_stack_names_the_first_task_of_another_structure(tasks):
    other = tasksets.get("small_mlp/seed9@digits?hidden=9")
    with pytest.raises(ValueError, match=r"task 2 \(Task\('small_mlp/seed9@digits"):
        tasksets.stack([*tasks[:2], other, *tasks[2:]])


def test_a_data_set_that_is_carved_in_two_ways_is_two_structures():
    name = "char_rnn_language_model_family/seed0@python_docs?num_train=none"
    usual, other = map(tasksets.get, (name, f"{name}&num_per_valid=5"))
    assert usual.problem == other.problem
    with pytest.raises(ValueError, match="shapes of its data"):
        tasksets.stack([usual, other])
    groups = tasksets.group_by_structure([usual, other, usual])
    assert groups == [[usual, usual], [other]]


def test_tasks_of_unlike_data_do_not_stack(tasks):
    task = tasks[0]
    alike = tasksets.Task(
        task.problem, task.numbers, jax.tree.map(jnp.array, task.data)
    )
    tasksets.stack([task, alike])
    data = jax.tree.map(lambda x: x[::-1], task.data)
    other = tasksets.Task(task.problem, task.numbers, data)
    with pytest.raises(ValueError, match="task 1 .* has other data than task 0"):
        tasksets.stack([task, other])
    assert tasksets.structure(task) == tasksets.structure(other)
    groups = tasksets.group_by_structure([task, other, tasks[1]])
    assert groups == [[task, tasks[1]], [other]]


def test_stack_refuses_nothing_and_stacks(tasks):
    with pytest.raises(ValueError, match="no tasks"):
        tasksets.stack([])
    with pytest.raises(ValueError, match="a stack already"):
        tasksets.stack([tasksets.stack(tasks)])


def test_methods_of_one_task_refuse_a_stack_and_point_to_vmap(tasks):
    with pytest.raises(ValueError, match="lane_axes"):
        tasksets.stack(tasks).init(KEY)


def test_groups_keep_the_order_in_which_structures_appear(tasks):
    other = tasksets.get("small_mlp/seed9@digits?hidden=9")
    groups = tasksets.group_by_structure([tasks[0], other, tasks[1]])
    assert [[t.name for t in group] for group in groups] == [
        [tasks[0].name, tasks[1].name],
        [other.name],
    ]


class _Line(tasksets.Problem):
    """A line through points of one's own."""

    def init(self, numbers, key):
        return {"a": jax.random.normal(key)}

    def take(self, numbers, data, split, drawn):
        return data["x"][drawn], data["y"][drawn]

    def draw(self, numbers, data, split, key):
        return jax.random.randint(key, (8,), 0, len(data["x"]))

    def loss(self, numbers, params, batch, key):
        x, y = batch
        return jnp.mean((params["a"] * x - y) ** 2)


class _Numbers(NamedTuple):
    initial_loss: Any = np.float32(1.0)
    best_loss: Any = np.float32(0.0)


@pytest.fixture
def lines(monkeypatch):
    """Tasks with arrays of numpy that every one of them makes anew."""
    monkeypatch.setattr(registry, "_FAMILIES", dict(registry._FAMILIES))

    def build(config):
        x = np.linspace(0.0, 1.0, 50, dtype=np.float32)
        return _LINE, _Numbers(), {"x": x, "y": x * (1 + config.kind)}

    family = tasksets.Family("line", lambda seed: _LineConfig(seed % 2), build)
    tasksets.register(family)
    return [tasksets.get(f"line/seed{seed}") for seed in range(6)]


@dataclasses.dataclass(frozen=True)
class _LineConfig:
    kind: int


_LINE = _Line()


def test_equal_data_stack_also_where_each_task_has_its_own_copy(lines):
    first, second = tasksets.group_by_structure(lines)
    assert [task.name for task in first] == ["line/seed0", "line/seed2", "line/seed4"]
    assert tasksets.stack(first).num_lanes == tasksets.stack(second).num_lanes == 3


def test_data_of_numpy_can_be_indexed_in_a_compiled_program(lines):
    task = lines[0]

    def loss(key):  # with the data as constants, as in a script
        return task.loss(task.init(key), task.batch("train", key), key)

    np.testing.assert_allclose(jax.jit(loss)(KEY), loss(KEY), rtol=1e-6)


def test_an_array_of_numpy_comes_to_the_device_once_and_leaves_it_with_its_last_user():
    array = np.arange(3.0)
    (one,), (other,) = placing.on_device([array]), placing.on_device((array,))
    assert one is other and isinstance(one, jax.Array)
    gone = weakref.ref(one)
    del array, one, other
    gc.collect()
    assert gone() is None


def test_the_name_is_lost_in_a_trace_and_kept_outside(tasks):
    assert tasks[0].name == NAMES[0]
    assert jax.jit(lambda task: task)(tasks[0]).name == ""


def test_the_paths_of_a_task_name_its_parts(tasks):
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(tasks[0])]
    assert ".numbers.reparam_scale" in paths
    assert ".data.train.inputs" in paths
