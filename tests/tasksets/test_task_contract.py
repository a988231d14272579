"""What every task of every registered family must do.

Compiling is what these tests cost, so a family has two programs, and every test looks
at what they return: `_lanes`, all that a stack of small tasks does on two devices, and
`_alone`, the start of one of them, plain and wrapped. A family is here by being
registered, with an entry in `small_variants.py`.
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
from tasksets import data, registry
from tasksets.excluded import EXCLUDED
from tasksets.stacking import group_by_structure, structure
from tasksets.task import SPLITS, Task

FAMILIES = small_variants.families()
NAMES = {
    task.name: (family, lane)
    for family in FAMILIES
    for lane, task in enumerate(small_variants.stackable(family, most=2))
}
every_task = pytest.mark.parametrize("name", NAMES, ids=registry.root_of)
every_family = pytest.mark.parametrize("family", FAMILIES)

KEY = jax.random.key(3)
NUM_LANES = 4

# Adam at 3e-3 for 200 steps. Before and after, the rate is 0: fresh batches evaluate.
EVALUATE = 20
RATES = np.array([0] * EVALUATE + [3e-3] * 200 + [0] * EVALUATE, np.float32)
ADAM = optax.scale_by_adam()

SCALE = 3.0
WRAPPED = f"+reparametrized:level=global&low={SCALE}&high={SCALE}&seed=0+bf16"

# Halves the time to compile of programs that run for milliseconds.
FAST_TO_COMPILE: Any = {"xla_backend_optimization_level": 0}


class Report(NamedTuple):
    """What a task does: two starts, batches, and a run of Adam."""

    starts: Any  # of two keys
    taken_at_once: Any  # the batches of three steps, drawn and taken under vmap
    batches: Any  # of every step, each drawn alone
    first_grads: Any
    grads_finite: Any  # at every step
    losses: Any


def _report(task: Task, key) -> Report:
    init_key, batch_key = jax.random.split(key)
    starts = jax.vmap(task.init)(jax.random.split(init_key))
    keys = jax.random.split(batch_key, len(RATES))
    drawn = jax.vmap(lambda key: task.draw("train", key))(keys[:3])
    taken_at_once = jax.vmap(lambda drawn: task.take("train", drawn))(drawn)

    def step(carry, now):
        params, state, first_grads = carry
        index, key, rate = now
        batch = task.batch("train", key)
        loss, grads = jax.value_and_grad(task.loss)(params, batch, key)
        finite = jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(grads)])
        update, state = ADAM.update(grads, state)
        params = jax.tree.map(lambda p, u: p - rate * u, params, update)
        first_grads = jax.tree.map(
            lambda first, g: jnp.where(index == 0, g, first), first_grads, grads
        )
        return (params, state, first_grads), (batch, finite.all(), loss)

    start = jax.tree.map(lambda leaf: leaf[0], starts)
    (_, _, first_grads), (batches, grads_finite, losses) = jax.lax.scan(
        step,
        (start, ADAM.init(start), jax.tree.map(jnp.zeros_like, start)),
        (jnp.arange(len(RATES)), keys, RATES),
    )
    return Report(starts, taken_at_once, batches, first_grads, grads_finite, losses)


@functools.cache
def _lanes(family: str) -> tuple[tuple[Task, ...], jax.Array, Report]:
    """Tasks of one structure, a key for each, and their reports."""
    tasks = small_variants.stackable(family, most=NUM_LANES)
    stacked = tasksets.stack([tasks[i % len(tasks)] for i in range(NUM_LANES)])
    keys = jax.random.split(KEY, NUM_LANES)
    mesh = jax.make_mesh((2,), ("lanes",), axis_types=(AxisType.Auto,))
    axes = tasksets.lane_axes(stacked)
    specs = dataclasses.replace(axes, numbers=P("lanes"), data=P()), P("lanes")
    sharded = jax.shard_map(
        jax.vmap(_report, in_axes=(axes, 0)),
        mesh=mesh,
        in_specs=specs,
        out_specs=P("lanes"),
        # With the check, a constant among the parameters, such as a bias of 0, belongs
        # to all devices together, and so does its gradient: the sum over the devices.
        check_vma=False,
    )
    traced = jax.jit(sharded).trace(stacked, keys)
    baked_in = sum(np.size(const) for const in traced.jaxpr.consts)
    assert baked_in < 1000, "data are arguments of a program, not constants in it"
    program = traced.lower().compile(FAST_TO_COMPILE)
    return tasks, keys, jax.device_get(program(stacked, keys))


def _report_of(name: str) -> Report:
    family, lane = NAMES[name]
    return jax.tree.map(lambda leaf: leaf[lane], _lanes(family)[2])


class Start(NamedTuple):
    """What a task does first, with the keys that `_report` uses for it."""

    params: Any
    batch: Any
    loss: Any
    grads: Any
    metrics: Any


def _start(task: Task, key) -> Start:
    init_key, batch_key = jax.random.split(key)
    params = task.init(jax.random.split(init_key)[0])
    key = jax.random.split(batch_key, len(RATES))[0]
    batch = task.batch("train", key)
    loss, grads = jax.value_and_grad(task.loss)(params, batch, key)
    return Start(params, batch, loss, grads, task.metrics(params, batch, key))


@functools.cache
def _program_alone(structures) -> Any:
    del structures
    return jax.jit(
        lambda tasks, key: [_start(task, key) for task in tasks],
        compiler_options=FAST_TO_COMPILE,
    )


def _alone(names: tuple[str, ...], key) -> list[Start]:
    tasks = [tasksets.get(name) for name in names]
    program = _program_alone(tuple(structure(task) for task in tasks))
    return jax.device_get(program(tasks, key))


@functools.cache
def _plain_and_wrapped(name: str) -> list[Start]:
    family, lane = NAMES[name]
    return _alone((name, name + WRAPPED), _lanes(family)[1][lane])


@every_task
def test_loss_and_gradient_are_finite_float32_at_init(name):
    report = _report_of(name)
    assert report.losses.dtype == jnp.float32 and report.losses.ndim == 1
    start = jax.tree.map(lambda leaf: leaf[0], report.starts)
    assert jax.tree.structure(start) == jax.tree.structure(report.first_grads)
    _assert_finite_float32((start, report.first_grads))
    assert np.isfinite(report.losses[:EVALUATE]).all()
    assert report.grads_finite[:EVALUATE].all()
    assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(report.first_grads))


def _assert_finite_float32(tree):
    for leaf in jax.tree.leaves(tree):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()


@every_task
def test_a_name_gives_the_same_task_twice(name):
    _assert_same_task(tasksets.get(name), tasksets.get(name))


@every_task
def test_the_name_of_a_task_gives_it_back(name):
    task = tasksets.get(name)
    again = tasksets.get(task.name)
    assert again.name == task.name
    _assert_same_task(again, task)


def _assert_same_task(first: Task, second: Task):
    assert first.problem == second.problem
    assert hash(first.problem) == hash(second.problem)
    _assert_trees_equal(first.numbers, second.numbers)


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
    shapes = [
        jax.tree.flatten(jax.eval_shape(lambda task, s=s: task.batch(s, KEY), task))
        for s in SPLITS
    ]
    assert all(shape == shapes[0] for shape in shapes)


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


@every_task
def test_lanes_on_several_devices_equal_the_task_alone(name):
    report = _report_of(name)
    first = lambda tree: jax.tree.map(lambda leaf: leaf[0], tree)
    plain, _ = _plain_and_wrapped(name)
    lane = Start(
        params=first(report.starts),
        batch=first(report.batches),
        loss=report.losses[0],
        grads=report.first_grads,
        metrics=plain.metrics,
    )
    # To float32's accuracy: roundings depend on how a loss is fused.
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4),
        _relative(plain),
        _relative(lane),
    )


def _relative(tree):
    """Leaves over their largest magnitude, so that one tolerance serves all."""
    return jax.tree.map(lambda leaf: leaf / (1e-30 + np.max(np.abs(leaf))), tree)


@every_task
def test_metrics_are_finite_scalars(name):
    for metric in _plain_and_wrapped(name)[0].metrics.values():
        assert metric.shape == () and np.isfinite(metric)


@every_task
def test_scaled_weights_in_half_precision_change_little(name):
    plain, wrapped = _plain_and_wrapped(name)
    _assert_finite_float32((wrapped.params, wrapped.loss, wrapped.grads))
    # A bfloat16 has 8 bits.
    np.testing.assert_allclose(wrapped.loss, plain.loss, rtol=0.05)
    params, grads = _flat(plain.params), _flat(plain.grads)
    np.testing.assert_allclose(SCALE * _flat(wrapped.params), params, rtol=1e-6)
    error = _flat(wrapped.grads) / SCALE - grads
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(grads)


def _flat(tree):
    return np.float64(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)]))


@every_family
def test_training_lowers_the_loss_of_every_small_task(family):
    assert _has_learned(_lanes(family)[2].losses).all()


def _has_learned(losses):
    """Whether the mean over fresh batches is lower after training; NaN is not."""
    return losses[..., -EVALUATE:].mean(-1) < losses[..., :EVALUATE].mean(-1)


# Of the small variants of the first 20 seeds; all where a family is not named. Four
# steps of an optimizer with good defaults leave half of lopt_pes nothing to learn that
# is above its noise; the flows that do not learn are among `EXCLUDED`.
SHARE_THAT_LEARNS = {
    "lopt_pes": 0.5,
    "losg_tasks_family": 0.95,
    "mlp_vae_family": 0.95,
    "nvp_family": 0.85,
    "resnet": 0.95,
}


@pytest.mark.slow
@every_family
def test_training_lowers_the_loss_of_most_of_twenty_seeds(family):
    tasks = [tasksets.get(small_variants.small(family, seed)) for seed in range(20)]
    learned = []
    for group in group_by_structure(tasks):
        stacked = tasksets.stack(group)
        run = jax.vmap(_report, in_axes=(tasksets.lane_axes(stacked), 0))
        report = jax.jit(run)(stacked, jax.random.split(KEY, len(group)))
        losses = np.asarray(report.losses)
        learned += zip((t.name for t in group), _has_learned(losses), strict=True)
    have_not = [name for name, has in learned if not has]
    share = 1 - len(have_not) / len(tasks)
    assert share >= SHARE_THAT_LEARNS.get(family, 1.0), have_not


# Sampled scales that saturate every output, and gradients that are mostly zeroed.
STARTS_FLAT = {
    "losg_tasks_family/seed12": "gradients are zero with probability .98",
    "mlp_ae_family/seed13": "large weights saturate sigmoids",
    "mlp_ae_family/seed27": "large weights saturate sigmoids",
    "mlp_ae_family/seed33": "large weights saturate tanh",
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
@every_family
def test_a_task_as_sampled_keeps_the_contract(family, seed):
    root = f"{family}/seed{seed}"
    if root in EXCLUDED:
        pytest.skip(EXCLUDED[root])
    name = small_variants.bundled(family, seed)
    task = tasksets.get(name)
    assert tasksets.get(task.name).name == task.name
    _assert_same_task(task, tasksets.get(name))
    _assert_numbers(task)
    _assert_normalizes(task)
    _assert_splits_alike(task)
    (start,) = _alone((name,), KEY)
    assert jax.tree.structure(start.params) == jax.tree.structure(start.grads)
    assert start.loss.shape == ()
    _assert_finite_float32((start.params, start.loss, start.grads))
    if root not in STARTS_FLAT:
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(start.grads))
    _assert_trees_equal([start], _alone((name,), KEY))
    _program_alone.cache_clear()
    jax.clear_caches()  # few programs are used twice, and all would be kept


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


@every_task
def test_a_key_gives_one_batch_of_every_split_where_they_are_one(name):
    task = tasksets.get(name)
    of_each = lambda task: [task.batch(split, KEY) for split in SPLITS]
    batches = jax.jit(of_each, compiler_options=FAST_TO_COMPILE)(task)
    first, *others = ([np.asarray(x) for x in jax.tree.leaves(b)] for b in batches)
    same = [all(map(np.array_equal, first, other)) for other in others]
    assert same == [task.one_split] * 3


def test_a_task_got_inside_a_trace_is_made_of_arrays():
    @jax.jit
    def loss(key):
        task = tasksets.get("small_mlp/seed5@wine")
        kept.append(task)
        return _loss_at(task, key)

    kept: list[Task] = []
    data._load.cache_clear()
    loss(KEY)
    assert not any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(kept[0]))
    np.testing.assert_array_equal(loss(KEY), jax.jit(_loss_at)(kept[0], KEY))


def _loss_at(task, key):
    return task.loss(task.init(key), task.batch("train", key), key)


def _assert_trees_equal(first, second):
    jax.tree.map(np.testing.assert_array_equal, first, second)
