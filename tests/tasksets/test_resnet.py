"""resnet: the 14-layer network of the paper, its norm, and its variants."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tasksets
from tasksets import Task
from tasksets.activations import activation_numbers
from tasksets.families import resnet
from tasksets.families.resnet import BatchNorm, BlockShape, Resnet, ResnetConfig
from tasksets.linen import LinenNetwork
from tasksets.variation import MAX_STEP_FLOPS, NUM_STRUCTURES, variation_numbers

KEY = jax.random.key(0)
SMALL = {
    "dataset": "digits",
    "batch_size": 16,
    "num_train": None,
    "stem_channels": 4,
    "stem_kernel": 3,
    "stem_stride": 1,
    "stem_pool": False,
    "blocks": (1,),
    "channels": (8,),
    "bottlenecks": (4,),
}


def _task(seed=3, **fields):
    config = dataclasses.replace(resnet.sample(seed), **{**SMALL, **fields})
    return Task(*resnet.build(config))


_init = jax.jit(Task.init)


@jax.jit
def _loss_and_grad(task, params, key):
    batch = task.batch("train", key)
    return jax.value_and_grad(task.loss)(params, batch, key)


def _default_network():
    config = ResnetConfig()
    module = Resnet(
        stem_channels=config.stem_channels,
        stem_kernel=config.stem_kernel,
        stem_stride=config.stem_stride,
        stem_pool=config.stem_pool,
        blocks=config.blocks,
        channels=config.channels,
        bottlenecks=config.bottlenecks,
        num_classes=10,
    )
    return LinenNetwork(module), variation_numbers(config)


def test_the_default_has_the_blocks_of_the_paper_and_fourteen_layers():
    config = ResnetConfig()
    shapes = resnet.block_shapes(config.blocks, config.channels, config.bottlenecks)
    assert shapes == [
        BlockShape(128, 32, 1),
        BlockShape(128, 32, 2),
        BlockShape(128, 64, 1),
        BlockShape(128, 64, 2),
    ]
    network, numbers = _default_network()
    init = lambda key: network.init(numbers, (32, 32, 3), 10, key)
    params = jax.eval_shape(init, KEY)
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(params)]
    kernels = [path for path in paths if path.endswith("['kernel']")]
    assert len([path for path in kernels if "shortcut" not in path]) == 14
    assert len(kernels) == 15  # only the first block changes the number of channels


def test_the_default_has_as_many_parameters_as_its_kernels_say():
    network, numbers = _default_network()
    init = lambda key: network.init(numbers, (32, 32, 3), 10, key)
    stem = 7 * 7 * 3 * 64
    first = 64 * 32 + 9 * 32 * 32 + 32 * 128 + 64 * 128
    second = 128 * 32 + 9 * 32 * 32 + 32 * 128
    third = 128 * 64 + 9 * 64 * 64 + 64 * 128  # and the fourth
    norms = 2 * (64 + 32 + 32) + 2 * (128 + 32 + 32) + 2 * 2 * (128 + 64 + 64) + 2 * 128
    expected = stem + first + second + 2 * third + norms + 128 * 10 + 10
    leaves = jax.tree.leaves(jax.eval_shape(init, KEY))
    assert sum(leaf.size for leaf in leaves) == expected == 160074


def test_batch_norm_gives_mean_zero_and_variance_one_over_the_batch():
    x = 3.0 + 2.0 * jax.random.normal(KEY, (8, 5, 5, 3))
    module = BatchNorm()
    variables = module.init(KEY, x)
    assert set(variables) == {"params"}  # no running statistics
    y = np.asarray(module.apply(variables, x))
    np.testing.assert_allclose(np.mean(y, (0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(np.var(y, (0, 1, 2)), 1, atol=1e-4)


def test_the_scale_of_a_kernel_before_a_norm_does_not_matter():
    task = _task()
    params, batch = _init(task, KEY), task.batch("train", KEY)
    loss = task.loss(params, batch, KEY)
    block = params["block_0"]
    scaled = {**block, "conv_0": {"kernel": 7 * block["conv_0"]["kernel"]}}
    same = task.loss({**params, "block_0": scaled}, batch, KEY)
    np.testing.assert_allclose(same, loss, rtol=1e-3)


def test_a_block_whose_last_kernel_is_zero_is_its_shortcut():
    module = resnet.Block(BlockShape(6, 3, 2))
    x, relu = jax.random.normal(KEY, (2, 5, 5, 6)), activation_numbers("relu")
    shapes = jax.eval_shape(module.init, KEY, x, relu)["params"]
    params = jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)
    params["conv_2"]["kernel"] = jnp.zeros((1, 1, 3, 6))
    y = module.apply({"params": params}, x, relu)
    np.testing.assert_array_equal(y, x[:, ::2, ::2])


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
    wider = {"stem_channels": 16, "channels": (32,), "bottlenecks": (16,)}
    task = _task(**wider, batch_size=64, reparam_scale=1.0, label_smoothing=0.0)
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


def test_sampled_structures_are_few_and_affordable_and_the_first_is_the_paper_s():
    configs = [resnet.sample(seed) for seed in range(3 * NUM_STRUCTURES)]
    shapes = {(c.batch_size, c.stem_channels, c.blocks, c.channels) for c in configs}
    assert len(shapes) == NUM_STRUCTURES
    numbers = resnet.image_numbers(np.random.RandomState(0))
    with_default_numbers = [
        dataclasses.replace(config, **numbers)
        for config in (configs[0], configs[NUM_STRUCTURES], ResnetConfig())
    ]
    assert len(set(with_default_numbers)) == 1
    for config in configs[1:NUM_STRUCTURES]:
        assert 0 < resnet.step_flops(dataclasses.asdict(config)) <= MAX_STEP_FLOPS


def test_groups_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="one entry for each group"):
        _task(blocks=(1, 2)).init(KEY)
