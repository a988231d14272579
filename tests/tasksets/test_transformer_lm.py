"""transformer_lm: it cannot see the future, skips padding, and learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tasksets
from tasksets import Task
from tasksets.families import transformer_lm
from tasksets.families.transformer_lm import sinusoids
from tasksets.variation import MAX_STEP_FLOPS, NUM_STRUCTURES

KEY = jax.random.key(0)
SMALL = {
    "dataset": "python_docs",
    "patch_length": 12,
    "batch_size": 4,
    "layers": 1,
    "heads": 2,
    "head_width": 4,
    "mlp_ratio": 1,
    "positions": "learned",
}


def _task(seed=3, **fields):
    config = dataclasses.replace(transformer_lm.sample(seed), **{**SMALL, **fields})
    return Task(*transformer_lm.build(config))


_init = jax.jit(Task.init)


@jax.jit
def _loss_and_grad(task, params, key):
    batch = task.batch("train", key)
    return jax.value_and_grad(task.loss)(params, batch, key)


@jax.jit
def _logits(task, params, tokens):
    return task.problem.logits(task.numbers, params, tokens)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_a_future_token_leaves_earlier_logits_and_changes_later_ones(positions):
    task = _task(positions=positions, layers=2)
    params, tokens = _init(task, KEY), task.batch("train", KEY).tokens[:, :-1]
    changed = tokens.at[:, 5].set((tokens[:, 5] + 1) % 257)
    first, second = _logits(task, params, tokens), _logits(task, params, changed)
    np.testing.assert_array_equal(first[:, :5], second[:, :5])
    assert np.all(np.max(np.abs(first - second)[:, 5:], axis=-1) > 0)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_the_order_of_earlier_tokens_matters(positions):
    task = _task(positions=positions, init_scale=2.0, patch_length=5)
    tokens = jnp.array([[3, 1, 2, 9]])
    params = _init(task, KEY)
    swapped = _logits(task, params, jnp.array([[1, 3, 2, 9]]))
    assert np.max(np.abs(_logits(task, params, tokens) - swapped)[:, -1]) > 1e-4


def test_the_loss_is_the_mean_over_next_tokens_that_are_text():
    task = _task(label_smoothing=0.0)
    params, batch = _init(task, KEY), task.batch("train", KEY)
    mask = jnp.ones((4, 12)).at[0, 7:].set(0.0).at[2, 1:].set(0.0)
    batch = batch._replace(mask=mask)
    log_p = jax.nn.log_softmax(_logits(task, params, batch.tokens[:, :-1]))
    kept = [
        -log_p[b, t, batch.tokens[b, t + 1]]
        for b in range(4)
        for t in range(11)
        if mask[b, t + 1]
    ]
    assert len(kept) == 11 + 6 + 0 + 11
    loss = task.loss(params, batch, KEY)
    np.testing.assert_allclose(loss, np.mean(kept), rtol=1e-5)


def test_sinusoids_are_sines_and_cosines_from_one_radian_to_ten_thousandth():
    table = sinusoids(5, 8)
    position = np.arange(5)
    np.testing.assert_allclose(table[:, 0], np.sin(position), atol=1e-6)
    np.testing.assert_allclose(table[:, 4], np.cos(position), atol=1e-6)
    np.testing.assert_allclose(table[:, 3], np.sin(position / 1e3), atol=1e-6)
    assert sinusoids(5, 7).shape == (5, 7)


def test_stacked_tasks_with_other_numbers_equal_the_tasks_alone():
    tasks = [_task(seed) for seed in (3, 4, 5)]
    stacked = tasksets.stack(tasks)
    run = lambda task, key: _loss_and_grad(task, task.init(key), key)
    over_lanes = jax.vmap(run, in_axes=(tasksets.lane_axes(stacked), None))
    losses, grads = jax.jit(over_lanes)(stacked, KEY)
    alone = jax.jit(run)
    for i, task in enumerate(tasks):
        loss, grad = alone(task, KEY)
        np.testing.assert_allclose(losses[i], loss, rtol=1e-4)
        largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grad))
        for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(grad), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-2, atol=1e-4 * largest)


def test_loss_and_gradient_are_finite_and_start_near_log_vocabulary():
    run = jax.jit(lambda task: _loss_and_grad(task, _init(task, KEY), KEY))
    for seed in range(8):
        loss, grads = run(_task(seed))
        np.testing.assert_allclose(loss, np.log(257), atol=0.25)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_thirty_steps_of_adam_lower_the_loss():
    task = _task(reparam_scale=1.0, label_smoothing=0.0, patch_length=32)
    optimizer = optax.adam(1e-2)

    def step(carry, key):
        params, state = carry
        loss, grads = _loss_and_grad(task, params, key)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), loss

    start = _init(task, KEY)
    keys = jax.random.split(KEY, 30)
    run = jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[1])
    losses = run((start, optimizer.init(start)))
    assert losses[-5:].mean() < losses[:5].mean() - 1.0


def test_sampled_structures_are_few_and_affordable():
    configs = [transformer_lm.sample(seed) for seed in range(3 * NUM_STRUCTURES)]
    shapes = {(c.batch_size, c.patch_length, c.layers, c.head_width) for c in configs}
    assert len(shapes) == NUM_STRUCTURES
    for config in configs[:NUM_STRUCTURES]:
        flops = transformer_lm.step_flops(dataclasses.asdict(config))
        assert 0 < flops <= MAX_STEP_FLOPS


def test_fields_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="learned or sinusoidal"):
        _task(positions="rotary")
    with pytest.raises(ValueError, match="patch_length"):
        _task(patch_length=1)
