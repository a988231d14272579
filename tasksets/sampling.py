"""The samplers that TaskSet's families share, over a numpy `RandomState`.

The order of the draws is part of the specification (Metz et al. 2020, TaskSet, arXiv
2002.11887): a config is what the same seed gives there. Weighted choices are made
over sorted names.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import RandomState

from tasksets.names import NOT_APPLIED

# Chances in proportion; everything not named has weight 1.
_ACTIVATIONS = {
    **dict.fromkeys(("cos", "elu", "leaky_relu1", "leaky_relu2", "leaky_relu4"), 1),
    **{"relu": 6, "sigmoid": 1, "swish": 1, "tanh": 3},
}
_UNSCALED_INITIALIZERS = ("he_normal", "he_uniform", "glorot_normal", "glorot_uniform")
_SCALED_INITIALIZERS = (
    "orthogonal",
    "random_normal",
    "random_uniform",
    "truncated_normal",
    "variance_scaling",
)
_INITIALIZERS = {
    **dict.fromkeys(_UNSCALED_INITIALIZERS, 2),
    **dict.fromkeys(_SCALED_INITIALIZERS, 1),
}
_MNIST_LIKE = ("mnist", "fashion_mnist")
_CIFAR_LIKE = ("cifar10", "cifar100")
_WHOLE_SETS = (
    "food101_32x32",
    "coil100_32x32",
    "deep_weeds_32x32",
    "sun397_32x32",
    "imagenet_resized/32x32",
    "imagenet_resized/16x16",
)


def log_int(rng: RandomState, low: float, high: float) -> int:
    """round(exp(U(ln low, ln high)))."""
    return int(np.round(np.exp(rng.uniform(np.log(low), np.log(high)))))


def linear_int(rng: RandomState, low: float, high: float) -> int:
    """round(U(low, high))."""
    return int(np.round(rng.uniform(low, high)))


def log_float(rng: RandomState, low: float, high: float) -> float:
    """exp(U(ln low, ln high))."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def with_probability(rng: RandomState, probability: float) -> bool:
    """True with this probability."""
    return bool(rng.uniform(0.0, 1.0) < probability)


def weighted_choice(rng: RandomState, weights: dict[str, int]) -> str:
    """One of the sorted names, with chances in proportion to the weights."""
    names = sorted(weights)
    chances = np.array([weights[name] for name in names])
    return str(rng.choice(names, p=chances / chances.sum()))


def activation_name(rng: RandomState) -> str:
    """relu 6, tanh 3, and 1 each of seven others."""
    return weighted_choice(rng, _ACTIVATIONS)


def initializer_name(rng: RandomState) -> tuple[str, float | None]:
    """(name, scale): scale is logU(.1, 10) for the initialisers that take one."""
    name = weighted_choice(rng, _INITIALIZERS)
    scaled = name in _SCALED_INITIALIZERS
    return name, log_float(rng, 0.1, 10) if scaled else None


@dataclass(frozen=True)
class AugmentationConfig:
    """Random changes of an image, drawn anew for every example of every batch."""

    crop_amount: int  # pixels lost in height and width; from {0, 0, 0, 1, 2}
    flip_left_right: bool  # half of the images; chosen 50/50
    flip_up_down: bool  # half of the images; chosen 50/50
    do_color_aug: bool  # the four below, on RGB images only; chosen 50/50
    brightness: float  # added +-U(0, this) to [0, 1] images; logU(.001, 64/255)
    saturation: float  # factor 1 +- U(0, this); logU(.01, 1)
    hue: float  # turn of the colour circle +-U(0, this); logU(.01, .5)
    contrast: float  # factor 1 +- U(0, this); logU(.01, 1)


def augmentation(rng: RandomState) -> AugmentationConfig:
    """One augmentation."""
    return AugmentationConfig(
        crop_amount=int(rng.choice([0, 0, 0, 1, 2])),
        flip_left_right=bool(rng.choice([False, True])),
        flip_up_down=bool(rng.choice([False, True])),
        do_color_aug=bool(rng.choice([False, True])),
        brightness=log_float(rng, 0.001, 64 / 255),
        saturation=log_float(rng, 0.01, 1.0),
        hue=log_float(rng, 0.01, 0.5),
        contrast=log_float(rng, 0.01, 1.0),
    )


@dataclass(frozen=True, kw_only=True)
class ImageConfig:
    """An image data set and how it is served: the fields of every image family."""

    dataset: str  # uniform over ten sets
    batch_size: int  # logint 8-512 for the mnists, 8-256 for the others
    num_train: int | None  # examples; U(1000, 55000 or 50000); None: all there are
    augmentation: AugmentationConfig | None  # with p .3; serves all four splits
    num_per_valid: int | None = None  # examples; None: what sampled families hold out


@dataclass(frozen=True, kw_only=True)
class SampledImageConfig(ImageConfig):
    """What TaskSet samples."""

    # Sampled with p .1 or .2, and never applied by TaskSet's loader.
    just_train: bool = field(metadata=NOT_APPLIED)

    def dataset_as_taskset(self) -> list[Any]:
        """The data set in the form of TaskSet's JSON: [name, served, augmentation]."""
        served: dict[str, Any] = {
            "bs": self.batch_size,
            "num_train": self.num_train,
            "just_train": self.just_train,
        }
        if self.dataset in _MNIST_LIKE:
            served["num_classes"] = 10
        augmented = vars(self.augmentation).copy() if self.augmentation else None
        return [self.dataset, served, augmented]


def image_fields(rng: RandomState) -> dict[str, Any]:
    """The fields of a `SampledImageConfig`; augmentation is drawn before the batch size."""
    name = str(rng.choice(sorted(_MNIST_LIKE + _CIFAR_LIKE + _WHOLE_SETS)))
    augmented = augmentation(rng) if with_probability(rng, 0.3) else None
    mnist_like = name in _MNIST_LIKE
    batch_size = log_int(rng, 8, 512 if mnist_like else 256)
    num_train = None
    if name not in _WHOLE_SETS:
        num_train = linear_int(rng, 1000, 55000 if mnist_like else 50000)
    just_train = with_probability(rng, 0.1 if mnist_like else 0.2)
    return {
        "dataset": name,
        "batch_size": batch_size,
        "num_train": num_train,
        "just_train": just_train,
        "augmentation": augmented,
    }
