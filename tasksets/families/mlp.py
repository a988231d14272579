"""mlp_family: multi-layer perceptrons that classify images.

    loss = mean_b CE(W_n act(... act(W_0 x_b + b_0) ...) + b_n, label_b)

One of the twelve families of TaskSet (Metz et al. 2020, "Using a thousand optimization
tasks to learn hyperparameter search strategies", arXiv 2002.11887). A seed gives the
config that it gives there. Normalisation: initial loss log(classes), best loss 0.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets import sampling
from tasksets.activations import ActivationNumbers, activate, activation_numbers
from tasksets.classification import (
    Classification,
    ClassificationNumbers,
    build_classification,
)
from tasksets.data import Dataset
from tasksets.dense import Layers, apply_mlp, init_mlp
from tasksets.family import Family
from tasksets.initializers import InitializerNumbers, Kind, initializer
from tasksets.sampling import SampledImageConfig


@dataclass(frozen=True, kw_only=True)
class MlpConfig(SampledImageConfig):
    """Every field of the family, with how it is sampled."""

    hidden: tuple[int, ...]  # U{1..6} layers, the width of each logint 16-128
    activation: str  # relu 6, tanh 3, and 1 each of seven others
    initializer: str  # he and glorot 2 each, and 1 each of five with a scale
    initializer_scale: float | None  # logU(.1, 10); None where there is none
    center: bool  # images to [-1, 1] in place of [0, 1]; 50/50

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        return {
            "layer_sizes": list(self.hidden),
            "activation": self.activation,
            "w_init": [self.initializer, self.initializer_scale],
            "dataset": self.dataset_as_taskset(),
            "center_data": self.center,
        }


def sample(seed: int) -> MlpConfig:
    """The config that TaskSet samples from `seed`."""
    rng = np.random.RandomState(seed + 99123491)
    num_layers = rng.choice([1, 2, 3, 4, 5, 6])
    hidden = tuple(sampling.log_int(rng, 16, 128) for _ in range(num_layers))
    activation_name = sampling.activation_name(rng)
    initializer_name, initializer_scale = sampling.initializer_name(rng)
    return MlpConfig(
        hidden=hidden,
        activation=activation_name,
        initializer=initializer_name,
        initializer_scale=initializer_scale,
        **sampling.image_fields(rng),
        center=bool(rng.choice([True, False])),
    )


class MlpNumbers(NamedTuple):
    """What may differ between networks of equal structure."""

    initializer: InitializerNumbers
    activation: ActivationNumbers


@dataclass(frozen=True)
class Mlp:
    """A network of dense layers, each but the last followed by the activation."""

    hidden: tuple[int, ...]
    initializer: Kind

    def init(
        self,
        numbers: MlpNumbers,
        shape: tuple[int, ...],
        num_outputs: int,
        key: PRNGKeyArray,
    ) -> Layers:
        sizes = (math.prod(shape), *self.hidden, num_outputs)
        return init_mlp(sizes, self.initializer, numbers.initializer, key)

    def apply(
        self,
        numbers: MlpNumbers,
        params: Layers,
        inputs: Float[Array, "batch *shape"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch outputs"]:
        del key
        return apply_mlp(params, inputs, partial(activate, numbers.activation))


def build(config: MlpConfig) -> tuple[Classification, ClassificationNumbers, Dataset]:
    """The task of a config; augmentation needs images and is left out of tables."""
    kind, scale = initializer(config.initializer, config.initializer_scale)
    numbers = MlpNumbers(scale, activation_numbers(config.activation))
    network = Mlp(config.hidden, kind)
    return build_classification(network, numbers, config, center=config.center)


FAMILY = Family("mlp_family", sample, build)
