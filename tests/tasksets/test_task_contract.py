"""What every task of every registered family must do.

Compiling is what these tests cost, so a structure is compiled once, into `_report`: all
that a task does, for every test to look at. A family is here by being registered, with
an entry in `small_variants.py`.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_variants
from jax.core import Tracer
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import tasksets
from tasksets import data
from tasksets.stacking import structure
from tasksets.task import SPLITS, Task

FAMILIES = small_variants.families()
NAMES = [
    task.name
    for family in FAMILIES
    for task in small_variants.stackable(family, most=2)
]
every_task = pytest.mark.parametrize("name", NAMES)
every_family = pytest.mark.parametrize("family", FAMILIES)

KEY = jax.random.key(3)
NUM_LANES = 4

# Before, while and after Adam trains: where the rate is 0, fresh batches are evaluated.
EVALUATE, TRAIN, RATE = 20, 200, 3e-3
RATES = np.float32([0] * EVALUATE + [RATE] * TRAIN + [0] * EVALUATE)

# Half of the time to compile, for programs that run for milliseconds.
_FAST_TO_COMPILE: Any = {"xla_backend_optimization_level": 0}

ADAM = optax.scale_by_adam()


class Report(NamedTuple):
    """What a task does: two starts, batches, and steps of Adam at given rates."""

    starts: Any  # of two keys
    taken_at_once: Any  # the batches of three steps, drawn and taken under vmap
    batches: Any  # of every step, each drawn alone
    first_grads: Any
    grads_finite: Any  # at every step
    losses: Any
    metrics: Any
    end: Any


def _report(task: Task, key, rates) -> Report:
    init_key, batch_key = jax.random.split(key)
    starts = jax.vmap(task.init)(jax.random.split(init_key))
    keys = jax.random.split(batch_key, len(rates))
    drawn = jax.vmap(lambda key: task.draw("train", key))(keys[:3])
    taken_at_once = jax.vmap(lambda drawn: task.take("train", drawn))(drawn)

    def step(carry, now):
        params, state, first_grads = carry
        index, key, rate = now
        batch = task.batch("train", key)
        loss, grads = jax.value_and_grad(task.loss)(params, batch, key)
        metrics = task.metrics(params, batch, key)
        finite = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)])
        update, state = ADAM.update(grads, state)
        params = jax.tree.map(lambda p, u: p - rate * u, params, update)
        first_grads = jax.tree.map(
            lambda first, g: jnp.where(index == 0, g, first), first_grads, grads
        )
        carry = params, state, first_grads
        return carry, (batch, finite.all(), loss, metrics)

    start = jax.tree.map(lambda leaf: leaf[0], starts)
    (end, _, first_grads), (batches, grads_finite, losses, metrics) = jax.lax.scan(
        step,
        (start, ADAM.init(start), jax.tree.map(jnp.zeros_like, start)),
        (jnp.arange(len(rates)), keys, rates),
    )
    return Report(
        starts,
        taken_at_once,
        batches,
        first_grads,
        grads_finite,
        losses,
        metrics,
        end,
    )


_PROGRAMS: dict[Any, Any] = {}  # by structure


def _alone(task: Task, key) -> Report:
    """The report of one task, by a program that serves all of its structure."""
    if structure(task) not in _PROGRAMS:
        traced = jax.jit(_report).trace(task, key, RATES)
        baked_in = sum(np.size(const) for const in traced.jaxpr.consts)
        assert baked_in < 1000, "data belong into the arguments of a program"
        _PROGRAMS[structure(task)] = traced.lower().compile(_FAST_TO_COMPILE)
    return _PROGRAMS[structure(task)](task, key, RATES)


@functools.cache
def _report_of(name: str) -> Report:
    return jax.device_get(_alone(tasksets.get(name), KEY))


@functools.cache
def _lanes(family: str) -> tuple[tuple[Task, ...], jax.Array, Report]:
    """Tasks of one structure, the key of each, and their reports from two devices."""
    tasks = small_variants.stackable(family, most=NUM_LANES)
    stacked = tasksets.stack([tasks[i % len(tasks)] for i in range(NUM_LANES)])
    keys = jax.random.split(KEY, NUM_LANES)
    mesh = jax.make_mesh((2,), ("lanes",), axis_types=(AxisType.Auto,))
    axes = tasksets.lane_axes(stacked)
    sharded = jax.shard_map(
        jax.vmap(_report, in_axes=(axes, 0, None)),
        mesh=mesh,
        in_specs=(
            dataclasses.replace(axes, numbers=P("lanes"), data=P()),
            P("lanes"),
            P(),
        ),
        out_specs=P("lanes"),
        check_vma=False,  # states of scans within a task may be constants
    )
    program = jax.jit(sharded, compiler_options=_FAST_TO_COMPILE)
    return tasks, keys, jax.device_get(program(stacked, keys, RATES))


@every_task
def test_loss_and_gradient_are_finite_float32_at_init(name):
    report = _report_of(name)
    assert report.losses.dtype == jnp.float32 and report.losses.ndim == 1
    assert all(metric.ndim == 1 for metric in jax.tree.leaves(report.metrics))
    start = jax.tree.map(lambda leaf: leaf[0], report.starts)
    assert jax.tree.structure(start) == jax.tree.structure(report.first_grads)
    for leaf in jax.tree.leaves((start, report.first_grads)):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
    assert np.isfinite(report.losses[:EVALUATE]).all()
    assert report.grads_finite[:EVALUATE].all()
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(report.first_grads))


@every_task
def test_a_name_gives_the_same_task_twice(name):
    first, second = tasksets.get(name), tasksets.get(name)
    assert first.problem == second.problem
    assert hash(first.problem) == hash(second.problem)
    _assert_trees_equal(first.numbers, second.numbers)
    _assert_trees_equal(_report_of(name), _alone(second, KEY))


@every_task
def test_the_name_of_a_task_gives_it_back(name):
    task = tasksets.get(name)
    again = tasksets.get(task.name)
    assert again.name == task.name
    assert again.problem == task.problem
    _assert_trees_equal(again.numbers, task.numbers)


@every_task
def test_another_key_gives_another_start(name):
    if name.startswith("lopt_pes"):
        pytest.skip("optimizers designed by hand start from their defaults")
    starts = jax.tree.leaves(_report_of(name).starts)
    assert any(np.any(leaf[0] != leaf[1]) for leaf in starts)


@every_task
def test_numbers_are_arrays_on_the_device_with_the_two_losses(name):
    _assert_numbers(tasksets.get(name))


def _assert_numbers(task):
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(task.numbers))
    assert not task.stacked
    assert float(task.numbers.best_loss) < float(task.numbers.initial_loss)


@every_task
def test_normalize_is_one_at_the_start_zero_at_the_best_and_monotone(name):
    _assert_normalizes(tasksets.get(name))


def _assert_normalizes(task):
    initial, best = task.numbers.initial_loss, task.numbers.best_loss
    losses = best + (initial - best) * jnp.linspace(-0.5, 1.5, 21)
    bad = jnp.array([jnp.nan, jnp.inf, -jnp.inf])
    every = jnp.concatenate([jnp.stack([initial, best]), losses, bad])
    at_initial, at_best, *scores = np.asarray(_normalize(task, every))
    scores, of_bad = scores[:-3], scores[-3:]
    np.testing.assert_allclose([at_initial, at_best], [1, 0], atol=1e-6)
    assert np.all(np.diff(scores) >= 0) and scores[0] == 0 and scores[-1] == 1
    assert 0 < scores[11] < 1
    np.testing.assert_array_equal(of_bad, [1, 1, 0])


_normalize = jax.jit(Task.normalize)


@every_task
def test_the_loss_at_init_is_near_the_initial_loss_or_above(name):
    scores = _normalize(tasksets.get(name), _report_of(name).losses[:EVALUATE])
    assert np.mean(scores) > 0.7


@every_task
def test_every_split_serves_batches_of_one_shape(name):
    _assert_splits_alike(tasksets.get(name))


def _assert_splits_alike(task):
    batches = [
        jax.eval_shape(lambda task, split=split: task.batch(split, KEY), task)
        for split in SPLITS
    ]
    assert all(batch == batches[0] for batch in batches)


@every_task
def test_a_batch_is_what_was_drawn_whether_one_at_a_time_or_all_at_once(name):
    report = _report_of(name)
    alone = jax.tree.map(lambda leaf: leaf[:3], report.batches)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6),
        report.taken_at_once,
        alone,
    )


@every_task
def test_an_unknown_split_names_the_nearest(name):
    task = tasksets.get(name)
    for method in (task.batch, task.draw, task.take):
        with pytest.raises(ValueError, match="did you mean 'inner_valid'"):
            method("inner_val", KEY)  # pyright: ignore


@every_family
def test_tasks_of_a_family_share_their_data_and_so_does_a_stack(family):
    tasks = small_variants.stackable(family, most=2)
    stacked = tasksets.stack(tasks)
    shared = jax.tree.leaves(tasks[0].data)
    for other in (tasks[-1].data, stacked.data, stacked[0].data):
        leaves = jax.tree.leaves(other)
        assert all(a is b for a, b in zip(shared, leaves, strict=True))


@every_family
def test_lanes_on_several_devices_equal_the_tasks_alone(family):
    tasks, keys, lanes = _lanes(family)
    for i, task in enumerate(tasks):
        _assert_close_until_training(
            _alone(task, keys[i]), jax.tree.map(lambda leaf, i=i: leaf[i], lanes)
        )


def _assert_close_until_training(first: Report, second: Report) -> None:
    """To float32's accuracy: roundings depend on how a loss is fused."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        _relative(_before_training(first)),
        _relative(_before_training(second)),
    )


def _before_training(report: Report):
    losses = report.losses[:EVALUATE]
    batches = jax.tree.map(lambda leaf: leaf[:EVALUATE], report.batches)
    return report.starts, batches, report.first_grads, losses


def _relative(tree):
    """Leaves over their largest magnitude, so that one tolerance serves all."""
    return jax.tree.map(lambda leaf: leaf / (1e-30 + np.max(np.abs(leaf))), tree)


@every_family
def test_training_lowers_the_loss(family):
    _, _, lanes = _lanes(family)
    assert np.mean(_has_learned(lanes.losses)) >= SHARE_THAT_LEARNS.get(family, 1.0)


# Of the small tasks that a test takes; 1 where a family is not named.
SHARE_THAT_LEARNS: dict[str, float] = {}


def _has_learned(losses):
    """Whether the mean over fresh batches is lower after training; NaN is not."""
    return losses[..., -EVALUATE:].mean(-1) < losses[..., :EVALUATE].mean(-1)


@every_task
def test_two_tasks_of_equal_structure_share_one_compilation(name):
    traces = []

    @jax.jit
    def start(task):
        traces.append(task.name)
        return task.init(KEY)

    task = tasksets.get(name)
    start.eval_shape(task)
    start.eval_shape(dataclasses.replace(tasksets.get(name), name="another"))
    assert traces == [""]


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
