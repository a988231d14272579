"""conv_pooling_family: images classified by convolutions, a pool and a dense layer.

    loss = mean_b CE(W pool_ij(convs(x_b)[i, j]) + bias, label_b)

One of the twelve families of TaskSet (Metz et al. 2020, "Using a thousand optimization
tasks to learn hyperparameter search strategies", arXiv 2002.11887). A seed gives the
config that it gives there. Some seeds have more strided layers without padding than
their images have pixels for: they cannot be built, here or there, and say so.
Normalisation: initial loss log(classes), best loss 0.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

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
from tasksets.family import Family
from tasksets.initializers import InitializerNumbers, Kind, initializer
from tasksets.names import UnknownNameError
from tasksets.sampling import SampledImageConfig

_STRIDES = {"all_two": (2, 2), "one_two": (1, 2), "two_one": (2, 1)}  # repeated
POOLS = {
    "mean": lambda x: jnp.mean(x, axis=(1, 2)),
    "max": lambda x: jnp.max(x, axis=(1, 2)),
    "squared_mean": lambda x: jnp.mean(x**2, axis=(1, 2)),
}


@dataclass(frozen=True, kw_only=True)
class ConvConfig(SampledImageConfig):
    """Every field that the two convolutional families share, with how it is sampled."""

    channels: tuple[int, ...]  # U{1..5} layers, the channels of each logint 8-64
    strides: tuple[int, ...]  # 2 2 2.., 1 2 1.. or 2 1 2..; one may serve all layers
    padding: tuple[str, ...]  # of each layer SAME or VALID, 50/50; one may serve all
    use_bias: bool  # of the convolutions; 50/50
    activation: str  # relu 6, tanh 3, and 1 each of seven others
    initializer: str  # he and glorot 2 each, and 1 each of five with a scale
    initializer_scale: float | None  # logU(.1, 10); None where there is none
    center: bool  # images to [-1, 1] in place of [0, 1]; 50/50

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        return {
            "strides": [[stride, stride] for stride in self.strides],
            "hidden_units": list(self.channels),
            "activation": self.activation,
            "w_init": [self.initializer, self.initializer_scale],
            "padding": list(self.padding),
            "use_bias": self.use_bias,
            "dataset": self.dataset_as_taskset(),
            "center_data": self.center,
        }

    def convs(self) -> ConvStack:
        """The convolutions; raises where channels, strides and padding do not fit."""
        num_layers = len(self.channels)
        strides = self.strides * (num_layers if len(self.strides) == 1 else 1)
        padding = self.padding * (num_layers if len(self.padding) == 1 else 1)
        return ConvStack(self.channels, strides, padding, self.use_bias)


def conv_fields(rng: np.random.RandomState) -> dict[str, Any]:
    """The fields of a `ConvConfig` down to the padding, in TaskSet's order."""
    num_layers = int(rng.choice([1, 2, 3, 4, 5]))
    pattern = _STRIDES[str(rng.choice(["all_two", "one_two", "two_one"]))]
    channels = tuple(sampling.log_int(rng, 8, 64) for _ in range(num_layers))
    activation_name = sampling.activation_name(rng)
    initializer_name, initializer_scale = sampling.initializer_name(rng)
    padding = tuple(str(rng.choice(["SAME", "VALID"])) for _ in range(num_layers))
    return {
        "channels": channels,
        "strides": (pattern * num_layers)[:num_layers],
        "activation": activation_name,
        "initializer": initializer_name,
        "initializer_scale": initializer_scale,
        "padding": padding,
    }


@dataclass(frozen=True, kw_only=True)
class ConvPoolingConfig(ConvConfig):
    """Every field of the family, with how it is sampled."""

    pool: str  # mean, max or squared_mean over the pixels; 1/3 each

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        return {**super().as_taskset(), "pool_type": self.pool}


def sample(seed: int) -> ConvPoolingConfig:
    """The config that TaskSet samples from `seed`."""
    rng = np.random.RandomState(seed)
    return ConvPoolingConfig(
        **conv_fields(rng),
        pool=str(rng.choice(list(POOLS))),
        use_bias=bool(rng.choice([True, False])),
        **sampling.image_fields(rng),
        center=bool(rng.choice([True, False])),
    )


class ConvPoolingNumbers(NamedTuple):
    """What may differ between networks of equal structure."""

    initializer: InitializerNumbers
    head_initializer: InitializerNumbers
    activation: ActivationNumbers
    pool: Int[Array, "*lanes"]  # its place in `POOLS`


@dataclass(frozen=True)
class ConvPooling:
    """Convolutions, a pool over all pixels, and a dense layer: the head."""

    convs: ConvStack
    initializer: Kind

    def init(
        self,
        numbers: ConvPoolingNumbers,
        shape: tuple[int, ...],
        num_outputs: int,
        key: PRNGKeyArray,
    ) -> dict[str, Layers]:
        conv_key, head_key = jax.random.split(key)
        *_, num_inputs = shape
        sizes = (self.convs.channels[-1], num_outputs)
        kind = self.initializer
        return {
            "convs": init_convs(
                self.convs, num_inputs, kind, numbers.initializer, conv_key
            ),
            "head": init_mlp(sizes, kind, numbers.head_initializer, head_key),
        }

    def apply(
        self,
        numbers: ConvPoolingNumbers,
        params: dict[str, Layers],
        inputs: Float[Array, "batch height width inputs"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch outputs"]:
        del key
        activation = partial(activate, numbers.activation)
        x = apply_convs(self.convs, params["convs"], inputs, activation)
        pooled = jax.lax.switch(numbers.pool, list(POOLS.values()), x)
        return apply_mlp(params["head"], pooled, activation)


def pool_number(name: str) -> Int[Array, ""]:
    """The pool called `name`, as a number."""
    if name not in POOLS:
        raise UnknownNameError("pool", name, POOLS)
    return jnp.int32(list(POOLS).index(name))


def build(
    config: ConvPoolingConfig,
) -> tuple[Classification, ClassificationNumbers, Dataset]:
    """The task of a config; raises where its images are too small for its layers."""
    kind, scale = initializer(config.initializer, config.initializer_scale)
    activation = activation_numbers(config.activation)
    numbers = ConvPoolingNumbers(scale, scale, activation, pool_number(config.pool))
    network = ConvPooling(config.convs(), kind)
    task = build_classification(network, numbers, config, center=config.center)
    network.convs.output_shape(task[0].images.shape)
    return task


FAMILY = Family("conv_pooling_family", sample, build)
