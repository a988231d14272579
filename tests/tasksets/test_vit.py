"""vit: patches, attention and what the four varied families share."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tasksets
from tasksets import Task
from tasksets.attention import attend
from tasksets.families import vit
from tasksets.label_smoothing import smoothed_cross_entropy, smoothed_entropy
from tasksets.patches import num_patches, patches
from tasksets.variation import MAX_STEP_FLOPS, NUM_STRUCTURES

KEY = jax.random.key(0)
SMALL = {
    "dataset": "digits",
    "batch_size": 8,
    "num_train": None,
    "patch": 4,
    "layers": 1,
    "heads": 2,
    "head_width": 4,
    "mlp_width": 8,
}


def _task(seed=3, **fields):
    config = dataclasses.replace(vit.sample(seed), **{**SMALL, **fields})
    return Task(*vit.build(config))


_init = jax.jit(Task.init)


@jax.jit
def _loss_and_grad(task, params, key):
    batch = task.batch("train", key)
    return jax.value_and_grad(task.loss)(params, batch, key)


def test_patches_are_the_squares_of_an_image_in_reading_order():
    image = jnp.arange(4 * 6 * 2.0).reshape(1, 4, 6, 2)
    found = patches(image, 2)
    assert found.shape == (1, num_patches((4, 6, 2), 2), 8)
    for i, (row, column) in enumerate([(0, 0), (0, 2), (0, 4), (2, 0), (2, 2)]):
        square = image[0, row : row + 2, column : column + 2]
        np.testing.assert_array_equal(found[0, i], square.ravel())


def test_an_image_whose_sides_do_not_divide_gets_a_frame_of_zeros():
    found = patches(jnp.ones((1, 8, 8, 1)), 12)
    assert found.shape == (1, 1, 144) and found.sum() == 64
    assert found.reshape(12, 12)[2:10, 2:10].all()


def test_attention_is_the_mean_of_values_where_queries_are_zero():
    x = jax.random.normal(KEY, (2, 5, 18)).at[..., :6].set(0.0)
    everything = attend(x, 3, causal=False)
    expected = jnp.broadcast_to(x[..., 12:].mean(1, keepdims=True), everything.shape)
    np.testing.assert_allclose(everything, expected, atol=1e-6)
    before = jnp.cumsum(x[..., 12:], axis=1) / jnp.arange(1, 6)[:, None]
    np.testing.assert_allclose(attend(x, 3, causal=True), before, atol=1e-6)


def test_attention_heads_do_not_read_each_other():
    x = jax.random.normal(KEY, (1, 5, 24))
    # The second head reads entries 4-7 of queries, of keys and of values.
    other = x.at[..., [4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23]].add(1.0)
    a, b = attend(x, 2, causal=False), attend(other, 2, causal=False)
    np.testing.assert_array_equal(a[..., :4], b[..., :4])
    assert np.all(a[..., 4:] != b[..., 4:])


@jax.jit
def _logits(task, params, images):
    return task.problem.network.apply(task.numbers.network, params, images, KEY)


def test_without_positions_the_order_of_patches_does_not_matter():
    task = _task()
    params, images = _init(task, KEY), task.batch("train", KEY).inputs
    # Upper and lower half change places: whole patches, since the halves are patches.
    swapped = jnp.roll(images, 4, axis=1)
    first, second = (_logits(task, params, x) for x in (images, swapped))
    assert np.max(np.abs(first - second)) > 1e-4
    params["positions"]["embedding"] = jnp.zeros_like(params["positions"]["embedding"])
    first, second = (_logits(task, params, x) for x in (images, swapped))
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_label_smoothing_is_a_mixture_whose_minimum_is_the_entropy():
    logits = jax.random.normal(KEY, (6, 10))
    labels = jnp.arange(6)
    log_p = jax.nn.log_softmax(logits)
    plain = -log_p[jnp.arange(6), labels]
    mixed = smoothed_cross_entropy(logits, labels, jnp.float32(0.2))
    np.testing.assert_allclose(mixed, 0.8 * plain - 0.2 * log_p.mean(-1), rtol=1e-5)
    target = 0.8 * jax.nn.one_hot(labels, 10) + 0.02
    best = smoothed_cross_entropy(jnp.log(target), labels, jnp.float32(0.2))
    np.testing.assert_allclose(best, smoothed_entropy(0.2, 10), rtol=1e-5)
    assert smoothed_entropy(0.0, 10) == smoothed_entropy(5e-324, 10) == 0.0


def test_the_weights_have_the_laws_that_their_names_tell():
    fields = {"head_width": 32, "mlp_width": 300, "heads": 4, "init_scale": 2.0}
    params = _init(_task(**fields, reparam_scale=4.0), KEY)
    layer = params["transformer"]["layer_0"]
    close = lambda x, std: np.testing.assert_allclose(x.std(), std / 4, rtol=0.06)
    close(layer["mlp_in"]["kernel"], 2 / np.sqrt(128))
    close(layer["mlp_out"]["kernel"], 2 / np.sqrt(300))
    close(params["head"]["kernel"], 0.1 * 2 / np.sqrt(128))
    close(params["positions"]["embedding"], 2 / np.sqrt(128))
    np.testing.assert_array_equal(layer["mlp_norm"]["scale"], 1 / 4)
    assert not layer["mlp_in"]["bias"].any()
    a, b = layer["mlp_in"]["kernel"].ravel(), layer["mlp_out"]["kernel"].ravel()
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03


@pytest.mark.parametrize("scale", [0.03, 30.0])
def test_reparametrisation_leaves_the_loss_and_scales_the_gradient(scale):
    plain, scaled = _task(reparam_scale=1.0), _task(reparam_scale=scale)
    loss, grads = _loss_and_grad(plain, _init(plain, KEY), KEY)
    scaled_loss, scaled_grads = _loss_and_grad(scaled, _init(scaled, KEY), KEY)
    np.testing.assert_allclose(loss, scaled_loss, rtol=1e-5)
    g, scaled_g = grads["head"]["kernel"], scaled_grads["head"]["kernel"]
    np.testing.assert_allclose(scaled_g / scale, g, rtol=1e-2, atol=1e-5)


def test_stacked_tasks_with_other_numbers_equal_the_tasks_alone():
    tasks = [_task(seed) for seed in (3, 4, 5)]
    assert len({config.activation for config in map(vit.sample, (3, 4, 5))}) > 1
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


def test_a_thousand_seeds_have_few_structures_that_are_all_affordable():
    configs = [vit.sample(seed) for seed in range(200)]
    structure = lambda c: (c.dataset, c.batch_size, c.patch, c.layers, c.heads)
    assert len({structure(config) for config in configs}) == NUM_STRUCTURES
    assert structure(configs[7]) == structure(configs[7 + NUM_STRUCTURES])
    assert len({(c.init_scale, c.num_train) for c in configs}) == 200
    for config in configs[:NUM_STRUCTURES]:
        assert 0 < vit.step_flops(dataclasses.asdict(config)) <= MAX_STEP_FLOPS


def test_smoothing_that_leaves_no_label_is_refused():
    with pytest.raises(ValueError, match="label_smoothing"):
        _task(label_smoothing=1.0)
