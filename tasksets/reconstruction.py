"""Reconstruction of images by an autoencoder: the problem and its losses.

    loss = mean_b reduce_p |out(network(x_b))_p - x_bp|^k

with k = 1 or 2, the mean or the sum over the p = 1..P pixels and channels, and `out`
the identity, the sigmoid, or tanh for images in [-1, 1]. All three choices are numbers,
so tasks that differ in them stack.

Normalisation: the initial loss is that of a network whose last layer gives 0, which
predicts out(0) for every pixel, averaged over training images; the best loss is 0.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tasksets.classification import Network, Params
from tasksets.data import Dataset, Examples
from tasksets.images import ImageNumbers, ImageProblem, serve_pixels
from tasksets.names import UnknownNameError
from tasksets.sampling import ImageConfig


class Output(NamedTuple):
    """What follows the last layer, and what the images are that it predicts."""

    case: int  # its place among the cases of `squash`
    center: bool  # whether the images are in [-1, 1] in place of [0, 1]
    at_zero: float = 0.0  # the pixel that a last layer of 0 predicts


OUTPUTS = {
    "linear": Output(case=0, center=False),
    "linear_center": Output(case=0, center=True),
    "sigmoid": Output(case=1, center=False, at_zero=0.5),
    "tanh": Output(case=2, center=True),
}
LOSSES = ("l1", "l2")
REDUCTIONS = ("mean", "sum")

# Enough for a mean over pixels, and quick even for the largest images.
_NUM_FOR_MEANS = 1000


class ErrorNumbers(NamedTuple):
    """How an output becomes an error."""

    output: Int[Array, "*lanes"]  # the case of `squash`
    absolute: Float[Array, "*lanes"]  # 1: |r|, 0: r^2
    weight: Float[Array, "*lanes"]  # of one pixel: 1 / P for the mean, 1 for the sum


class ReconstructionNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    network: Any  # the network's own
    images: ImageNumbers
    error: ErrorNumbers
    initial_loss: Float[Array, "*lanes"]  # where the last layer gives 0
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class Reconstruction(ImageProblem):
    """The structure of a task that predicts its own input."""

    network: Network  # to as many outputs as there are pixels

    def init(self, numbers: ReconstructionNumbers, key: PRNGKeyArray) -> Params:
        shape = self.images.shape
        return self.network.init(numbers.network, shape, int(np.prod(shape)), key)

    def loss(
        self,
        numbers: ReconstructionNumbers,
        params: Params,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        outputs = self.network.apply(numbers.network, params, batch.inputs, key)
        outputs = outputs.astype(jnp.float32)  # a sum over all pixels
        pixels = batch.inputs.reshape(outputs.shape)
        residual = squash(numbers.error.output, outputs) - pixels
        errors = jnp.where(numbers.error.absolute > 0, jnp.abs(residual), residual**2)
        return numbers.error.weight * jnp.mean(jnp.sum(errors, axis=1))


def squash(
    case: Int[Array, ""], outputs: Float[Array, "batch pixels"]
) -> Float[Array, "batch pixels"]:
    """The identity, the sigmoid or tanh."""
    return jax.lax.switch(case, [lambda x: x, jax.nn.sigmoid, jnp.tanh], outputs)


def build_reconstruction(
    network: Network,
    network_numbers: Any,
    config: ImageConfig,
    *,
    output: str,
    loss: str,
    reduction: str,
) -> tuple[Reconstruction, ReconstructionNumbers, Dataset]:
    """The task of reconstructing a config's images with a network."""
    for kind, name, known in (
        ("output", output, OUTPUTS),
        ("loss", loss, LOSSES),
        ("reduction", reduction, REDUCTIONS),
    ):
        if name not in known:
            raise UnknownNameError(kind, name, known)
    case, center, at_zero = OUTPUTS[output]
    images, image_numbers, data = serve_pixels(config, center=center)
    weight = 1 / np.prod(images.shape) if reduction == "mean" else 1.0
    power = 1 if loss == "l1" else 2
    error = mean_over_pixels(
        lambda x: np.abs(x - at_zero) ** power, config, data, center
    )
    numbers = ReconstructionNumbers(
        network=network_numbers,
        images=image_numbers,
        error=ErrorNumbers(
            jnp.int32(case), jnp.float32(loss == "l1"), jnp.float32(weight)
        ),
        initial_loss=jnp.float32(weight * np.prod(images.shape) * error),
        best_loss=jnp.float32(0.0),
    )
    return Reconstruction(network, images=images), numbers, data


def mean_over_pixels(
    function: Callable[[np.ndarray], np.ndarray],
    config: ImageConfig,
    data: Dataset,
    center: bool,
) -> float:
    """The mean of a function of one pixel over training images, before augmentation.

    Over the first thousand of those in use. Every pixel counts alike, so counting
    values first makes it exact: the same on every machine.
    """
    num_images = min(data.num_train(config.num_train), _NUM_FOR_MEANS)
    values, counts = np.unique(data.train.inputs[:num_images], return_counts=True)
    pixels = values * data.info.scale + data.info.offset
    pixels = 2 * pixels - 1 if center else pixels
    return float(np.average(function(pixels), weights=counts))
