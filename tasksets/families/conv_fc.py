"""conv_fc_family: images classified by convolutions followed by dense layers.

    loss = mean_b CE(mlp(flatten(convs(x_b))), label_b)

One of the twelve families of TaskSet (Metz et al. 2020, "Using a thousand optimization
tasks to learn hyperparameter search strategies", arXiv 2002.11887). A seed gives the
config that it gives there. Some seeds have more strided layers without padding than
their images have pixels for: they cannot be built, here or there, and say so.
Normalisation: initial loss log(classes), best loss 0.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets import sampling
from tasksets.activations import ActivationNumbers, activate, activation_numbers
from tasksets.classification import (
    Classification,
    ClassificationNumbers,
    build_classification,
)
from tasksets.convolution import ConvStack, apply_convs, init_convs
from tasksets.data import Dataset
from tasksets.dense import Layers, apply_mlp, init_mlp
from tasksets.families.conv_pooling import ConvConfig, conv_fields
from tasksets.family import Family
from tasksets.initializers import InitializerNumbers, Kind, initializer


@dataclass(frozen=True, kw_only=True)
class ConvFcConfig(ConvConfig):
    """Every field of the family, with how it is sampled."""

    hidden: tuple[int, ...]  # U{0..3} dense layers, the width of each logint 32-128

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        return {**super().as_taskset(), "fc_hidden_units": list(self.hidden)}


def sample(seed: int) -> ConvFcConfig:
    """The config that TaskSet samples from `seed`."""
    rng = np.random.RandomState(seed)
    convs = conv_fields(rng)
    num_hidden = rng.choice([0, 1, 2, 3])
    return ConvFcConfig(
        **convs,
        hidden=tuple(sampling.log_int(rng, 32, 128) for _ in range(num_hidden)),
        use_bias=bool(rng.choice([True, False])),
        **sampling.image_fields(rng),
        center=bool(rng.choice([True, False])),
    )


class ConvFcNumbers(NamedTuple):
    """What may differ between networks of equal structure."""

    initializer: InitializerNumbers
    activation: ActivationNumbers


@dataclass(frozen=True)
class ConvFc:
    """Convolutions, then dense layers, each but the last followed by the activation."""

    convs: ConvStack
    hidden: tuple[int, ...]
    initializer: Kind

    def init(
        self,
        numbers: ConvFcNumbers,
        shape: tuple[int, ...],
        num_outputs: int,
        key: PRNGKeyArray,
    ) -> dict[str, Layers]:
        conv_key, dense_key = jax.random.split(key)
        *_, num_inputs = shape
        num_features = math.prod(self.convs.output_shape(shape))
        sizes = (num_features, *self.hidden, num_outputs)
        kind, scale = self.initializer, numbers.initializer
        return {
            "convs": init_convs(self.convs, num_inputs, kind, scale, conv_key),
            "dense": init_mlp(sizes, kind, scale, dense_key),
        }

    def apply(
        self,
        numbers: ConvFcNumbers,
        params: dict[str, Layers],
        inputs: Float[Array, "batch height width inputs"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch outputs"]:
        del key
        activation = partial(activate, numbers.activation)
        x = apply_convs(self.convs, params["convs"], inputs, activation)
        return apply_mlp(params["dense"], x, activation)


def build(
    config: ConvFcConfig,
) -> tuple[Classification, ClassificationNumbers, Dataset]:
    """The task of a config; raises where its images are too small for its layers."""
    kind, scale = initializer(config.initializer, config.initializer_scale)
    numbers = ConvFcNumbers(scale, activation_numbers(config.activation))
    network = ConvFc(config.convs(), config.hidden, kind)
    task = build_classification(network, numbers, config, center=config.center)
    network.convs.output_shape(task[0].images.shape)
    return task


FAMILY = Family("conv_fc_family", sample, build)
