"""Variational autoencoders: every term of the bound, and the bound itself."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets.data import Examples
from tasksets.families import mlp_vae
from tasksets.fixed import conv_vae
from tasksets.fixed import mlp_vae as fixed_mlp_vae
from tasksets.task import Task
from tasksets.variational import (
    BIN,
    CoderNumbers,
    Normal,
    Variational,
    VariationalNumbers,
    kl_from_standard_normal,
    likelihood,
    posterior,
    quantized_log_prob,
)

KEY = jax.random.key(8)


def _task(seed: int = 2, **fields: Any) -> Task:
    """A small task on the digits, with a config's other fields as sampled."""
    small = {"dataset": "digits", "batch_size": 6, "augmentation": None} | fields
    return Task(*mlp_vae.build(dataclasses.replace(mlp_vae.sample(seed), **small)))


@jax.jit
def _start(task: Task) -> Any:
    return task.init(KEY), task.batch("train", KEY)


@jax.jit
def _loss_and_grad(task: Task, params: Any, batch: Any) -> Any:
    return jax.value_and_grad(task.loss)(params, batch, KEY)


def _assert_finite(loss, grads):
    assert loss.shape == () and np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_the_divergence_is_the_mean_log_ratio_of_the_densities():
    mean, log_std = jnp.array([[0.3, -1.5, 0.0]]), jnp.array([[-1.0, 0.4, 0.0]])
    q = Normal(mean, log_std)
    eps = jax.random.normal(KEY, (200_000, 3))
    z = mean + jnp.exp(log_std) * eps
    log_ratio = -0.5 * eps**2 - log_std + 0.5 * z**2
    found = kl_from_standard_normal(q)
    np.testing.assert_allclose(found[0], log_ratio.mean(0), atol=0.01)
    assert found[0, 2] == 0 and (found[0, :2] > 0.3).all()


@pytest.mark.parametrize(("mean", "std"), [(0.4, 0.1), (0.52, 0.01), (0.1, 0.005)])
def test_the_chances_of_all_bins_sum_to_one(mean, std):
    grid = jnp.arange(-255, 511) / 255
    p = Normal(jnp.full((1, 1), mean), jnp.full((1, 1), np.log(std)))
    one = lambda x, key: quantized_log_prob(p, x[None, None], key)[0, 0]
    for key in jax.random.split(KEY, 5):  # one key is one place within every bin
        chances = jnp.exp(jax.vmap(one, in_axes=(0, None))(grid, key))
        np.testing.assert_allclose(chances.sum(), 1, rtol=1e-3)


def test_the_log_probability_is_the_normals_at_a_noisy_pixel_plus_log_bin():
    x = jnp.full((4000, 2), 0.3)
    p = Normal(jnp.full_like(x, 0.1), jnp.full_like(x, np.log(0.002)))
    log_probs = quantized_log_prob(p, x, KEY)
    constant = np.log(BIN) - np.log(0.002) - 0.5 * np.log(2 * np.pi)
    shift = 0.002 * np.sqrt(2 * (constant - np.asarray(log_probs, np.float64))) - 0.2
    # float32 keeps the shift to about 1e-7
    assert -BIN / 2 - 1e-6 < shift.min() < -0.49 * BIN
    assert BIN / 2 + 1e-6 > shift.max() > 0.49 * BIN
    np.testing.assert_allclose(shift.mean(), 0, atol=0.02 * BIN)
    np.testing.assert_allclose(shift.std(), BIN / np.sqrt(12), rtol=0.02)
    other = quantized_log_prob(p, x, jax.random.key(9))
    assert np.any(other != log_probs)


def test_what_the_coders_give_is_split_and_clipped():
    outputs = jnp.array([[1.0, -20.0, 3.0, 50.0]])
    q, p = posterior(outputs), likelihood(outputs)
    np.testing.assert_array_equal(q.mean, [[1, -20]])
    np.testing.assert_array_equal(q.log_std, [[3, 10]])
    np.testing.assert_array_equal(p.mean, [[1, -10]])
    np.testing.assert_array_equal(p.log_std, [[3, 10]])


@dataclass(frozen=True)
class _Affine:
    """A network x -> x W + b, so that everything is known exactly."""

    def init(self, numbers: Any, shape: Any, num_outputs: int, key: Any) -> Any:
        raise NotImplementedError

    def apply(self, numbers: Any, params: Any, inputs: Any, key: Any) -> Any:
        return inputs.reshape(len(inputs), -1) @ params["w"] + params["b"]


W, OFFSET, STD = np.array([0.6, -0.3, 0.2]), np.array([0.2, 0.5, 0.4]), 0.3
X = np.array([[0.7, 0.1, 0.5], [0.0, 0.6, 0.2]])


_images = mlp_vae.build(dataclasses.replace(mlp_vae.sample(0), dataset="digits"))[
    0
].images
_linear = Variational(_Affine(), _Affine(), latents=1, images=_images)


@jax.jit
def _losses(params: Any) -> Any:
    batch = Examples(jnp.asarray(X, jnp.float32), jnp.zeros(2, jnp.int32))
    numbers = VariationalNumbers(CoderNumbers((), ()), *[None] * 3)  # pyright: ignore
    loss = lambda key: _linear.loss(numbers, params, batch, key)
    return jax.vmap(loss)(jax.random.split(KEY, 40_000))


def _bound(weight: np.ndarray, bias: float, std: float) -> np.ndarray:
    """The losses of a linear decoder with q = N(x weight + bias, std^2), over keys."""
    encoder = np.stack([weight, np.zeros(3)], 1), [bias, np.log(std)]
    decoder = [[*W, 0, 0, 0]], [*OFFSET, *np.full(3, np.log(STD))]
    params = {
        name: {"w": jnp.asarray(w, jnp.float32), "b": jnp.asarray(b, jnp.float32)}
        for name, (w, b) in (("encoder", encoder), ("decoder", decoder))
    }
    return np.asarray(_losses(params), np.float64)


def _exact() -> float:
    """-mean log p(x), by quadrature over the latent; a bin is too small to matter."""
    z = np.linspace(-8, 8, 4001)
    prior = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    residual = (X[:, None] - OFFSET - z[:, None] * W) / STD
    log_density = -0.5 * residual**2 - np.log(STD) - 0.5 * np.log(2 * np.pi)
    joint = prior * np.exp((log_density + np.log(BIN)).sum(-1))
    return float(-np.log(np.trapezoid(joint, z, axis=1)).mean())


def test_the_loss_is_an_upper_bound_and_tight_for_the_exact_posterior():
    precision = 1 + W @ W / STD**2
    weight = W / STD**2 / precision
    bias, std = float(-weight @ OFFSET), float(precision**-0.5)
    exact = _exact()
    tight = _bound(weight, bias, std)
    error = tight.std() / np.sqrt(len(tight))
    assert error < 0.01
    assert abs(tight.mean() - exact) < 4 * error
    # KL(q | posterior) of a wrong mean, a wrong deviation, and q = N(0, 1)
    for q in ((weight, bias + 0.5, std), (weight, bias, 2.5 * std), (0 * W, 0.0, 1.0)):
        posterior_mean = X @ weight + bias
        shift = (X @ q[0] + q[1] - posterior_mean) / std
        ratio = q[2] / std
        gap = np.mean(0.5 * (ratio**2 + shift**2 - 1) - np.log(ratio))
        losses = _bound(*q)
        error = losses.std() / np.sqrt(len(losses))
        assert gap > 0.4
        assert abs(losses.mean() - exact - gap) < 4 * error


@pytest.mark.parametrize("center", [False, True])
def test_the_initial_loss_is_that_of_last_layers_of_zero(center):
    task = _task(encoder=(5, 3), decoder=(4,), center=center, num_train=500)
    zeros = jax.tree.map(jnp.zeros_like, task.init(KEY))
    batch = task.take("train", (jnp.arange(500), KEY))
    assert batch.inputs.min() == (-1 if center else 0)
    parts = task.metrics(zeros, batch, KEY)
    assert parts["kl"] == 0
    loss = task.loss(zeros, batch, KEY)
    np.testing.assert_allclose(loss, task.numbers.initial_loss, rtol=1e-4)
    np.testing.assert_allclose(loss, parts["kl"] - parts["log_likelihood"], rtol=1e-6)


def test_the_best_loss_is_that_of_pixels_known_up_to_their_noise():
    x = jnp.full((50_000, 1), 0.2)
    for factor, excess in ((1.0, 0.0), (1.3, 0.058), (0.8, 0.058)):
        std = factor * BIN / np.sqrt(12)
        # 1 / (2 f^2) + log f - 1 / 2 above the best
        above = 1 / (2 * factor**2) + np.log(factor) - 0.5
        assert abs(above - excess) < 0.001
        p = Normal(x, jnp.full_like(x, np.log(std)))
        per_pixel = -quantized_log_prob(p, x, KEY).mean()
        best = _task(encoder=(2,), decoder=(2,)).numbers.best_loss / 64
        np.testing.assert_allclose(per_pixel - best, above, atol=0.01)


def test_noise_and_latents_are_drawn_anew_for_every_key_and_example():
    task = _task(encoder=(5, 3), decoder=(4,), activation="tanh")
    params, batch = task.init(KEY), task.batch("train", KEY)
    first, again = (task.loss(params, batch, KEY) for _ in range(2))
    assert first == again
    assert task.loss(params, batch, jax.random.key(1)) != first
    x = jnp.full((6, 64), 0.5)
    log_probs = quantized_log_prob(Normal(x, jnp.full_like(x, np.log(BIN))), x, KEY)
    assert len(np.unique(log_probs)) > 300


def test_tasks_of_other_activation_and_initialiser_stack():
    tasks = [
        _task(
            encoder=(7, 3),
            decoder=(6,),
            activation=activation,
            initializer=initializer,
            initializer_scale=0.5,
            center=center,
        )
        for activation, initializer, center in (
            ("relu", "he_normal", False),
            ("cos", "random_uniform", True),
            ("tanh", "glorot_uniform", False),
        )
    ]
    stacked = tasksets.stack(tasks)
    step = lambda task: _loss_and_grad(task, *_start(task))
    lanes = jax.jit(jax.vmap(step, in_axes=(tasksets.lane_axes(stacked),)))(stacked)
    for i, task in enumerate(tasks):
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(
                a, b[i], rtol=1e-3, atol=1e-4 * np.abs(a).max()
            ),
            step(task),
            lanes,
        )
    assert len(set(np.asarray(lanes[0]).tolist())) == 3


DEEPEST = {"encoder": (128,) * 4, "decoder": (128,) * 3, "batch_size": 4}


@pytest.mark.parametrize("seed", range(30))
def test_every_seed_is_finite_even_at_the_greatest_depth_and_width(seed):
    task = _task(seed, num_train=None, **DEEPEST)
    params, batch = _start(task)
    _assert_finite(*_loss_and_grad(task, params, batch))


def test_the_largest_initialiser_overflows_nowhere():
    largest = {"initializer": "random_normal", "initializer_scale": 10.0}
    task = _task(activation="leaky_relu4", **largest, **DEEPEST)
    params, batch = _start(task)
    loss, grads = _loss_and_grad(task, params, batch)
    _assert_finite(loss, grads)
    assert task.normalize(loss) == 1


def test_an_encoder_without_latents_is_refused():
    with pytest.raises(ValueError, match="at least one width: the number of latents"):
        _task(encoder=())


@pytest.mark.parametrize("group", [fixed_mlp_vae.FIXED, conv_vae.FIXED])
def test_fixed_tasks_are_what_their_names_say(group):
    assert len(group.configs) == 7
    for name, config in group.configs.items():
        parts = name.removesuffix("_relu").split("_")
        widths = max(parts, key=lambda part: part.count("x") * part[0].isdigit())
        if isinstance(config, mlp_vae.MlpVaeConfig):
            assert config.center
            layers = (*config.encoder, *config.decoder)
        else:
            layers = (*config.encoder, config.latents, *config.decoder)
        assert "x".join(map(str, layers)) == widths
        assert name.endswith(f"_bs{config.batch_size}")
        assert config.num_per_valid == 3000


def test_the_data_are_those_of_the_published_curves_not_always_of_the_names():
    configs = {**fixed_mlp_vae.FIXED.configs, **conv_vae.FIXED.configs}
    odd = {
        name: config.dataset
        for name, config in configs.items()
        if f"_{config.dataset}_" not in name
    }
    assert odd == {
        "FixedMLPVAE_cifar101_128x32x128_bs128": "cifar10",
        "FixedMLPVAE_cifar101_128x128x32x128x128_bs128": "cifar10",
        "FixedMLPVAE_food10132x32_128x64x32x64x128_bs64": "food101_32x32",
        "Imagenet32x30_FC_VAE_128x64x32x64x128_relu_bs256": "food101_32x32",
        "FixedImageConvVAE_mnist_32x64x32x64x32_bs128": "cifar10",
    }


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("FixedImageConvVAE_mnist_32x32x32x32x32_bs128", {}),
        (
            "FixedImageConvVAE_cifar10_32x64x128x64x128x64x32_bs128",
            {"encoder": (8, 8, 8), "decoder": (8, 8, 8)},
        ),
    ],
)
def test_a_convolutional_vae_is_finite_and_near_its_initial_loss(name, fields):
    small = {"dataset": "digits", "batch_size": 8} | fields
    config = dataclasses.replace(conv_vae.FIXED.configs[name], **small)
    task = Task(*conv_vae.build(config))
    params, batch = _start(task)
    loss, grads = _loss_and_grad(task, params, batch)
    _assert_finite(loss, grads)
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(grads))
    np.testing.assert_allclose(loss, task.numbers.initial_loss, rtol=0.1)
