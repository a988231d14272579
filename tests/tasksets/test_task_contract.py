"""What every task of every registered family must do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import tasksets
from tasksets import data, registry
from tasksets.task import SPLITS, Task


def _small_name(family: str, seed: int) -> str:
    fields = {f.name for f in dataclasses.fields(registry.config(f"{family}/seed0"))}
    dataset = "@digits" if "dataset" in fields else ""
    small = "?dims=5" if "dims" in fields else ""
    return f"{family}/seed{seed}{dataset}{small}"


NAMES = [_small_name(family, seed) for family in registry.families() for seed in (0, 2)]
every_task = pytest.mark.parametrize("name", NAMES)
KEY = jax.random.key(3)


def _step(task: Task, key):
    init_key, batch_key, loss_key = jax.random.split(key, 3)
    params, batch = task.init(init_key), task.batch("train", batch_key)
    loss, grads = jax.value_and_grad(task.loss)(params, batch, loss_key)
    return params, batch, loss, grads, task.metrics(params, batch, loss_key)


_step_jit = jax.jit(_step)


@every_task
def test_loss_and_gradient_are_finite_float32_at_init(name):
    params, _, loss, grads, _ = _step_jit(tasksets.get(name), KEY)
    assert loss.shape == () and loss.dtype == jnp.float32
    assert jax.tree.structure(params) == jax.tree.structure(grads)
    for leaf in jax.tree.leaves((params, loss, grads)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))


@every_task
def test_a_name_gives_the_same_task_twice(name):
    first, second = tasksets.get(name), tasksets.get(name)
    assert first.problem == second.problem
    assert hash(first.problem) == hash(second.problem)
    _assert_trees_equal(first.numbers, second.numbers)
    _assert_trees_equal(_step_jit(first, KEY), _step_jit(second, KEY))


@every_task
def test_the_name_of_a_task_gives_it_back(name):
    task = tasksets.get(name)
    again = tasksets.get(task.name)
    assert again.name == task.name
    assert again.problem == task.problem
    _assert_trees_equal(again.numbers, task.numbers)


@every_task
def test_another_key_gives_another_start(name):
    task = tasksets.get(name)
    first, second = task.init(KEY), task.init(jax.random.key(4))
    assert any(
        np.any(a != b)
        for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    )


@every_task
def test_numbers_are_arrays_on_the_device_with_the_two_losses(name):
    task = tasksets.get(name)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(task.numbers))
    assert not task.stacked
    assert float(task.numbers.best_loss) < float(task.numbers.initial_loss)


@every_task
def test_normalize_is_one_at_the_start_zero_at_the_best_and_monotone(name):
    task = tasksets.get(name)
    initial, best = task.numbers.initial_loss, task.numbers.best_loss
    np.testing.assert_allclose(task.normalize(initial), 1, atol=1e-6)
    np.testing.assert_allclose(task.normalize(best), 0, atol=1e-6)
    losses = best + (initial - best) * jnp.linspace(-0.5, 1.5, 21)
    scores = task.normalize(losses)
    assert np.all(np.diff(scores) >= 0) and scores[0] == 0 and scores[-1] == 1
    assert 0 < scores[11] < 1
    bad = jnp.array([jnp.nan, jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(task.normalize(bad), [1, 1, 0])


@every_task
def test_the_loss_at_init_is_near_the_initial_loss_or_above(name):
    task = tasksets.get(name)
    losses = [float(_step_jit(task, jax.random.key(i))[2]) for i in range(5)]
    assert np.mean(task.normalize(jnp.array(losses))) > 0.7


@every_task
def test_every_split_serves_batches_of_one_shape(name):
    task = tasksets.get(name)
    batches = [task.batch(split, KEY) for split in SPLITS]
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), b) for b in batches]
    assert all(shape == shapes[0] for shape in shapes)


@every_task
def test_a_batch_is_what_was_drawn_whether_one_at_a_time_or_all_at_once(name):
    task = tasksets.get(name)
    keys = jax.random.split(KEY, 3)
    drawn = jax.jit(jax.vmap(lambda key: task.draw("train", key)))(keys)
    taken = jax.jit(jax.vmap(lambda drawn: task.take("train", drawn)))(drawn)
    alone = jax.jit(lambda key: task.batch("train", key))
    for i, key in enumerate(keys):
        lane = jax.tree.map(lambda leaf, i=i: leaf[i], taken)
        _assert_trees_equal(lane, alone(key))


@every_task
def test_an_unknown_split_names_the_nearest(name):
    task = tasksets.get(name)
    for method in (task.batch, task.draw, task.take):
        with pytest.raises(ValueError, match="did you mean 'inner_valid'"):
            method("inner_val", KEY)  # pyright: ignore


@every_task
def test_lanes_of_a_vmapped_stack_equal_the_tasks_alone(name):
    task = tasksets.get(name)
    stacked = tasksets.stack([task, task, task])
    keys = jax.random.split(KEY, 3)
    over_lanes = jax.vmap(_step, in_axes=(tasksets.lane_axes(stacked), 0))
    lanes = jax.jit(over_lanes)(stacked, keys)
    for i in range(3):
        alone = _step_jit(task, keys[i])
        lane = jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5),
            _relative(alone),
            _relative(lane),
        )


@every_task
def test_two_tasks_of_equal_structure_share_one_compilation(name):
    traces = []

    @jax.jit
    def loss_at_init(task):
        traces.append(task.name)
        return task.loss(task.init(KEY), task.batch("train", KEY), KEY)

    task = tasksets.get(name)
    loss_at_init(task)
    loss_at_init(dataclasses.replace(tasksets.get(name), name="another"))
    assert traces == [""]


@every_task
def test_a_task_runs_inside_scan_and_shard_map(name):
    task = tasksets.get(name)
    stacked = tasksets.stack([task, task])
    mesh = jax.make_mesh((2,), ("lanes",), axis_types=(AxisType.Auto,))
    axes = tasksets.lane_axes(stacked)
    specs = dataclasses.replace(axes, numbers=P("lanes"), data=P())

    def window(task, key):
        def step(params, key):
            batch = task.batch("train", key)
            loss, grads = jax.value_and_grad(task.loss)(params, batch, key)
            return jax.tree.map(lambda p, g: p - 0.0 * g, params, grads), loss

        return jax.lax.scan(step, task.init(key), jax.random.split(key, 3))[1]

    sharded = jax.shard_map(
        lambda tasks: jax.vmap(window, in_axes=(axes, None))(tasks, KEY),
        mesh=mesh,
        in_specs=(specs,),
        out_specs=P("lanes"),
    )
    losses = jax.jit(sharded)(stacked)
    assert losses.shape == (2, 3) and np.isfinite(losses).all()


def test_a_task_got_inside_a_trace_is_made_of_arrays():
    @jax.jit
    def loss(key):
        task = tasksets.get("small_mlp/seed5@wine")
        kept.append(task)
        return task.loss(task.init(key), task.batch("train", key), key)

    kept: list[Task] = []
    data._load.cache_clear()
    loss(KEY)
    assert not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(kept[0]))
    np.testing.assert_array_equal(loss(KEY), jax.jit(_loss_at)(kept[0], KEY))


def _loss_at(task, key):
    return task.loss(task.init(key), task.batch("train", key), key)


def _assert_trees_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)


def _relative(tree):
    """Leaves over their largest magnitude, so that one tolerance serves all."""
    return jax.tree.map(lambda leaf: leaf / (1e-30 + np.max(np.abs(leaf))), tree)
