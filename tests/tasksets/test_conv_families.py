"""The convolutional families: their layers, networks, and what does not fit."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets.activations import ACTIVATIONS
from tasksets.classification import cross_entropy
from tasksets.convolution import ConvStack, apply_convs, convolve, init_convs
from tasksets.families import conv_fc, conv_pooling
from tasksets.families.conv_pooling import POOLS
from tasksets.initializers import initializer
from tasksets.names import UnknownNameError, override, parse
from tasksets.task import Task

KEY = jax.random.key(5)
FAMILIES = {"conv_pooling": conv_pooling, "conv_fc": conv_fc}
# Height and width of the images that the families sample; of all others it is 32.
SIZES = {"mnist": 28, "fashion_mnist": 28, "imagenet_resized/16x16": 16}
STRIDES = {
    "all_two": (2, 2, 2, 2, 2),
    "one_two": (1, 2, 1, 2, 1),
    "two_one": (2, 1, 2, 1, 2),
}


def digits(family, seed, **fields):
    """A small task of a family: two layers on digits unless `fields` say otherwise."""
    small = {"dataset": "digits", "channels": (4, 3), "strides": (2, 1)}
    config = dataclasses.replace(
        FAMILIES[family].sample(seed), **{**small, "padding": ("SAME",), **fields}
    )
    return Task(*FAMILIES[family].build(config), family)


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 0), (2, 3))])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("window", [(3, 3), (1, 1), (2, 7)])
def test_a_convolution_is_that_of_flax_and_so_are_its_gradients(
    window, stride, padding
):
    conv = nn.Conv(5, window, stride, padding, use_bias=False)
    x_key, w_key, y_key = jax.random.split(KEY, 3)
    x = jax.random.normal(x_key, (2, 7, 10, 3))
    w = jax.random.normal(w_key, (*window, 3, 5))
    expected, expected_pullback = jax.vjp(
        lambda x, w: conv.apply({"params": {"kernel": w}}, x), x, w
    )
    found, pullback = jax.vjp(lambda x, w: convolve(x, w, stride, padding), x, w)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)
    cotangent = jax.random.normal(y_key, found.shape)
    for ours, theirs in zip(
        pullback(cotangent), expected_pullback(cotangent), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_a_stack_is_a_chain_of_flax_convolutions_with_biases_and_activations():
    stack = ConvStack((4, 2, 3), (2, 1, 2), ("VALID", "SAME", "SAME"))
    layers = init_convs(stack, 3, *initializer("he_normal", None), KEY)
    layers = jax.tree.map(lambda leaf: leaf + 0.1, layers)  # biases start at 0
    images = jax.random.normal(KEY, (2, 11, 9, 3))
    x = images
    for i in range(3):
        conv = nn.Conv(stack.channels[i], (3, 3), stack.strides[i], stack.padding[i])
        layer = layers[f"layer_{i}"]
        x = conv.apply({"params": {"kernel": layer["w"], "bias": layer["b"]}}, x)
        x = jnp.tanh(x)
    found = apply_convs(stack, layers, images, jnp.tanh)
    np.testing.assert_allclose(found, x, atol=1e-5)
    assert found.shape[1:] == stack.output_shape((11, 9, 3))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("pattern", STRIDES)
@pytest.mark.parametrize("size", [32, 28])
def test_output_shape_is_the_shape_of_the_outputs(size, pattern, padding):
    for num_layers in range(1, 6):
        strides = STRIDES[pattern][:num_layers]
        stack = ConvStack((2,) * num_layers, strides, (padding,) * num_layers)
        try:
            expected = stack.output_shape((size, size, 1))
        except ValueError:
            assert padding == "VALID" and num_layers > 3
            continue
        found = jax.eval_shape(
            lambda x, stack=stack: apply_convs(
                stack,
                init_convs(stack, 1, *initializer("he_normal", None), KEY),
                x,
                abs,
            ),
            jnp.zeros((3, size, size, 1)),
        )
        assert found.shape == (3, *expected)
        if padding == "SAME":
            assert expected[0] == -(-size // np.prod(strides))


def test_strides_are_all_two_or_alternate_from_one_or_from_two():
    drawn = {conv_pooling.sample(seed).strides for seed in range(100)}
    assert drawn == {s[:n] for s in STRIDES.values() for n in range(1, 6)}


def test_a_stack_without_biases_has_only_kernels():
    stack = ConvStack((4,), (1,), ("SAME",), use_bias=False)
    layers = init_convs(stack, 1, *initializer("orthogonal", 2.0), KEY)
    assert jax.tree.map(jnp.shape, layers) == {"layer_0": {"w": (3, 3, 1, 4)}}
    matrix = layers["layer_0"]["w"].reshape(9, 4)
    np.testing.assert_allclose(matrix.T @ matrix, 4 * np.eye(4), atol=1e-5)


def test_batch_norm_is_between_the_bias_and_the_activation():
    stack = ConvStack((4,), (1,), ("SAME",), batch_norm=True)
    layers = init_convs(stack, 1, *initializer("he_normal", None), KEY)
    layers["layer_0"]["offset"] = jnp.arange(4.0)
    seen = []
    images = jax.random.normal(KEY, (16, 8, 8, 1)) + 3
    apply_convs(stack, layers, images, lambda x: seen.append(x) or x)
    np.testing.assert_allclose(seen[0].mean((0, 1, 2)), np.arange(4), atol=1e-4)
    np.testing.assert_allclose(seen[0].std((0, 1, 2)), 1, atol=1e-2)


def test_pools_are_the_mean_the_maximum_and_the_mean_of_squares():
    x = np.array([[[[1.0, -2.0], [3.0, -1.0]]]])
    pooled = {name: np.asarray(pool(x)[0]) for name, pool in POOLS.items()}
    np.testing.assert_array_equal(pooled["mean"], [2.0, -1.5])
    np.testing.assert_array_equal(pooled["max"], [3.0, -1.0])
    np.testing.assert_array_equal(pooled["squared_mean"], [5.0, 2.5])


@pytest.mark.parametrize("pool", POOLS)
def test_the_loss_of_conv_pooling_is_that_of_the_network_written_out(pool):
    task = digits("conv_pooling", 1, pool=pool, activation="elu", batch_size=16)
    params, batch = task.init(KEY), task.batch("train", KEY)
    assert jax.tree.map(jnp.shape, params["head"]["layer_0"]) == {
        "w": (3, 10),
        "b": (10,),
    }
    x = batch.inputs
    for i, stride in enumerate((2, 1)):
        layer = params["convs"][f"layer_{i}"]
        x = ACTIVATIONS["elu"](convolve(x, layer["w"], stride, "SAME") + layer["b"])
    head = params["head"]["layer_0"]
    expected = cross_entropy(POOLS[pool](x) @ head["w"] + head["b"], batch.labels)
    np.testing.assert_allclose(task.loss(params, batch, KEY), expected, rtol=1e-5)


def test_the_loss_of_conv_fc_is_that_of_the_network_written_out():
    task = digits("conv_fc", 1, hidden=(6,), activation="tanh", use_bias=False)
    params, batch = task.init(KEY), task.batch("train", KEY)
    x = batch.inputs
    for i, stride in enumerate((2, 1)):
        x = jnp.tanh(convolve(x, params["convs"][f"layer_{i}"]["w"], stride, "SAME"))
    x = x.reshape(len(x), 4 * 4 * 3)
    first, last = params["dense"]["layer_0"], params["dense"]["layer_1"]
    x = jnp.tanh(x @ first["w"] + first["b"]) @ last["w"] + last["b"]
    expected = cross_entropy(x, batch.labels)
    np.testing.assert_allclose(task.loss(params, batch, KEY), expected, rtol=1e-5)


def test_images_that_are_too_small_are_an_error_that_names_the_layer():
    config = dataclasses.replace(
        conv_pooling.sample(3), dataset="digits", strides=(2,), padding=("VALID",)
    )
    config = dataclasses.replace(config, channels=(4, 4, 4, 4))
    expected = r"8x8 are too small: layer 3 of 4 \(3x3, stride 2, VALID\) would get 1x1"
    with pytest.raises(ValueError, match=expected):
        conv_pooling.build(config)
    conv_pooling.build(dataclasses.replace(config, padding=("SAME",)))


@pytest.mark.parametrize("family", FAMILIES)
def test_tables_are_no_images(family):
    with pytest.raises(ValueError, match=r"need images .* shape \(13,\)"):
        digits(family, 1, dataset="wine", augmentation=None)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"channels": (4, 4, 4)}, "not 3, 2 and 3 entries"),
        ({"strides": (2, 0)}, "at least 1"),
        ({"padding": ("SAME", "FULL")}, "SAME or VALID, not SAME-FULL"),
    ],
)
def test_layers_that_make_no_sense_are_an_error(fields, expected):
    with pytest.raises(ValueError, match=expected):
        digits("conv_fc", 0, **fields)


def test_an_unknown_pool_is_an_error_with_the_pools_that_there_are():
    with pytest.raises(UnknownNameError, match="unknown pool 'min'; nearest: mean"):
        digits("conv_pooling", 0, pool="min")


@pytest.mark.parametrize("family", FAMILIES)
def test_few_seeds_have_more_layers_than_their_images_have_pixels_for(family):
    def fits(config):
        cropped = config.augmentation.crop_amount if config.augmentation else 0
        size = SIZES.get(config.dataset, 32) - cropped
        try:
            return min(config.convs().output_shape((size, size, 3))) > 0
        except ValueError:
            return False

    num_fitting = sum(fits(FAMILIES[family].sample(seed)) for seed in range(1000))
    assert 940 < num_fitting < 960


def test_fields_of_a_name_change_the_network():
    name = parse("conv_fc_family/seed106@digits?channels=4-4&strides=2&hidden=none")
    config, canonical = override(conv_fc.sample(106), name)
    assert (config.channels, config.strides, config.hidden) == ((4, 4), (2,), ())
    assert str(canonical) == str(name)


def test_lanes_of_different_numbers_are_the_tasks_alone():
    tasks = [
        digits("conv_pooling", 1, **fields, batch_size=16)
        for fields in (
            {"pool": "mean", "activation": "relu", "center": True},
            {"pool": "max", "activation": "cos", "center": False},
            {"pool": "squared_mean", "initializer": "glorot_uniform", "num_train": 9},
        )
    ]
    stacked = tasksets.stack(tasks)
    axes = tasksets.lane_axes(stacked)

    def loss_and_gradient(task):
        params, batch = task.init(KEY), task.batch("train", KEY)
        return jax.value_and_grad(task.loss)(params, batch, KEY)

    together = jax.jit(jax.vmap(loss_and_gradient, in_axes=(axes,)))(stacked)
    alone_of = jax.jit(loss_and_gradient)
    losses = set()
    for i, task in enumerate(tasks):
        alone = alone_of(task)
        losses.add(float(alone[0]))
        jax.tree.map(
            lambda lanes, leaf, i=i: np.testing.assert_allclose(
                lanes[i], leaf, rtol=1e-4, atol=1e-6
            ),
            together,
            alone,
        )
    assert len(losses) == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_gradient_descent_in_a_scan_learns(family):
    task = digits(
        family, 1, channels=(8, 16), strides=(2, 2), activation="relu", batch_size=64
    )

    def step(params, key):
        batch = task.batch("train", key)
        loss, gradient = jax.value_and_grad(task.loss)(params, batch, key)
        return jax.tree.map(lambda p, g: p - 0.2 * g, params, gradient), loss

    scan = jax.jit(lambda params, keys: jax.lax.scan(step, params, keys))
    _, losses = scan(task.init(KEY), jax.random.split(KEY, 300))
    assert task.numbers.initial_loss == np.float32(np.log(10))
    assert losses[-20:].mean() < 0.6 * losses[0]


def finite_start(task):
    @jax.jit
    def start(task):
        params, batch = task.init(KEY), task.batch("train", KEY)
        loss_and_gradient = jax.value_and_grad(task.loss)(params, batch, KEY)
        return *loss_and_gradient, task.metrics(params, batch, KEY)

    loss, gradient, metrics = start(task)
    assert loss.shape == () and loss.dtype == jnp.float32 and jnp.isfinite(loss)
    for leaf in jax.tree.leaves(gradient):
        assert jnp.all(jnp.isfinite(leaf))
    assert 0 <= metrics["accuracy"] <= 1


@pytest.mark.parametrize(("family", "seed"), [("conv_pooling", 10), ("conv_fc", 7)])
def test_loss_and_gradient_are_finite_at_the_start(family, seed):
    finite_start(digits(family, seed, channels=(4,), strides=(2,)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("family", FAMILIES)
def test_the_sampled_layers_have_finite_gradients_on_digits(family, seed):
    config = FAMILIES[family].sample(seed)
    finite_start(digits(family, seed, channels=config.channels, strides=config.strides))
