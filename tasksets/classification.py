"""Classification of images by any network: the problem, its loss and its metric.

    loss = mean_b CE(network(params, x_b), label_b)

or, for objective "mse", the squared error of the logits' sigmoids. A `Network` is
structure, like the problem that holds it: a frozen dataclass that is told the shape of
an input and the number of classes when it initialises. Normalisation: initial loss
log(classes) or 1/4, which is that of logits of 0; best loss 0.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tasksets.data import Dataset, Examples
from tasksets.images import ImageNumbers, ImageProblem, serve
from tasksets.names import UnknownNameError
from tasksets.sampling import ImageConfig

Params = PyTree


class Network(Protocol):
    """From inputs to logits; hashable, pure, and equal to what computes the same."""

    def init(
        self, numbers: Any, shape: tuple[int, ...], num_outputs: int, key: PRNGKeyArray
    ) -> Params:
        """Initial parameters for inputs of `shape`, without the batch."""
        ...

    def apply(
        self,
        numbers: Any,
        params: Params,
        inputs: Float[Array, "batch *shape"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch outputs"]:
        """Logits; `key` serves noise within the network, such as dropout."""
        ...


class ClassificationNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    network: Any  # the network's own
    images: ImageNumbers
    initial_loss: Float[Array, "*lanes"]  # at logits of 0
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class Classification(ImageProblem):
    """The structure of a task that classifies images with a network."""

    network: Network
    objective: str = "cross_entropy"  # or mse

    def init(self, numbers: ClassificationNumbers, key: PRNGKeyArray) -> Params:
        classes = self.images.dataset.num_classes
        return self.network.init(numbers.network, self.images.shape, classes, key)

    def loss(
        self,
        numbers: ClassificationNumbers,
        params: Params,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        logits = self.network.apply(numbers.network, params, batch.inputs, key)
        return OBJECTIVES[self.objective](logits, batch.labels)

    def metrics(
        self,
        numbers: ClassificationNumbers,
        params: Params,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, ""]]:
        logits = self.network.apply(numbers.network, params, batch.inputs, key)
        return {"accuracy": accuracy(logits, batch.labels)}


def build_classification(
    network: Network,
    network_numbers: Any,
    config: ImageConfig,
    *,
    center: bool = False,
    objective: str = "cross_entropy",
) -> tuple[Classification, ClassificationNumbers, Dataset]:
    """The task of classifying a config's images with a network."""
    if objective not in OBJECTIVES:
        raise UnknownNameError("objective", objective, OBJECTIVES)
    images, image_numbers, data = serve(config, center=center)
    classes = data.info.num_classes
    numbers = ClassificationNumbers(
        network=network_numbers,
        images=image_numbers,
        initial_loss=jnp.float32(0.25 if objective == "mse" else np.log(classes)),
        best_loss=jnp.float32(0.0),
    )
    return Classification(network, objective, images=images), numbers, data


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]
) -> Float[Array, ""]:
    """Mean over the batch of -log softmax(logits)[label]; in float32."""
    logits = logits.astype(jnp.float32)
    target = logits_of_labels(logits, labels)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - target)


def logits_of_labels(
    logits: Float[Array, "*batch classes"], labels: Int[Array, "*batch"]
) -> Float[Array, "*batch"]:
    """logits[label] of every example."""
    is_label = labels[..., None] == jnp.arange(logits.shape[-1])
    # A masked sum, because the gradient of indexing is a scatter, slow on CPU.
    return jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)


def sigmoid_mse(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]
) -> Float[Array, ""]:
    """Mean over the batch and classes of (onehot(label) - sigmoid(logits))^2; float32."""
    logits = logits.astype(jnp.float32)
    is_label = labels[:, None] == jnp.arange(logits.shape[-1])
    return jnp.mean((is_label - jax.nn.sigmoid(logits)) ** 2)


OBJECTIVES = {"cross_entropy": cross_entropy, "mse": sigmoid_mse}


def accuracy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]
) -> Float[Array, ""]:
    """The fraction of the batch whose largest logit is the label's."""
    return jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32))
