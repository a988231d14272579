"""The numbers in which networks of one architecture differ, and how they are sampled.

    loss = mean_b (1 - a) CE(f(x_b; s params), y_b) + a mean_c CE(f(x_b; s params), c)

A compiled program serves one structure, and the structures of our own large families
(`resnet`, `vit`, `mlp_mixer`, `transformer_lm`) are dear to compile. So a thousand
seeds of such a family have only `NUM_STRUCTURES` of them, sampled from the whole range,
and differ in numbers beyond that: the activation, the scale of the initialisation, a
reparametrisation by s, and label smoothing by a (Szegedy et al. 2016, arXiv
1512.00567). The reparametrisation changes nothing that a network computes, and
everything about which step sizes suit it (Moudgil et al. 2025, arXiv 2501.12670).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tasksets import sampling
from tasksets.activations import ActivationNumbers, activation_numbers
from tasksets.sampling import AugmentationConfig, ImageConfig

NUM_STRUCTURES = 32

# Floating-point operations of a training step: those of products of matrices, and a
# flat price for every entry of a forward pass that goes through a softmax, a norm or
# an activation, because networks of small width spend most of their time there. A step near
# the bound took 20 to 80 ms on one core that multiplies matrices at 60 GFLOP/s.
MAX_STEP_FLOPS = 3e9
ENTRY_FLOPS = 300

# The shapes of what image families sample: a cost is known before data are loaded.
IMAGE_SHAPES = {
    "cifar10": (32, 32, 3),
    "fashion_mnist": (28, 28, 1),
    "mnist": (28, 28, 1),
}

_ACTIVATIONS = {"elu": 1, "leaky_relu1": 1, "relu": 3, "swish": 3, "tanh": 1}

Structure = TypeVar("Structure")


@dataclass(frozen=True, kw_only=True)
class VariationConfig:
    """The fields that become numbers."""

    activation: str = "relu"  # relu 3, swish 3, and 1 each: elu, leaky_relu1, tanh
    init_scale: float = 1.0  # factor of every weight at the start; logU(.5, 2)
    reparam_scale: float = 1.0  # the s above; logU(.03, 30)
    label_smoothing: float = 0.0  # the a above; 0 or U(0, .2), 50/50


@dataclass(frozen=True, kw_only=True)
class VariedImageConfig(ImageConfig, VariationConfig):
    """Image data, and the fields that become numbers."""

    dataset: str = "cifar10"  # uniform over cifar10, fashion_mnist, mnist
    batch_size: int = 64  # logint 8-256
    num_train: int | None = None  # examples; logint 1000-50000; a number
    augmentation: AugmentationConfig | None = None  # not sampled
    center: bool = True  # images to [-1, 1] in place of [0, 1]; 50/50; a number


class VariationNumbers(NamedTuple):
    """What may differ between networks of equal structure."""

    activation: ActivationNumbers
    init_scale: Float[Array, "*lanes"]
    reparam_scale: Float[Array, "*lanes"]
    label_smoothing: Float[Array, "*lanes"]


def variation_fields(rng: np.random.RandomState) -> dict[str, Any]:
    """The fields of a `VariationConfig`."""
    return {
        "activation": sampling.weighted_choice(rng, _ACTIVATIONS),
        "init_scale": sampling.log_float(rng, 0.5, 2),
        "reparam_scale": sampling.log_float(rng, 0.03, 30),
        "label_smoothing": float(rng.choice([0, 1]) * rng.uniform(0, 0.2)),
    }


def image_structure(rng: np.random.RandomState) -> dict[str, Any]:
    """The fields of a `VariedImageConfig` that are structure."""
    dataset = str(rng.choice(sorted(IMAGE_SHAPES)))
    return {"dataset": dataset, "batch_size": sampling.log_int(rng, 8, 256)}


def image_numbers(rng: np.random.RandomState) -> dict[str, Any]:
    """The fields of a `VariedImageConfig` that become numbers."""
    return {
        **variation_fields(rng),
        "num_train": sampling.log_int(rng, 1000, 50000),
        "center": bool(rng.choice([True, False])),
    }


def variation_numbers(config: VariationConfig) -> VariationNumbers:
    """The numbers of a config."""
    if not 0 <= config.label_smoothing < 1:
        raise ValueError(
            f"label_smoothing is in [0, 1), not {config.label_smoothing}: at 1 every "
            "label is the same"
        )
    return VariationNumbers(
        activation=activation_numbers(config.activation),
        init_scale=jnp.float32(config.init_scale),
        reparam_scale=jnp.float32(config.reparam_scale),
        label_smoothing=jnp.float32(config.label_smoothing),
    )


def generators(
    family: str, seed: int
) -> tuple[np.random.RandomState, np.random.RandomState]:
    """(of the structure, of the numbers): the first depends on seed % NUM_STRUCTURES.

    The family's name counts in both, so that two families do not share their luck.
    """
    spelled = list(family.encode())
    of_structure = np.random.RandomState([*spelled, 0, seed % NUM_STRUCTURES])
    return of_structure, np.random.RandomState([*spelled, 1, seed])


def draw_affordable(
    draw: Callable[[np.random.RandomState], Structure],
    step_flops: Callable[[Structure], float],
    rng: np.random.RandomState,
) -> Structure:
    """Draws until a training step costs at most `MAX_STEP_FLOPS`."""
    structure = draw(rng)
    while step_flops(structure) > MAX_STEP_FLOPS:
        structure = draw(rng)
    return structure
