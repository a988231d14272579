"""mlp_family: multi-layer perceptrons that classify images.

    loss = mean_b CE(W_n act(... act(W_0 x_b + b_0) ...) + b_n, label_b)

One of the twelve families of TaskSet (Metz et al. 2020, "Using a thousand optimization
tasks to learn hyperparameter search strategies", arXiv 2002.11887). A seed gives the
config that it gives there. Normalisation: initial loss log(classes), best loss 0.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tasksets import sampling
from tasksets.activations import activation
from tasksets.augmentation import (
    Augmentation,
    ColorNumbers,
    augment,
    build_augmentation,
)
from tasksets.classification import accuracy, cross_entropy
from tasksets.data import Dataset, DatasetInfo, Examples, draw_indices, load, take
from tasksets.dense import Layers, apply_mlp, init_mlp
from tasksets.family import Family
from tasksets.initializers import InitializerNumbers, Kind, initializer
from tasksets.sampling import AugmentationConfig
from tasksets.task import Problem, SplitName


@dataclass(frozen=True)
class MlpConfig:
    """Every field of the family, with how it is sampled."""

    hidden: tuple[int, ...]  # U{1..6} layers, the width of each logint 16-128
    activation: str  # relu 6, tanh 3, and 1 each of seven others
    initializer: str  # he and glorot 2 each, and 1 each of five with a scale
    initializer_scale: float | None  # logU(.1, 10); None where there is none
    dataset: str  # uniform over ten image sets
    batch_size: int  # logint 8-512 for the mnists, 8-256 for the others
    num_train: int | None  # examples; U(1000, 55000 or 50000); None: all there are
    just_train: bool  # sampled with p .1 or .2, and never applied by TaskSet's loader
    augmentation: AugmentationConfig | None  # with p .3; serves all four splits
    center: bool  # images to [-1, 1] in place of [0, 1]; 50/50

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        served: dict[str, Any] = {
            "bs": self.batch_size,
            "num_train": self.num_train,
            "just_train": self.just_train,
        }
        if self.dataset in ("mnist", "fashion_mnist"):
            served["num_classes"] = 10
        augmented = vars(self.augmentation).copy() if self.augmentation else None
        return {
            "layer_sizes": list(self.hidden),
            "activation": self.activation,
            "w_init": [self.initializer, self.initializer_scale],
            "dataset": [self.dataset, served, augmented],
            "center_data": self.center,
        }


def sample(seed: int) -> MlpConfig:
    """The config that TaskSet samples from `seed`."""
    rng = np.random.RandomState(seed + 99123491)
    num_layers = rng.choice([1, 2, 3, 4, 5, 6])
    hidden = tuple(sampling.log_int(rng, 16, 128) for _ in range(num_layers))
    activation_name = sampling.activation_name(rng)
    initializer_name, initializer_scale = sampling.initializer_name(rng)
    data = sampling.image_data(rng)
    return MlpConfig(
        hidden=hidden,
        activation=activation_name,
        initializer=initializer_name,
        initializer_scale=initializer_scale,
        dataset=data.name,
        batch_size=data.batch_size,
        num_train=data.num_train,
        just_train=data.just_train,
        augmentation=data.augmentation,
        center=bool(rng.choice([True, False])),
    )


class MlpNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    initializer: InitializerNumbers
    color: ColorNumbers | None
    center: Float[Array, "*lanes"]  # 1: images in [-1, 1], 0: in [0, 1]
    num_train: Int[Array, "*lanes"]  # training examples in use
    initial_loss: Float[Array, "*lanes"]  # log(classes)
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class MlpProblem(Problem):
    """The structure of a task of this family."""

    hidden: tuple[int, ...]
    activation: str
    initializer: Kind
    augmentation: Augmentation | None
    batch_size: int
    dataset: DatasetInfo

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths from the input to the logits."""
        shape = self.dataset.shape
        shape = self.augmentation.shape(shape) if self.augmentation else shape
        return int(np.prod(shape)), *self.hidden, self.dataset.num_classes

    def init(self, numbers: MlpNumbers, key: PRNGKeyArray) -> Layers:
        return init_mlp(self.sizes, self.initializer, numbers.initializer, key)

    def draw(
        self, numbers: MlpNumbers, data: Dataset, split: SplitName, key: PRNGKeyArray
    ) -> tuple[Int[Array, "batch"], PRNGKeyArray]:
        """Indices, and a key for the augmentation."""
        index_key, augmentation_key = jax.random.split(key)
        in_use = numbers.num_train if split == "train" else data.size(split)
        return draw_indices(in_use, self.batch_size, index_key), augmentation_key

    def take(
        self,
        numbers: MlpNumbers,
        data: Dataset,
        split: SplitName,
        drawn: tuple[Int[Array, "batch"], PRNGKeyArray],
    ) -> Examples:
        indices, augmentation_key = drawn
        inputs, labels = take(getattr(data, split), indices, self.dataset)
        if self.augmentation is not None:
            inputs = augment(self.augmentation, numbers.color, inputs, augmentation_key)
        if self.dataset.is_image:
            inputs = inputs + numbers.center * (inputs - 1)
        return Examples(inputs, labels)

    def loss(
        self, numbers: MlpNumbers, params: Layers, batch: Examples, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        del numbers, key
        logits = apply_mlp(params, batch.inputs, activation(self.activation))
        return cross_entropy(logits, batch.labels)

    def metrics(
        self, numbers: MlpNumbers, params: Layers, batch: Examples, key: PRNGKeyArray
    ) -> dict[str, Float[Array, ""]]:
        del numbers, key
        logits = apply_mlp(params, batch.inputs, activation(self.activation))
        return {"accuracy": accuracy(logits, batch.labels)}


def build(config: MlpConfig) -> tuple[MlpProblem, MlpNumbers, Dataset]:
    """The task of a config; augmentation needs images and is left out of tables."""
    activation(config.activation)  # a wrong name must fail here, not inside a trace
    kind, scale = initializer(config.initializer, config.initializer_scale)
    data = load(config.dataset)
    augmentation, color = build_augmentation(config.augmentation, data.info.shape)
    problem = MlpProblem(
        hidden=config.hidden,
        activation=config.activation,
        initializer=kind,
        augmentation=augmentation,
        batch_size=config.batch_size,
        dataset=data.info,
    )
    numbers = MlpNumbers(
        initializer=scale,
        color=color,
        center=jnp.float32(config.center),
        num_train=jnp.int32(data.num_train(config.num_train)),
        initial_loss=jnp.float32(np.log(data.info.num_classes)),
        best_loss=jnp.float32(0.0),
    )
    return problem, numbers, data


FAMILY = Family("mlp_family", sample, build)
