"""Normalizing flows: densities of images by a change of variables.

    -log p(x) = -log N(z; 0, I) - log |det dz/dx|,    z = f_1(P_1 f_2(P_2 ... f_n(x)))
    loss = mean_b -log p(x_b + sigma eps_b),    sigma = .01, eps ~ N(0, I)

in nats, summed over pixels. The f are bijectors of one kind (coupling.py,
autoregressive.py), each with parameters of its own, and the P are fixed permutations of
all pixels. Without the noise the density of pixels that are always black is unbounded.

Normalisation: the initial loss is that of the identity, z = x, on the first training
images. The best loss is a bound that no flow can beat but by chance: pixels that are
transformed have at least the entropy of their noise, log(2 pi e sigma^2) / 2 each, and
the others stay what they are at the start. Measured losses (known_losses.py), where a
task has them, come before both.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from tasksets import sampling
from tasksets.activations import ActivationNumbers, activation_numbers
from tasksets.data import Dataset, Examples
from tasksets.dense import Layers
from tasksets.images import ImageNumbers, ImageProblem, Images, serve
from tasksets.initializers import InitializerNumbers, Kind, initializer
from tasksets.sampling import SampledImageConfig

NOISE_STD = 0.01
_LOG_2PI = float(np.log(2 * np.pi))
_ENERGY_EXAMPLES = 1000

FlowParams = dict[str, Layers]


@dataclass(frozen=True, kw_only=True)
class FlowConfig(SampledImageConfig):
    """Every field of the two families of flows, with how it is sampled."""

    activation: str  # relu 6, tanh 3, and 1 each of seven others
    initializer: str  # he and glorot 2 each, and 1 each of five with a scale
    initializer_scale: float | None  # logU(.1, 10); None where there is none
    hidden: tuple[int, ...]  # of each bijector: 1 or 2 layers, each logint 16-128 wide
    num_bijectors: int  # U{1..4}

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        return {
            "activation": self.activation,
            "w_init": [self.initializer, self.initializer_scale],
            "dataset": self.dataset_as_taskset(),
            "hidden_units": list(self.hidden),
            "num_bijectors": self.num_bijectors,
        }


def flow_config(rng: np.random.RandomState) -> FlowConfig:
    """One config; the order of the draws is TaskSet's."""
    activation_name = sampling.activation_name(rng)
    initializer_name, initializer_scale = sampling.initializer_name(rng)
    images = sampling.image_fields(rng)
    num_layers = rng.choice([1, 2])
    return FlowConfig(
        activation=activation_name,
        initializer=initializer_name,
        initializer_scale=initializer_scale,
        **images,
        hidden=tuple(sampling.log_int(rng, 16, 128) for _ in range(num_layers)),
        num_bijectors=int(rng.choice([1, 2, 3, 4])),
    )


class BijectorNumbers(NamedTuple):
    """What may differ between the networks of bijectors of equal structure."""

    initializer: InitializerNumbers
    activation: ActivationNumbers


class Bijector(Protocol):
    """An invertible map between data x and noise z; hashable and pure."""

    def init(
        self, numbers: BijectorNumbers, num_dims: int, key: PRNGKeyArray
    ) -> Layers:
        """Initial parameters of its network."""
        ...

    def to_noise(
        self, numbers: BijectorNumbers, params: Layers, x: Float[Array, "batch dims"]
    ) -> tuple[Float[Array, "batch dims"], Float[Array, "batch"]]:
        """z, and log |det dz/dx|."""
        ...

    def to_data(
        self, numbers: BijectorNumbers, params: Layers, z: Float[Array, "batch dims"]
    ) -> Float[Array, "batch dims"]:
        """The inverse of `to_noise`."""
        ...

    def keeps(self, num_dims: int) -> Bool[np.ndarray, "dims"]:
        """Which variables it leaves as they are, whatever its parameters."""
        ...


@dataclass(frozen=True)
class Flow:
    """Bijectors of one kind with fixed permutations between them."""

    bijector: Bijector
    num_bijectors: int

    def init(
        self, numbers: BijectorNumbers, num_dims: int, key: PRNGKeyArray
    ) -> FlowParams:
        """{"bijector_0": its layers, ...}; bijector 0 is the one next to the noise."""
        keys = jax.random.split(key, self.num_bijectors)
        return {
            f"bijector_{i}": self.bijector.init(numbers, num_dims, bijector_key)
            for i, bijector_key in enumerate(keys)
        }

    def to_noise(
        self,
        numbers: BijectorNumbers,
        params: FlowParams,
        x: Float[Array, "batch dims"],
    ) -> tuple[Float[Array, "batch dims"], Float[Array, "batch"]]:
        """z, and log |det dz/dx|."""
        z, total_log_det = x, jnp.zeros(x.shape[0])
        for i in reversed(range(self.num_bijectors)):
            layers = params[f"bijector_{i}"]
            z, log_det = self.bijector.to_noise(numbers, layers, z)
            total_log_det = total_log_det + log_det
            if i > 0:
                z = permute(z, np.argsort(permutation(i - 1, x.shape[-1])))
        return z, total_log_det

    def to_data(
        self,
        numbers: BijectorNumbers,
        params: FlowParams,
        z: Float[Array, "batch dims"],
    ) -> Float[Array, "batch dims"]:
        """The inverse of `to_noise`; of z ~ N(0, I) it makes samples."""
        x = z
        for i in range(self.num_bijectors):
            if i > 0:
                x = permute(x, permutation(i - 1, z.shape[-1]))
            x = self.bijector.to_data(numbers, params[f"bijector_{i}"], x)
        return x

    def log_density(
        self,
        numbers: BijectorNumbers,
        params: FlowParams,
        x: Float[Array, "batch dims"],
    ) -> Float[Array, "batch"]:
        """log p(x) in nats, of the base density N(0, I)."""
        z, log_det = self.to_noise(numbers, params, x)
        z = z.astype(jnp.float32)  # a sum over all pixels
        return -0.5 * jnp.sum(z**2 + _LOG_2PI, axis=-1) + log_det

    def num_kept(self, num_dims: int) -> int:
        """How many variables reach the noise as they are in the data."""
        kept = np.ones(num_dims, bool)
        for i in reversed(range(self.num_bijectors)):
            kept = kept & self.bijector.keeps(num_dims)
            if i > 0:
                kept = kept[np.argsort(permutation(i - 1, num_dims))]
        return int(kept.sum())


def permutation(index: int, num_dims: int) -> Int[np.ndarray, "dims"]:
    """The permutation that follows bijector `index` on the way to the data."""
    return np.random.RandomState(index).permutation(num_dims).astype(np.int32)


def permute(
    x: Float[Array, "batch dims"], order: Int[np.ndarray, "dims"]
) -> Float[Array, "batch dims"]:
    """x[:, order], as the solution y of y[:, inverse order] = x.

    So that the gradient is the inverse permutation, another gather. The gradient of
    indexing is a scatter, which on CPU takes longer than a whole bijector.
    """
    inverse = np.argsort(order)
    at = lambda x, indices: x.at[:, indices].get(mode="promise_in_bounds")
    return jax.lax.custom_linear_solve(
        matvec=lambda y: at(y, inverse),
        b=x,
        solve=lambda _, x: at(x, order),
        transpose_solve=lambda _, cotangent: at(cotangent, inverse),
    )


class DensityNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    bijector: BijectorNumbers
    images: ImageNumbers
    initial_loss: Float[Array, "*lanes"]  # of the identity
    best_loss: Float[Array, "*lanes"]  # where transformed pixels are their noise


@dataclass(frozen=True)
class DensityEstimation(ImageProblem):
    """The structure of a task that fits a flow to images."""

    flow: Flow

    def init(self, numbers: DensityNumbers, key: PRNGKeyArray) -> FlowParams:
        return self.flow.init(numbers.bijector, _num_dims(self.images), key)

    def loss(
        self,
        numbers: DensityNumbers,
        params: FlowParams,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        x = batch.inputs.reshape(batch.inputs.shape[0], -1)
        x = x + (NOISE_STD * jax.random.normal(key, x.shape)).astype(x.dtype)
        return -jnp.mean(self.flow.log_density(numbers.bijector, params, x))


def bijector_numbers(config: FlowConfig) -> tuple[Kind, BijectorNumbers]:
    """The kind of a config's initializer, which is structure, and the numbers."""
    kind, scale = initializer(config.initializer, config.initializer_scale)
    return kind, BijectorNumbers(scale, activation_numbers(config.activation))


def build_density_estimation(
    bijector: Bijector, numbers: BijectorNumbers, config: FlowConfig
) -> tuple[DensityEstimation, DensityNumbers, Dataset]:
    """The task of fitting a config's images with bijectors of one kind."""
    if config.num_bijectors < 1:
        raise ValueError(f"num_bijectors is at least 1, not {config.num_bijectors}")
    images, image_numbers, data = serve(config)
    flow = Flow(bijector, config.num_bijectors)
    num_dims = _num_dims(images)
    num_kept = flow.num_kept(num_dims)
    identity = 0.5 * (_LOG_2PI + _mean_square(data) + NOISE_STD**2)
    entropy = 0.5 * (_LOG_2PI + 1 + np.log(NOISE_STD**2))
    density_numbers = DensityNumbers(
        bijector=numbers,
        images=image_numbers,
        initial_loss=jnp.float32(num_dims * identity),
        best_loss=jnp.float32(num_kept * identity + (num_dims - num_kept) * entropy),
    )
    return DensityEstimation(flow, images=images), density_numbers, data


def _num_dims(images: Images) -> int:
    return int(np.prod(images.shape))


def _mean_square(data: Dataset) -> float:
    """Of the first training inputs; before augmentation, which changes it little."""
    inputs = np.asarray(data.train.inputs[:_ENERGY_EXAMPLES], np.float64)
    if data.info.is_image:
        inputs = inputs * data.info.scale + data.info.offset
    return float(np.mean(inputs**2))
