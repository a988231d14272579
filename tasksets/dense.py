"""Multi-layer perceptrons as plain functions of a dict of layers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.activations import Activation
from tasksets.initializers import InitializerNumbers, Kind, init_weight

Layers = dict[str, dict[str, Float[Array, "..."]]]


def init_mlp(
    sizes: tuple[int, ...], kind: Kind, scale: InitializerNumbers, key: PRNGKeyArray
) -> Layers:
    """{"layer_0": {"w": [sizes[0], sizes[1]], "b": [sizes[1]]}, ...}; biases are 0."""
    shapes = list(zip(sizes[:-1], sizes[1:], strict=True))
    layer_keys = jax.random.split(key, len(shapes))
    return {
        f"layer_{i}": {
            "w": init_weight(kind, scale, shape, layer_key),
            "b": jnp.zeros(shape[1]),
        }
        for i, (shape, layer_key) in enumerate(zip(shapes, layer_keys, strict=True))
    }


def apply_mlp(
    layers: Layers, inputs: Float[Array, "batch *shape"], activation: Activation
) -> Float[Array, "batch outputs"]:
    """Logits: every layer but the last is followed by the activation."""
    x = inputs.reshape(inputs.shape[0], -1)
    for i in range(len(layers)):
        x = x if i == 0 else activation(x)
        x = x @ layers[f"layer_{i}"]["w"] + layers[f"layer_{i}"]["b"]
    return x
