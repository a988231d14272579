"""Autoencoders: their losses in closed form, their decoders, their stacks."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets.families import mlp_ae
from tasksets.fixed import conv_ae
from tasksets.fixed import mlp_ae as fixed_mlp_ae
from tasksets.image_coders import ConvDecoder, ConvEncoder, conv_transpose
from tasksets.initializers import normal_initializer
from tasksets.names import UnknownNameError
from tasksets.reconstruction import LOSSES, OUTPUTS, REDUCTIONS
from tasksets.task import Task

KEY = jax.random.key(5)
SQUASH = {
    "linear": lambda x: x,
    "linear_center": lambda x: x,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
}
every_choice = pytest.mark.parametrize(
    ("output", "loss", "reduction"),
    [(o, n, r) for o in OUTPUTS for n in LOSSES for r in REDUCTIONS],
)


def _task(seed: int = 2, **fields: Any) -> Task:
    """A small task on the digits, with a config's other fields as sampled."""
    small = {"dataset": "digits", "batch_size": 6, "augmentation": None} | fields
    return Task(*mlp_ae.build(dataclasses.replace(mlp_ae.sample(seed), **small)))


@jax.jit
def _start(task: Task) -> Any:
    return task.init(KEY), task.batch("train", KEY)


@jax.jit
def _loss_and_grad(task: Task, params: Any, batch: Any) -> Any:
    return jax.value_and_grad(task.loss)(params, batch, KEY)


def _assert_finite(loss, grads):
    assert loss.shape == () and np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


@every_choice
def test_the_loss_is_that_of_the_formula(output, loss, reduction):
    task = _task(
        hidden=(5, 3),
        activation="relu",
        initializer="he_normal",
        initializer_scale=None,
        output=output,
        loss=loss,
        reduction=reduction,
    )
    params, batch = task.init(KEY), task.batch("train", KEY)
    x = np.asarray(batch.inputs, np.float64).reshape(6, 64)
    centred = output in ("tanh", "linear_center")
    assert x.min() == (-1 if centred else 0) and x.max() == 1
    h = x
    for i in range(3):
        h = np.maximum(h, 0) if i else h
        layer = params[f"layer_{i}"]
        h = h @ np.asarray(layer["w"], np.float64) + np.asarray(layer["b"])
    residual = SQUASH[output](h) - x
    errors = np.abs(residual) if loss == "l1" else residual**2
    expected = errors.mean() if reduction == "mean" else errors.sum() / 6
    found = task.loss(params, batch, KEY)
    assert found.shape == () and found.dtype == jnp.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@every_choice
def test_the_initial_loss_is_that_of_a_last_layer_of_zero(output, loss, reduction):
    task = _task(output=output, loss=loss, reduction=reduction, num_train=500)
    zeros = jax.tree.map(jnp.zeros_like, task.init(KEY))
    indices = jnp.arange(500)
    batch = task.take("train", (indices, KEY))
    np.testing.assert_allclose(
        task.loss(zeros, batch, KEY), task.numbers.initial_loss, rtol=1e-5
    )
    assert task.numbers.best_loss == 0


def test_a_perfect_reconstruction_has_no_loss():
    task = _task(
        hidden=(64,),
        activation="relu",
        output="linear",
        loss="l2",
        reduction="sum",
    )
    identity = {"w": jnp.eye(64), "b": jnp.zeros(64)}
    params = {"layer_0": identity, "layer_1": identity}  # pixels are not negative
    assert task.loss(params, task.batch("train", KEY), KEY) < 1e-10


def test_tasks_of_other_activation_initialiser_output_and_loss_stack():
    tasks = [
        _task(
            hidden=(7,),
            activation=activation,
            initializer=initializer,
            initializer_scale=0.5,
            output=output,
            loss=loss,
            reduction=reduction,
        )
        for activation, initializer, output, loss, reduction in (
            ("relu", "he_normal", "tanh", "l2", "mean"),
            ("cos", "random_uniform", "sigmoid", "l1", "sum"),
            ("tanh", "glorot_uniform", "linear", "l1", "mean"),
            ("swish", "variance_scaling", "linear_center", "l2", "sum"),
        )
    ]
    stacked = tasksets.stack(tasks)
    step = lambda task: _loss_and_grad(task, *_start(task))
    lanes = jax.jit(jax.vmap(step, in_axes=(tasksets.lane_axes(stacked),)))(stacked)
    for i, task in enumerate(tasks):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a, b[i], rtol=1e-4, atol=1e-5),
            step(task),
            lanes,
        )
    assert len(set(np.asarray(lanes[0]).tolist())) == 4


@pytest.mark.parametrize("field", ["output", "loss", "reduction"])
def test_an_unknown_choice_names_the_nearest(field):
    with pytest.raises(UnknownNameError, match=f"unknown {field} 'lineer'; nearest"):
        _task(2, **{field: "lineer"})


def test_a_table_is_refused_by_name():
    with pytest.raises(ValueError, match="needs images; 'wine' is a table"):
        _task(dataset="wine")


# Some start with every output saturated and no gradient: they are TaskSet's own.
@pytest.mark.parametrize("seed", range(30))
def test_every_seed_is_finite_even_at_the_greatest_depth_and_width(seed):
    task = _task(seed, hidden=(128,) * 6, batch_size=4, num_train=None)
    params, batch = _start(task)
    _assert_finite(*_loss_and_grad(task, params, batch))


@pytest.mark.parametrize("name", conv_ae.FIXED.configs)
def test_convolutional_autoencoders_give_an_output_for_every_pixel(name):
    config = conv_ae.FIXED.configs[name]
    dataset, shape, smallest = {
        "mnist": ("mnist", (28, 28, 1), 7),
        "cifar10": ("cifar10", (32, 32, 3), 8),
    }[config.dataset]
    assert config.dataset == dataset and config.num_per_valid == 3000
    assert name.endswith(f"_bs{config.batch_size}")
    encoder, decoder = ConvEncoder(config.encoder), ConvDecoder(shape, config.decoder)
    numbers = normal_initializer(1.0, per_fan_in=True)
    pixels = int(np.prod(shape))

    def outputs(images, groups):
        params = encoder.init(numbers, shape, config.latents, KEY)
        code = encoder.apply(numbers, params, images, KEY)
        assert code.shape == (2, config.latents)
        params = decoder.init(numbers, (config.latents,), groups * pixels, KEY)
        assert params["dense"]["w"].shape == (config.latents, smallest**2 * 32)
        return decoder.apply(numbers, params, code, KEY)

    images = jnp.zeros((2, *shape))
    for groups in (1, 2):
        found = jax.eval_shape(lambda x, g=groups: outputs(x, g), images)
        assert found.shape == (2, groups * pixels)


def test_outputs_are_in_the_order_of_the_pixels_and_groups_one_after_the_other():
    shape, kernel = (4, 4, 3), np.zeros((1, 1, 2, 6), np.float32)
    decoder = ConvDecoder(shape, (2,))
    numbers = normal_initializer(1.0, per_fan_in=True)
    params = decoder.init(numbers, (5,), 2 * 48, KEY)
    params["pixels"] = {"w": jnp.asarray(kernel), "b": jnp.arange(6.0)}
    outputs = decoder.apply(numbers, params, jnp.ones((1, 5)), KEY)
    groups = outputs.reshape(2, *shape)
    np.testing.assert_array_equal(groups[0], np.broadcast_to([0.0, 1, 2], shape))
    np.testing.assert_array_equal(groups[1], np.broadcast_to([3.0, 4, 5], shape))


def test_a_transposed_convolution_is_that_of_jax_and_the_adjoint_of_a_convolution():
    x_key, y_key, kernel_key = jax.random.split(KEY, 3)
    x = jax.random.normal(x_key, (2, 3, 5, 4))
    kernel = jax.random.normal(kernel_key, (3, 3, 4, 6))
    axes = ("NHWC", "HWIO", "NHWC")
    expected, expected_pullback = jax.vjp(
        lambda x, kernel: jax.lax.conv_transpose(
            x, kernel, (2, 2), "SAME", dimension_numbers=axes
        ),
        x,
        kernel,
    )
    found, pullback = jax.vjp(conv_transpose, x, kernel)
    assert found.shape == (2, 6, 10, 6)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    y = jax.random.normal(y_key, found.shape)
    for ours, theirs in zip(pullback(y), expected_pullback(y), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    adjoint = jax.lax.conv_general_dilated(
        y,
        jnp.flip(kernel, (0, 1)).swapaxes(2, 3),
        (2, 2),
        "SAME",
        dimension_numbers=axes,
    )
    np.testing.assert_allclose(jnp.sum(found * y), jnp.sum(x * adjoint), rtol=1e-4)


def test_an_encoder_is_convolutions_of_stride_two_with_relus_and_a_dense_layer():
    numbers = normal_initializer(1.0, per_fan_in=True)
    params = ConvEncoder((4, 6)).init(numbers, (8, 12, 3), 5, KEY)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # biases start at 0
    images = jax.random.normal(KEY, (2, 8, 12, 3))
    x = images
    for name in ("conv_0", "conv_1"):
        x = jax.lax.conv_general_dilated(
            x,
            params[name]["w"],
            (2, 2),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jnp.maximum(x + params[name]["b"], 0)
    expected = x.reshape(2, 2 * 3 * 6) @ params["dense"]["w"] + params["dense"]["b"]
    found = ConvEncoder((4, 6)).apply(numbers, params, images, KEY)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_images_whose_sides_do_not_halve_are_refused_by_shape():
    with pytest.raises(ValueError, match=r"multiples of 8, not .* \(28, 28, 1\)"):
        ConvDecoder((28, 28, 1), (8, 8, 8))


def test_a_step_down_the_gradient_of_a_convolutional_autoencoder_helps():
    config = conv_ae.FIXED.configs["FixedImageConvAE_mnist_32x32x32x32x32_bs128"]
    small = {"encoder": (4, 8), "decoder": (8, 4), "batch_size": 16}
    config = dataclasses.replace(config, dataset="digits", **small)
    task = Task(*conv_ae.build(config))
    params, batch = _start(task)
    before, grads = _loss_and_grad(task, params, batch)
    _assert_finite(before, grads)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))
    assert task.normalize(before) > 0.8
    square = sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(grads))
    rate = 0.1
    params = jax.tree.map(lambda p, g: p - rate * g, params, grads)
    after, _ = _loss_and_grad(task, params, batch)
    np.testing.assert_allclose(before - after, rate * square, rtol=0.3)


@pytest.mark.parametrize("name", fixed_mlp_ae.FIXED.configs)
def test_fixed_perceptrons_are_what_their_names_say(name):
    config = fixed_mlp_ae.FIXED.configs[name]
    _, dataset, widths, batch = name.split("_")
    assert config.dataset == dataset and f"bs{config.batch_size}" == batch
    assert "x".join(map(str, config.hidden)) == widths
    config = dataclasses.replace(config, dataset="digits", batch_size=4)
    task = Task(*fixed_mlp_ae.FIXED.build(config))
    # The default of TaskSet's layers: truncated at 2 / sqrt(fan_in).
    weight = np.asarray(_start(task)[0]["layer_0"]["w"])
    assert 1.9 < np.abs(weight).max() * 8 <= 2
    np.testing.assert_allclose(weight.std() * 8, 0.8796, rtol=0.05)
