"""mlp_mixer: what it mixes, and that it trains."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

import tasksets
from tasksets import Task
from tasksets.activations import activation_numbers
from tasksets.families import mlp_mixer
from tasksets.families.mlp_mixer import MixerLayer
from tasksets.variation import MAX_STEP_FLOPS, NUM_STRUCTURES

KEY = jax.random.key(0)
SMALL = {
    "dataset": "digits",
    "batch_size": 8,
    "num_train": None,
    "patch": 4,
    "layers": 1,
    "width": 6,
    "token_mlp_width": 5,
    "channel_mlp_width": 8,
}
RELU = activation_numbers("relu")


def _task(seed=3, **fields):
    config = dataclasses.replace(mlp_mixer.sample(seed), **{**SMALL, **fields})
    return Task(*mlp_mixer.build(config))


_init = jax.jit(Task.init)


@jax.jit
def _loss_and_grad(task, params, key):
    batch = task.batch("train", key)
    return jax.value_and_grad(task.loss)(params, batch, key)


def _layer(x):
    module = MixerLayer(token_mlp_width=5, channel_mlp_width=8)
    params = jax.jit(module.init)(KEY, x, RELU)["params"]
    return params, jax.jit(lambda p, x: module.apply({"params": p}, x, RELU))


def test_permuted_tokens_with_permuted_token_weights_give_permuted_tokens():
    x = jax.random.normal(KEY, (2, 4, 6))
    params, apply = _layer(x)
    order = jnp.array([2, 0, 3, 1])
    mlp = params["token_mlp"]
    permuted = {
        **params,
        "token_mlp": {
            "in": {**mlp["in"], "kernel": mlp["in"]["kernel"][order]},
            "out": {
                "kernel": mlp["out"]["kernel"][:, order],
                "bias": mlp["out"]["bias"][order],
            },
        },
    }
    expected = apply(params, x)[:, order]
    np.testing.assert_allclose(apply(permuted, x[:, order]), expected, atol=1e-5)
    assert np.max(np.abs(apply(params, x[:, order]) - expected)) > 1e-2


def test_a_layer_without_token_weights_treats_every_patch_alone():
    x = jax.random.normal(KEY, (2, 4, 6))
    params, apply = _layer(x)
    changed = x.at[:, 1].add(jax.random.normal(jax.random.key(1), (6,)))
    assert np.all(apply(params, x)[:, 0] != apply(params, changed)[:, 0])
    params["token_mlp"] = jax.tree.map(jnp.zeros_like, params["token_mlp"])
    first, second = apply(params, x), apply(params, changed)
    np.testing.assert_array_equal(first[:, [0, 2, 3]], second[:, [0, 2, 3]])
    assert np.max(np.abs(first[:, 1] - second[:, 1])) > 1e-2


def test_the_number_of_parameters_is_that_of_its_matrices():
    params = _init(_task(layers=2), KEY)
    tokens, width, pixels = 4, 6, 16
    layer = 2 * 2 * width + 2 * tokens * 5 + 5 + tokens + 2 * width * 8 + 8 + width
    expected = (pixels + 1) * width + 2 * layer + 2 * width + (width + 1) * 10
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == expected


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


def test_loss_and_gradient_are_finite_and_start_near_log_classes():
    run = jax.jit(lambda task: _loss_and_grad(task, _init(task, KEY), KEY))
    for seed in range(8):
        loss, grads = run(_task(seed))
        np.testing.assert_allclose(loss, np.log(10), atol=0.25)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_thirty_steps_of_adam_lower_the_loss():
    task = _task(reparam_scale=1.0, label_smoothing=0.0, batch_size=32)
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
    assert losses[-5:].mean() < losses[:5].mean() - 0.3


def test_sampled_structures_are_few_and_affordable():
    configs = [mlp_mixer.sample(seed) for seed in range(3 * NUM_STRUCTURES)]
    shapes = {(c.batch_size, c.width, c.layers, c.token_mlp_width) for c in configs}
    assert len(shapes) == NUM_STRUCTURES
    for config in configs[:NUM_STRUCTURES]:
        assert 0 < mlp_mixer.step_flops(dataclasses.asdict(config)) <= MAX_STEP_FLOPS
