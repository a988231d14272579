"""The nonlinearities of TaskSet (Metz et al. 2020, arXiv 2002.11887)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tasksets.names import UnknownNameError

Activation = Callable[[Float[Array, "..."]], Float[Array, "..."]]

ACTIVATIONS: dict[str, Activation] = {
    "cos": jnp.cos,
    "elu": jax.nn.elu,
    "leaky_relu1": lambda x: jax.nn.leaky_relu(x, 0.1),
    "leaky_relu2": lambda x: jax.nn.leaky_relu(x, 0.2),
    "leaky_relu4": lambda x: jax.nn.leaky_relu(x, 0.4),
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "swish": jax.nn.swish,
    "tanh": jnp.tanh,
}


def activation(name: str) -> Activation:
    """The activation called `name`."""
    if name not in ACTIVATIONS:
        raise UnknownNameError("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]
