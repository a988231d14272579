"""Two-class problems on a handful of examples.

    loss = mean_b log(1 + exp(-s_b z_b)) + 1e-3 mean_t |W_t|^2,    s_b = +1 or -1

over the tensors W_t of the parameters. The logit z_b of label 1 is the first of two
outputs; the second has the decay as its only gradient. Wichrowska et al. do so for want
of a two-class softmax, and TaskSet's curves are of this loss, so it is kept. All tensors,
biases too, start normal with standard deviation 1.2 / sqrt(length of the first axis).

* sparse softmax regression: z = (sum_j E[id_bj]) V + c, from five ids of two, of which
  the label is the parity, changed with probability 1/4.
* fully connected: a multi-layer perceptron; the label of a standard normal input is
  whether a random network of six layers of 20 rectifiers is above 0 there.

Normalisation: initial loss log(2), best loss 0, which the decay keeps out of reach.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, PRNGKeyArray

from tasksets.activations import ActivationNumbers, activate, activation_numbers
from tasksets.data import Examples
from tasksets.dense import Layers, apply_mlp
from tasksets.losg.parts import Built, Sampled

_NUM_IDS, _NUM_CLASSES = 5, 2
_FLIP_PROBABILITY = 0.25
_TEACHER_LAYERS, _TEACHER_WIDTH = 6, 20
_DECAY = 1e-3

SoftmaxParams = dict[str, Float[Array, "..."]]


class SoftmaxNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    samples: Examples  # five ids each, and labels
    initial_loss: Float[Array, "*lanes"]  # log(2)
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class SparseSoftmaxRegression(Sampled):
    """Sums of embeddings, classified linearly."""

    num_features: int

    def init(self, numbers: SoftmaxNumbers, key: PRNGKeyArray) -> SoftmaxParams:
        shapes = {
            "embedding": (_NUM_CLASSES, self.num_features),
            "w": (self.num_features, _NUM_CLASSES),
            "b": (_NUM_CLASSES,),
        }
        return _normal_tensors(shapes, key)

    def loss(
        self,
        numbers: SoftmaxNumbers,
        params: SoftmaxParams,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        return _decayed_loss(params, self._logit(params, batch), batch.labels)

    def metrics(
        self,
        numbers: SoftmaxNumbers,
        params: SoftmaxParams,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, ""]]:
        del key
        return {"accuracy": _accuracy(self._logit(params, batch), batch.labels)}

    def _logit(self, params: SoftmaxParams, batch: Examples) -> Float[Array, "batch"]:
        counts = jnp.sum(jax.nn.one_hot(batch.inputs, _NUM_CLASSES), axis=1)
        features = counts @ params["embedding"]
        return (features @ params["w"] + params["b"])[:, 0]


class FullyConnectedNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    samples: Examples
    activation: ActivationNumbers
    initial_loss: Float[Array, "*lanes"]  # log(2)
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class FullyConnected(Sampled):
    """A multi-layer perceptron."""

    num_features: int
    hidden: tuple[int, ...]

    def init(self, numbers: FullyConnectedNumbers, key: PRNGKeyArray) -> Layers:
        widths = (self.num_features, *self.hidden, _NUM_CLASSES)
        shapes = {
            f"layer_{i}": {"w": shape, "b": shape[1:]}
            for i, shape in enumerate(zip(widths[:-1], widths[1:], strict=True))
        }
        return _normal_tensors(shapes, key)

    def loss(
        self,
        numbers: FullyConnectedNumbers,
        params: Layers,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        return _decayed_loss(params, self._logit(numbers, params, batch), batch.labels)

    def metrics(
        self,
        numbers: FullyConnectedNumbers,
        params: Layers,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, ""]]:
        del key
        logit = self._logit(numbers, params, batch)
        return {"accuracy": _accuracy(logit, batch.labels)}

    def _logit(
        self, numbers: FullyConnectedNumbers, params: Layers, batch: Examples
    ) -> Float[Array, "batch"]:
        act = partial(activate, numbers.activation)
        return apply_mlp(params, batch.inputs, act)[:, 0]


def _normal_tensors(shapes: Any, key: PRNGKeyArray) -> Any:
    """Tensors of a tree of shapes."""
    is_shape = lambda node: isinstance(node, tuple)
    leaves, treedef = jax.tree.flatten(shapes, is_leaf=is_shape)
    # One draw for all, which compiles many times faster than one for each.
    draw = jax.random.normal(key, (sum(math.prod(shape) for shape in leaves),))
    ends = np.cumsum([math.prod(shape) for shape in leaves])
    tensors = [
        1.2 / math.sqrt(shape[0]) * draw[end - math.prod(shape) : end].reshape(shape)
        for shape, end in zip(leaves, ends, strict=True)
    ]
    return jax.tree.unflatten(treedef, tensors)


def _decayed_loss(
    params: Any, logit: Float[Array, "batch"], labels: Int[Array, "batch"]
) -> Float[Array, ""]:
    sign = 2.0 * labels - 1
    tensors = jax.tree.leaves(params)
    decay = sum(jnp.sum(tensor**2) for tensor in tensors) / len(tensors)
    return jnp.mean(jax.nn.softplus(-sign * logit)) + _DECAY * decay


def _accuracy(
    logit: Float[Array, "batch"], labels: Int[Array, "batch"]
) -> Float[Array, ""]:
    return jnp.mean(((logit > 0) == (labels == 1)).astype(jnp.float32))


def sparse_softmax_regression(
    num_features: int, batch_size: int, num_samples: int, seed: int
) -> Built:
    """Regression on embeddings of `num_features`."""
    problem = SparseSoftmaxRegression(batch_size, num_features)
    return problem, SoftmaxNumbers(
        samples=_parity_examples(num_samples, seed),
        initial_loss=jnp.float32(math.log(2)),
        best_loss=jnp.float32(0.0),
    )


def fully_connected(
    num_features: int,
    hidden: tuple[int, ...],
    activation: str,
    batch_size: int,
    num_samples: int,
    seed: int,
) -> Built:
    """A perceptron that learns the sign of a random network."""
    problem = FullyConnected(batch_size, num_features, hidden)
    return problem, FullyConnectedNumbers(
        samples=_teacher_examples(num_features, num_samples, seed),
        activation=activation_numbers(activation),
        initial_loss=jnp.float32(math.log(2)),
        best_loss=jnp.float32(0.0),
    )


def _parity_examples(num_samples: int, seed: int) -> Examples:
    rng = np.random.RandomState(seed)
    ids = rng.randint(0, _NUM_CLASSES, (num_samples, _NUM_IDS))
    flips = rng.binomial(1, _FLIP_PROBABILITY, num_samples)
    return _examples(ids, (ids.sum(axis=1) + flips) % _NUM_CLASSES)


def _teacher_examples(num_features: int, num_samples: int, seed: int) -> Examples:
    rng = np.random.RandomState(seed)
    inputs = rng.normal(size=(num_samples, num_features))
    hidden = inputs
    for _ in range(_TEACHER_LAYERS):
        # Rectifiers without biases: the scale of the weights cannot change a label.
        weights = rng.normal(size=(hidden.shape[1], _TEACHER_WIDTH))
        hidden = np.maximum(hidden @ weights, 0)
    return _examples(inputs.astype(np.float32), hidden[:, 0] > 0)


def _examples(inputs: Num[np.ndarray, "..."], labels: np.ndarray) -> Examples:
    return Examples(jnp.asarray(inputs), jnp.asarray(labels, jnp.int32))
