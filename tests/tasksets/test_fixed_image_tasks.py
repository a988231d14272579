"""TaskSet's fixed image classifiers: their names, layers and losses."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets.classification import sigmoid_mse
from tasksets.fixed import image_conv, mlp
from tasksets.normalization_layers import batch_norm, layer_norm
from tasksets.task import Task

KEY = jax.random.key(3)
CONFIGS = {**image_conv.FIXED.configs, **mlp.FIXED.configs}
NORMALS = ("normal", "largenormal", "smallnormal")


def build(name, **fields):
    """The task of a name, on digits unless `fields` say otherwise."""
    group = image_conv if name in image_conv.FIXED.configs else mlp
    config = dataclasses.replace(CONFIGS[name], **{"dataset": "digits", **fields})
    return Task(*group.build(config), name)


def cifar_conv(rest):
    return f"FixedImageConv_cifar10_{rest}"


def cifar_mlp(rest):
    return f"FixedMLP_cifar10_{rest}_relu_bs128"


def test_there_are_twenty_three_convolutional_and_thirteen_dense_tasks():
    names = list(image_conv.FIXED.configs)
    assert len([n for n in names if n.startswith("FixedImageConv_")]) == 22
    assert len([n for n in names if n.startswith("Mnist_Conv_")]) == 1
    assert len([n for n in mlp.FIXED.configs if n.startswith("FixedMLP_")]) == 13
    assert len(CONFIGS) == 36


@pytest.mark.parametrize("name", CONFIGS)
def test_a_name_says_data_set_widths_activation_and_batch_size(name):
    config = CONFIGS[name]
    words = name.lower().split("_")
    assert f"bs{config.batch_size}" == words[-1]
    spelled = config.dataset.replace("_", "")
    assert {spelled, spelled.removesuffix("32x32")} & set(words)
    channels = getattr(config, "channels", ())
    for widths in (channels, config.hidden):
        if widths:
            spelled = "x".join(map(str, widths))
            assert {spelled, f"fc{spelled}"} & set(words)
    if "relu" in words or "tanh" in words:
        assert config.activation in words
    held_out = {"coil100_32x32": 800, "colorectal_histology_32x32": 700}
    assert config.num_per_valid == held_out.get(config.dataset, 3000)
    norm = getattr(config, "batch_norm", False)
    norm = norm or getattr(config, "between", "") == "batch_norm"
    assert norm == bool({"bn", "batchnorm"} & set(words))
    assert config.num_train is None and config.augmentation is None


@pytest.mark.parametrize("name", CONFIGS)
def test_every_task_can_be_traced_on_digits(name):
    task = build(name)
    params = jax.eval_shape(task.init, KEY)
    batch = jax.eval_shape(lambda key: task.batch("train", key), KEY)
    loss, gradient = jax.eval_shape(jax.value_and_grad(task.loss), params, batch, KEY)
    assert loss.shape == () and loss.dtype == jnp.float32
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)


def test_the_first_convolution_has_stride_two_and_the_others_one():
    task = build(cifar_conv("batchnorm_32x32x32x64x64_bs128"))
    convs = task.problem.network.convs
    assert convs.strides == (2, 1, 1, 1, 1) and set(convs.padding) == {"SAME"}
    assert convs.output_shape((32, 32, 3)) == (16, 16, 64)


@pytest.mark.parametrize(
    ("rest", "head", "kernel_std"),
    [
        ("32x64x64_bs128", "mean", 0.88 / np.sqrt(9 * 32)),
        ("32x64x128_he_bs64", "max", np.sqrt(2 / (9 * 32))),
        ("32x64x128_normal_bs64", "mean", 0.02),
        ("32x64x128_largenormal_bs64", "mean", 0.2),
        ("32x64x128_smallnormal_bs64", "mean", 0.002),
        ("32x64x128_flatten_FC64x32_tanh_he_bs8", "flatten", np.sqrt(2 / (9 * 32))),
        (
            "32x64x128_flatten_FC64x32_tanh_variance_scaling_bs64",
            "flatten",
            np.sqrt(2 / (9 * 32)),
        ),
    ],
)
def test_weights_start_from_the_law_that_the_name_says(rest, head, kernel_std):
    name = cifar_conv(rest)
    assert CONFIGS[name].head == head
    params = build(name).init(KEY)
    assert jnp.std(params["convs"]["layer_1"]["w"]) == pytest.approx(
        kernel_std, rel=0.03
    )
    if head == "flatten":
        w = params["dense"]["layer_0"]["w"]
        assert jnp.std(w) == pytest.approx(np.sqrt(2 / len(w)), rel=0.03)
    else:
        w = params["head"]["layer_0"]["w"]
        assert jnp.std(w) == pytest.approx(0.88 / np.sqrt(len(w)), rel=0.1)


def test_tasks_that_differ_in_numbers_only_stack():
    names = [cifar_conv(f"32x64x128_{law}_bs64") for law in ("he", *NORMALS)]
    assert tasksets.stack([build(name) for name in names]).num_lanes == 4
    names = [cifar_mlp(f"Dropout0{keep}_128x128") for keep in (2, 5, 8)]
    assert tasksets.stack([build(name) for name in names]).num_lanes == 3


def test_hidden_layers_need_a_flatten_head():
    with pytest.raises(ValueError, match="head=flatten, not after head=max"):
        build(cifar_conv("32x64x64_fc_64_bs128"), head="max")


def test_the_batch_norm_of_a_network_is_that_of_its_batch():
    task = build(cifar_conv("batchnorm_32x64x64_bs128"), channels=(4, 4))
    params, batch = task.init(KEY), task.batch("train", KEY)
    assert jax.tree.map(jnp.shape, params["convs"]["layer_1"]) == {
        "w": (3, 3, 4, 4),
        "b": (4,),
        "offset": (4,),
    }
    loss, gradient = jax.value_and_grad(task.loss)(params, batch, KEY)
    # eps breaks the invariance to the scale of a kernel a little
    doubled = jax.tree.map(lambda leaf: leaf, params)
    for layer in doubled["convs"].values():
        layer["w"] = 20 * layer["w"]
        layer["b"] = layer["b"] + 5
    np.testing.assert_allclose(task.loss(doubled, batch, KEY), loss, rtol=0.02)
    np.testing.assert_allclose(gradient["convs"]["layer_0"]["b"], 0, atol=1e-6)
    assert jnp.abs(gradient["convs"]["layer_0"]["offset"]).max() > 1e-4


def test_batch_norm_is_that_of_flax_without_a_scale():
    x = 3 * jax.random.normal(KEY, (6, 4, 5, 7)) + 2
    module = nn.BatchNorm(use_running_average=False, epsilon=1e-3, use_scale=False)
    offset = jnp.arange(7.0)
    stats = {"mean": jnp.zeros(7), "var": jnp.ones(7)}
    variables = {"params": {"bias": offset}, "batch_stats": stats}
    expected, _ = module.apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_allclose(batch_norm(x, offset), expected, atol=1e-4)


def test_layer_norm_is_that_of_flax():
    x = 3 * jax.random.normal(KEY, (6, 7)) + 2
    scale, offset = jnp.linspace(1, 2, 7), jnp.arange(7.0)
    variables = {"params": {"scale": scale, "bias": offset}}
    expected = nn.LayerNorm(epsilon=1e-5).apply(variables, x)
    np.testing.assert_allclose(layer_norm(x, scale, offset), expected, atol=1e-4)


def test_norms_survive_values_that_do_not_vary():
    x = jnp.full((4, 3), 1e4)
    for norm in (
        lambda x: batch_norm(x, jnp.zeros(3)),
        lambda x: layer_norm(x, jnp.ones(3), jnp.zeros(3)),
    ):
        np.testing.assert_array_equal(norm(x), 0)
        assert jnp.all(jnp.isfinite(jax.grad(lambda x, n=norm: n(x).sum())(x)))


@pytest.mark.parametrize("between", ["nothing", "layer_norm", "batch_norm"])
def test_the_norm_is_between_a_dense_layer_and_its_activation(between):
    name = cifar_mlp("LayerNorm_128x128x128")
    task = build(name, between=between, hidden=(6, 5), activation="tanh")
    params, batch = task.init(KEY), task.batch("train", KEY)
    x = batch.inputs.reshape(128, 64)
    for i in range(2):
        layer = params[f"layer_{i}"]
        x = x @ layer["w"] + layer["b"]
        axis = {"layer_norm": 1, "batch_norm": 0}.get(between)
        if axis is not None:
            eps = {"layer_norm": 1e-5, "batch_norm": 1e-3}[between]
            moments = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
            x = (x - moments[0]) / np.sqrt(moments[1] + eps)
        x = np.tanh(x)
    logits = x @ params["layer_2"]["w"] + params["layer_2"]["b"]
    network, numbers = task.problem.network, task.numbers.network
    found = network.apply(numbers, params, batch.inputs, KEY)
    np.testing.assert_allclose(found, logits, atol=1e-4)
    parts = {"nothing": 2, "batch_norm": 3, "layer_norm": 4}
    assert len(params["layer_0"]) == parts[between] and len(params["layer_2"]) == 2


@pytest.mark.parametrize("tenths", [2, 5, 8])
def test_the_number_after_dropout_is_the_probability_to_keep_a_unit(tenths):
    task = build(cifar_mlp(f"Dropout0{tenths}_128x128"))
    keep = task.numbers.network.keep_probability
    assert keep == np.float32(tenths / 10)
    dropped = mlp.dropout(jnp.ones((400, 250)), keep, KEY)
    assert set(np.unique(dropped)) == {0, np.float32(1 / keep)}
    # 100000 draws: five standard deviations are at most 0.008
    assert jnp.mean(dropped > 0) == pytest.approx(tenths / 10, abs=0.008)


def test_dropout_is_drawn_from_the_key_of_the_loss():
    task = build(cifar_mlp("Dropout05_128x128"))
    params, batch = task.init(KEY), task.batch("train", KEY)
    losses = [float(task.loss(params, batch, jax.random.key(i))) for i in (0, 0, 1)]
    assert losses[0] == losses[1] != losses[2]
    kept = build(cifar_mlp("Dropout05_128x128"), keep_probability=1.0)
    plain = build(cifar_mlp("ce_128x128x128"), hidden=(128, 128))
    expected = plain.loss(params, batch, KEY)
    np.testing.assert_allclose(kept.loss(params, batch, KEY), expected, rtol=1e-6)
    # units are dropped in both hidden layers, each by its own draws
    network, numbers = task.problem.network, task.numbers.network
    one_path = jax.tree.map(jnp.ones_like, params)
    logits = network.apply(numbers, one_path, jnp.ones((2000, 8, 8, 1)), KEY)
    assert len(np.unique(logits)) > 100
    mean = np.mean(logits) / (65 * 128 * 128 + 128 + 1)
    assert mean == pytest.approx(1, rel=0.02)


def test_mse_is_that_of_sigmoids_and_starts_at_a_quarter():
    logits = jnp.array([[0.0, np.log(3.0)], [-np.log(3.0), 0.0]])
    labels = jnp.array([1, 0])
    # sigmoids 1/2 3/4 | 1/4 1/2, labels 0 1 | 1 0
    expected = (1 / 4 + 1 / 16 + 9 / 16 + 1 / 4) / 4
    np.testing.assert_allclose(sigmoid_mse(logits, labels), expected, rtol=1e-6)
    task = build(cifar_mlp("mse_128x128x128"))
    assert task.numbers.initial_loss == 0.25 and task.numbers.best_loss == 0
    params, batch = task.init(KEY), task.batch("train", KEY)
    zero = jax.tree.map(jnp.zeros_like, params)
    assert task.normalize(task.loss(zero, batch, KEY)) == 1
    assert build(cifar_mlp("ce_128x128x128")).numbers.initial_loss == np.float32(
        np.log(10)
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"objective": "hinge"}, "unknown objective 'hinge'"),
        ({"between": "group_norm"}, "unknown layer 'group_norm'; nearest"),
        ({"keep_probability": 0.0}, r"in \(0, 1\], not 0.0"),
        ({"keep_probability": 0.5}, "needs between=dropout, not between=nothing"),
    ],
)
def test_unknown_choices_are_errors(fields, expected):
    with pytest.raises((ValueError, LookupError), match=expected):
        build(cifar_mlp("mse_128x128x128"), **fields)


LEARNING = {
    cifar_conv("batchnorm_32x64x64_bs128"): {"channels": (8, 16)},
    cifar_mlp("Dropout08_128x128"): {"hidden": (32,)},
    cifar_mlp("LayerNorm_128x128x128"): {"hidden": (32,)},
    cifar_mlp("BatchNorm_64x64x64x64x64"): {"hidden": (32,)},
    cifar_mlp("mse_128x128x128"): {"hidden": (32,)},
}


@pytest.mark.parametrize("name", LEARNING)
def test_gradient_descent_learns(name):
    task = build(name, batch_size=64, **LEARNING[name])

    def step(params, key):
        batch = task.batch("train", key)
        loss, gradient = jax.value_and_grad(task.loss)(params, batch, key)
        return jax.tree.map(lambda p, g: p - 0.3 * g, params, gradient), loss

    scan = jax.jit(lambda params, keys: jax.lax.scan(step, params, keys))
    _, losses = scan(task.init(KEY), jax.random.split(KEY, 200))
    assert losses[-20:].mean() < 0.6 * losses[0]
