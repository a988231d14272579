"""Labels moved towards the uniform distribution, and classification with them.

    CE_a(logits, y) = (1 - a) CE(logits, y) + a mean_c CE(logits, c)

(Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", arXiv
1512.00567.) Its minimum over logits is the entropy of such a label, not 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tasksets.classification import (
    Classification,
    ClassificationNumbers,
    Params,
    logits_of_labels,
)
from tasksets.data import Dataset, Examples
from tasksets.images import serve_pixels
from tasksets.linen import LinenNetwork
from tasksets.variation import VariedImageConfig, variation_numbers


def smoothed_cross_entropy(
    logits: Float[Array, "*batch classes"],
    labels: Int[Array, "*batch"],
    smoothing: Float[Array, ""],
) -> Float[Array, "*batch"]:
    """CE_a of every example; in float32."""
    logits, smoothing = (x.astype(jnp.float32) for x in (logits, smoothing))
    target = logits_of_labels(logits, labels)
    expected = (1 - smoothing) * target + smoothing * jnp.mean(logits, axis=-1)
    return jax.nn.logsumexp(logits, axis=-1) - expected


def smoothed_entropy(smoothing: float, num_classes: int) -> float:
    """The least that CE_a can be."""
    term = lambda p: -p * math.log(p) if p > 0 else 0.0
    other = smoothing / num_classes  # 0 for the least smoothing that there is, too
    return term(1 - smoothing + other) + (num_classes - 1) * term(other)


@dataclass(frozen=True)
class SmoothedClassification(Classification):
    """Classification whose network's numbers have a `label_smoothing`."""

    def loss(
        self,
        numbers: ClassificationNumbers,
        params: Params,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        logits = self.network.apply(numbers.network, params, batch.inputs, key)
        smoothing = numbers.network.label_smoothing
        return jnp.mean(smoothed_cross_entropy(logits, batch.labels, smoothing))


def build_smoothed_classification(
    module: Callable[[int], nn.Module], config: VariedImageConfig
) -> tuple[SmoothedClassification, ClassificationNumbers, Dataset]:
    """The task of classifying a config's images with `module(num_classes)`."""
    images, image_numbers, data = serve_pixels(config, center=config.center)
    num_classes = data.info.num_classes
    numbers = ClassificationNumbers(
        network=variation_numbers(config),
        images=image_numbers,
        initial_loss=jnp.float32(math.log(num_classes)),
        best_loss=jnp.float32(smoothed_entropy(config.label_smoothing, num_classes)),
    )
    network = LinenNetwork(module(num_classes))
    return SmoothedClassification(network, images=images), numbers, data
