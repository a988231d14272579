"""small_mlp: many small classifiers in few structures, for meta-training.

    loss = mean_b CE(mlp(x_b; s * params), label_b),    params = W_0 / s at the start

A compiled program serves one structure, so this family has only four (two shapes times
two activations) and puts its diversity in numbers: the scale of the initialisation,
label noise, the size of the training set, and a reparametrisation by s. The last
changes nothing that a network computes, and everything about which step sizes suit it;
Celo (Moudgil et al. 2025, arXiv 2501.12670) found it decisive for what a learned
optimizer generalizes to. Normalisation: initial loss log(classes), best loss 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tasksets import sampling
from tasksets.activations import activation
from tasksets.classification import accuracy, cross_entropy
from tasksets.data import Dataset, DatasetInfo, Examples, draw_indices, load, take
from tasksets.dense import Layers, apply_mlp, init_mlp
from tasksets.family import Family
from tasksets.hashing import mix, unit_interval
from tasksets.initializers import InitializerNumbers, normal_initializer
from tasksets.task import Problem, SplitName

_SHAPES = ((32,), (20, 20))
_ACTIVATIONS = ("relu", "tanh")
_FEWEST_EXAMPLES = 256


@dataclass(frozen=True)
class SmallMlpConfig:
    """Every field of the family, with how it is sampled."""

    hidden: tuple[int, ...]  # widths of the hidden layers; (32,) or (20, 20)
    activation: str  # relu or tanh
    init_scale: float  # std of a weight is this / sqrt(fan_in); logU(.5, 2)
    reparam_scale: float  # the s above; logU(.03, 30)
    label_noise: float  # chance that a training label is uniform; 0 or U(0, .2), 50/50
    train_fraction: float  # U(0, 1): from 256 examples at 0 to all at 1, on a log scale
    seed: int  # decides which labels are noise
    num_train: int | None = None  # examples; None: what train_fraction says
    batch_size: int = 64
    dataset: str = "digits"  # any classification set


def sample(seed: int) -> SmallMlpConfig:
    """The config of `seed`."""
    rng = np.random.RandomState(seed)
    return SmallMlpConfig(
        hidden=_SHAPES[rng.randint(len(_SHAPES))],
        activation=_ACTIVATIONS[rng.randint(len(_ACTIVATIONS))],
        init_scale=sampling.log_float(rng, 0.5, 2),
        reparam_scale=sampling.log_float(rng, 0.03, 30),
        label_noise=float(rng.choice([0, 1]) * rng.uniform(0, 0.2)),
        train_fraction=float(rng.uniform()),
        seed=seed,
    )


class SmallMlpNumbers(NamedTuple):
    """What differs between tasks of equal structure."""

    initializer: InitializerNumbers
    reparam_scale: Float[Array, "*lanes"]
    label_noise: Float[Array, "*lanes"]  # probability
    num_train: Int[Array, "*lanes"]  # training examples in use
    seed: Int[Array, "*lanes"]  # of the label noise
    initial_loss: Float[Array, "*lanes"]  # log(classes)
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class SmallMlpProblem(Problem):
    """The structure of a task of this family."""

    hidden: tuple[int, ...]
    activation: str
    batch_size: int
    dataset: DatasetInfo

    @property
    def sizes(self) -> tuple[int, ...]:
        """Widths from the input to the logits."""
        return (
            int(np.prod(self.dataset.shape)),
            *self.hidden,
            self.dataset.num_classes,
        )

    def init(self, numbers: SmallMlpNumbers, key: PRNGKeyArray) -> Layers:
        layers = init_mlp(self.sizes, "entrywise", numbers.initializer, key)
        return jax.tree.map(lambda w: w / numbers.reparam_scale, layers)

    def draw(
        self,
        numbers: SmallMlpNumbers,
        data: Dataset,
        split: SplitName,
        key: PRNGKeyArray,
    ) -> Int[Array, "batch"]:
        """Indices of examples."""
        in_use = numbers.num_train if split == "train" else data.size(split)
        return draw_indices(in_use, self.batch_size, key)

    def take(
        self,
        numbers: SmallMlpNumbers,
        data: Dataset,
        split: SplitName,
        drawn: Int[Array, "batch"],
    ) -> Examples:
        inputs, labels = take(getattr(data, split), drawn, self.dataset)
        if split == "train":
            labels = noisy_labels(
                labels,
                drawn,
                numbers.label_noise,
                numbers.seed,
                self.dataset.num_classes,
            )
        return Examples(inputs, labels)

    def loss(
        self,
        numbers: SmallMlpNumbers,
        params: Layers,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        return cross_entropy(self._logits(numbers, params, batch), batch.labels)

    def metrics(
        self,
        numbers: SmallMlpNumbers,
        params: Layers,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, ""]]:
        del key
        logits = self._logits(numbers, params, batch)
        return {"accuracy": accuracy(logits, batch.labels)}

    def _logits(
        self, numbers: SmallMlpNumbers, params: Layers, batch: Examples
    ) -> Float[Array, "batch classes"]:
        layers = jax.tree.map(lambda p: numbers.reparam_scale * p, params)
        return apply_mlp(layers, batch.inputs, activation(self.activation))


def noisy_labels(
    labels: Int[Array, "batch"],
    indices: Int[Array, "batch"],
    probability: Float[Array, ""],
    seed: Int[Array, ""],
    num_classes: int,
) -> Int[Array, "batch"]:
    """Replaces labels by uniform ones with a probability, for good.

    Whether and by what is a hash of the example's index and the seed, so that an
    example has the same label in every batch.
    """
    bits = mix(indices.astype(jnp.uint32) ^ mix(seed.astype(jnp.uint32)))
    replaced = unit_interval(bits) < probability
    drawn = unit_interval(mix(bits + jnp.uint32(1))) * num_classes
    return jnp.where(replaced, drawn.astype(labels.dtype), labels)


def build(config: SmallMlpConfig) -> tuple[SmallMlpProblem, SmallMlpNumbers, Dataset]:
    """The task of a config."""
    activation(config.activation)  # a wrong name must fail here, not inside a trace
    _require_in_range(config)
    data = load(config.dataset)
    num_train = config.num_train
    if num_train is None:
        fewest, most = data.num_train(_FEWEST_EXAMPLES), data.num_train()
        num_train = round(fewest * (most / fewest) ** config.train_fraction)
    problem = SmallMlpProblem(
        config.hidden, config.activation, config.batch_size, data.info
    )
    numbers = SmallMlpNumbers(
        initializer=normal_initializer(config.init_scale, per_fan_in=True),
        reparam_scale=jnp.float32(config.reparam_scale),
        label_noise=jnp.float32(config.label_noise),
        num_train=jnp.int32(data.num_train(num_train)),
        seed=jnp.int32(config.seed % 2**31),
        initial_loss=jnp.float32(np.log(data.info.num_classes)),
        best_loss=jnp.float32(0.0),
    )
    return problem, numbers, data


def _require_in_range(config: SmallMlpConfig) -> None:
    for field in ("init_scale", "reparam_scale"):
        if not 0 < getattr(config, field) < np.inf:
            raise ValueError(f"{field} is positive and finite")
    for field in ("label_noise", "train_fraction"):
        if not 0 <= getattr(config, field) <= 1:
            raise ValueError(f"{field} is in [0, 1], not {getattr(config, field)}")


FAMILY = Family("small_mlp", sample, build)
