"""Training a learned optimizer as a task: its gradient is the meta-gradient."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tasksets
from meta_train.inner_training import InnerTraining
from meta_train.learned_optimizer_task import LoptPesConfig, build
from meta_train.system import begin
from tasksets import Task

CONFIG = LoptPesConfig(
    optimizer="momentum",
    task="small_mlp/seed3?hidden=none&reparam_scale=1",
    window=2,
    num_windows=3,
    num_pairs=4,
    sigma=0.01,
)


def _task(**changes) -> Task:
    return Task(*build(dataclasses.replace(CONFIG, **changes)))


def _episode_loss(task: Task, theta, key):
    """The mean outer loss of one unperturbed episode, differentiable all through."""
    problem = task.problem
    system = InnerTraining(task.batch("train", key), problem.optimizer)
    init_key, *keys = jax.random.split(key, 1 + problem.truncation.max_horizon)
    horizon = jnp.float32(problem.truncation.max_horizon)
    state = begin(system, theta, system.init(init_key), horizon)
    losses = []
    for step_key in keys:
        state, loss = system.step(theta, state, step_key)
        losses.append(loss)
    return jnp.mean(jnp.stack(losses))


def test_the_gradient_is_the_meta_gradient_through_all_windows():
    task = _task()
    theta = task.init(jax.random.key(0))
    batch = task.batch("train", jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 4000)
    pes = jax.jit(jax.vmap(jax.grad(task.loss), (None, None, 0)))(theta, batch, keys)
    exact = jax.jit(
        jax.vmap(jax.grad(lambda t, k: _episode_loss(task, t, k)), (None, 0))
    )(theta, jax.random.split(jax.random.key(2), 4000))
    for found, wanted in zip(jax.tree.leaves(pes), jax.tree.leaves(exact), strict=True):
        error = np.sqrt(found.var(0) / len(found) + wanted.var(0) / len(wanted))
        assert np.all(np.abs(found.mean(0) - wanted.mean(0)) < 4 * error)
        # The test has power: a gradient of one window in three would be refused.
        assert np.all(np.abs(wanted.mean(0)) > 8 * error)


def test_the_loss_is_that_of_episodes_in_units_of_the_inner_initial_loss():
    task = _task(num_pairs=8, sigma=1e-4)
    theta = task.init(jax.random.key(0))
    batch = task.batch("train", jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 64)
    found = jax.jit(jax.vmap(task.loss, (None, None, 0)))(theta, batch, keys)
    wanted = jax.vmap(lambda k: _episode_loss(task, theta, k))(
        jax.random.split(jax.random.key(2), 512)
    )
    error = np.sqrt(found.var() / 64 + wanted.var() / 512)
    assert abs(found.mean() - wanted.mean()) < 4 * error


def test_a_theta_that_lets_training_diverge_has_no_loss():
    task = _task(num_pairs=4, sigma=1e-4)
    theta = task.init(jax.random.key(0))
    batch = task.batch("train", jax.random.key(0))
    loss = jax.jit(task.loss)
    assert np.isfinite(loss(theta, batch, jax.random.key(1)))
    wild = jax.tree.map(lambda x: jnp.full_like(x, 1e30), theta)
    assert np.isnan(loss(wild, batch, jax.random.key(1)))


def test_no_task_for_training_trains_on_a_task_for_testing():
    inner = {"train": set(), "test": set()}
    for seed in range(200):
        name = f"lopt_pes/seed{seed}"
        task = tasksets.config(name).task
        inner[tasksets.split_of(name)].add(tasksets.split_of(task))
    assert inner["train"] == {"train"}


def test_the_inner_task_alone_is_drawn_again_where_it_must_be():
    drawn = {seed: tasksets.config(f"lopt_pes/seed{seed}") for seed in (1, 2, 3)}
    assert {seed: config.task for seed, config in drawn.items()} == {
        1: "small_mlp/seed5192@digits",  # as first drawn
        2: "small_mlp/seed6751@digits",  # not seed2575, which is for testing
        3: "small_mlp/seed1688@digits",  # a task for testing may train on any
    }
    assert drawn[2].window == 5 and drawn[2].num_windows == drawn[2].num_pairs == 4


@pytest.mark.parametrize("optimizer", ["adam", "scale_free"])
def test_a_task_of_the_family_trains_with_an_optax_optimizer(optimizer):
    name = f"lopt_pes/seed0?optimizer={optimizer}&window=5&num_windows=2&num_pairs=2"
    task = tasksets.get(name)
    tx = optax.adam(1e-3)
    theta = task.init(jax.random.key(0))

    @jax.jit
    def step(theta, state, key):
        batch = task.batch("train", key)
        loss, grads = jax.value_and_grad(task.loss)(theta, batch, key)
        updates, state = tx.update(grads, state, theta)
        return optax.apply_updates(theta, updates), state, loss

    new, _, loss = step(theta, tx.init(theta), jax.random.key(1))
    assert np.isfinite(loss)
    assert any(
        np.any(a != b)
        for a, b in zip(jax.tree.leaves(theta), jax.tree.leaves(new), strict=True)
    )


def test_tasks_whose_inner_tasks_stack_stack():
    inner = [tasksets.config(f"small_mlp/seed{i}") for i in range(20)]
    alike = [
        i
        for i, c in enumerate(inner)
        if (c.hidden, c.activation) == (inner[0].hidden, inner[0].activation)
    ]
    fields = "optimizer=adam&window=5&num_windows=1&num_pairs=1&sigma=0.01"
    tasks = [
        tasksets.get(f"lopt_pes/seed0?{fields}&task=small_mlp/seed{i}")
        for i in alike[:2]
    ]
    assert tasksets.stack(tasks).num_lanes == 2
