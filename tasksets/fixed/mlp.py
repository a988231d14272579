"""Thirteen fixed tasks of TaskSet: perceptrons that classify images.

    x <- activation(between(W x + bias)),    loss = CE or MSE of the last layer's logits

Between a dense layer and its activation stands nothing, dropout, layer norm or batch
norm. From arXiv 2002.11887; a name has the data set, the widths and the batch size, and
the number after Dropout is the probability to keep a unit. Dropout acts in every call
of the loss, on every split, as it does there.

TaskSet's batch norm tasks have none: they are built for evaluation, with running moments
that stay at 0 and 1, so that every layer is only divided by sqrt(1.001). Here the
moments are those of the batch, which is what the names say; the published curves of
these two tasks belong to plain perceptrons.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.activations import ActivationNumbers, activate, activation_numbers
from tasksets.classification import (
    Classification,
    ClassificationNumbers,
    build_classification,
)
from tasksets.data import Dataset
from tasksets.dense import Layers, init_mlp
from tasksets.family import FixedTasks
from tasksets.initializers import SONNET, InitializerNumbers, Kind, initializer
from tasksets.names import UnknownNameError
from tasksets.normalization_layers import batch_norm, layer_norm
from tasksets.sampling import AugmentationConfig, ImageConfig

BETWEEN = ("nothing", "dropout", "layer_norm", "batch_norm")


@dataclass(frozen=True, kw_only=True)
class FixedMlpConfig(ImageConfig):
    """Every field of a task, with what most of them have."""

    hidden: tuple[int, ...]
    activation: str = "relu"
    between: str = "nothing"  # or dropout, layer_norm, batch_norm
    keep_probability: float = 1.0  # in (0, 1]; of a unit, under dropout
    objective: str = "cross_entropy"  # or mse
    dataset: str = "cifar10"
    batch_size: int = 128
    num_train: int | None = None
    augmentation: AugmentationConfig | None = None
    num_per_valid: int | None = 3000


class FixedMlpNumbers(NamedTuple):
    """What may differ between networks of equal structure."""

    initializer: InitializerNumbers
    activation: ActivationNumbers
    keep_probability: Float[Array, "*lanes"]


@dataclass(frozen=True)
class FixedMlp:
    """Dense layers with something between each but the last and its activation."""

    hidden: tuple[int, ...]
    between: str  # one of `BETWEEN`
    initializer: Kind

    def init(
        self,
        numbers: FixedMlpNumbers,
        shape: tuple[int, ...],
        num_outputs: int,
        key: PRNGKeyArray,
    ) -> Layers:
        """Layers as of `init_mlp`; the norms' "offset" starts at 0, "scale" at 1."""
        sizes = (math.prod(shape), *self.hidden, num_outputs)
        layers = init_mlp(sizes, self.initializer, numbers.initializer, key)
        for i, width in enumerate(self.hidden):
            if self.between in ("layer_norm", "batch_norm"):
                layers[f"layer_{i}"]["offset"] = jnp.zeros(width)
            if self.between == "layer_norm":
                layers[f"layer_{i}"]["scale"] = jnp.ones(width)
        return layers

    def apply(
        self,
        numbers: FixedMlpNumbers,
        params: Layers,
        inputs: Float[Array, "batch *shape"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch outputs"]:
        x = inputs.reshape(inputs.shape[0], -1)
        dropout_keys = jax.random.split(key, len(self.hidden) + 1)
        for i in range(len(self.hidden)):
            layer = params[f"layer_{i}"]
            x = x @ layer["w"] + layer["b"]
            if self.between == "dropout":
                x = dropout(x, numbers.keep_probability, dropout_keys[i])
            elif self.between == "layer_norm":
                x = layer_norm(x, layer["scale"], layer["offset"])
            elif self.between == "batch_norm":
                x = batch_norm(x, layer["offset"])
            x = activate(numbers.activation, x)
        last = params[f"layer_{len(self.hidden)}"]
        return x @ last["w"] + last["b"]


def dropout(
    x: Float[Array, "*shape"], keep_probability: Float[Array, ""], key: PRNGKeyArray
) -> Float[Array, "*shape"]:
    """x / p with probability p and 0 otherwise, for each entry (arXiv 1207.0580)."""
    kept = jax.random.uniform(key, x.shape) < keep_probability
    return jnp.where(kept, x / keep_probability, 0.0)


def build(
    config: FixedMlpConfig,
) -> tuple[Classification, ClassificationNumbers, Dataset]:
    """The task of a config."""
    if config.between not in BETWEEN:
        raise UnknownNameError("layer", config.between, BETWEEN)
    if not 0 < config.keep_probability <= 1:
        raise ValueError(
            f"keep_probability is in (0, 1], not {config.keep_probability}"
        )
    if config.between != "dropout" and config.keep_probability != 1:
        raise ValueError(
            f"keep_probability={config.keep_probability} needs between=dropout, not "
            f"between={config.between}"
        )
    kind, scale = initializer(*SONNET)
    numbers = FixedMlpNumbers(
        scale,
        activation_numbers(config.activation),
        jnp.float32(config.keep_probability),
    )
    network = FixedMlp(config.hidden, config.between, kind)
    return build_classification(network, numbers, config, objective=config.objective)


def _plain() -> dict[str, FixedMlpConfig]:
    return {
        f"FixedMLP_{dataset.replace('_', '')}_{short}_128x128x128_relu_bs128": (
            FixedMlpConfig(hidden=(128,) * 3, dataset=dataset, objective=objective)
        )
        for dataset in ("cifar10", "mnist", "food101_32x32")
        for short, objective in (("mse", "mse"), ("ce", "cross_entropy"))
    }


def _dropout(keep_probability: float) -> FixedMlpConfig:
    return FixedMlpConfig(
        hidden=(128, 128), between="dropout", keep_probability=keep_probability
    )


FIXED = FixedTasks(
    "fixed_mlp",
    {
        **_plain(),
        "FixedMLP_cifar10_Dropout02_128x128_relu_bs128": _dropout(0.2),
        "FixedMLP_cifar10_Dropout05_128x128_relu_bs128": _dropout(0.5),
        "FixedMLP_cifar10_Dropout08_128x128_relu_bs128": _dropout(0.8),
        "FixedMLP_cifar10_LayerNorm_128x128x128_relu_bs128": FixedMlpConfig(
            hidden=(128, 128, 128), between="layer_norm"
        ),
        "FixedMLP_cifar10_LayerNorm_128x128x128_tanh_bs128": FixedMlpConfig(
            hidden=(128, 128, 128), between="layer_norm", activation="tanh"
        ),
        "FixedMLP_cifar10_BatchNorm_128x128x128_relu_bs128": FixedMlpConfig(
            hidden=(128, 128, 128), between="batch_norm"
        ),
        "FixedMLP_cifar10_BatchNorm_64x64x64x64x64_relu_bs128": FixedMlpConfig(
            hidden=(64,) * 5, between="batch_norm"
        ),
    },
    build,
)
