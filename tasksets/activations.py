"""The nonlinearities of TaskSet (Metz et al. 2020, arXiv 2002.11887).

`ACTIVATIONS` has them by name. As `ActivationNumbers` one is data: tasks that differ
in their activation stack, and a stack pays for all of `activate`'s cases.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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

# relu is the leaky one of slope 0; every other name not here is a case of its own.
_SLOPES = {"relu": 0.0, "leaky_relu1": 0.1, "leaky_relu2": 0.2, "leaky_relu4": 0.4}
_CASES = ("leaky_relu", "cos", "elu", "sigmoid", "swish", "tanh")


class ActivationNumbers(NamedTuple):
    """An activation as data."""

    case: Int[Array, "*lanes"]  # its place among the cases of `activate`
    slope: Float[Array, "*lanes"]  # of the leaky ones, for x < 0


def activation(name: str) -> Activation:
    """The activation called `name`, for where it is structure."""
    if name not in ACTIVATIONS:
        raise UnknownNameError("activation", name, ACTIVATIONS)
    return ACTIVATIONS[name]


def activation_numbers(name: str) -> ActivationNumbers:
    """The activation called `name`, for where it is a number."""
    activation(name)
    case = "leaky_relu" if name in _SLOPES else name
    slope = _SLOPES.get(name, 0.0)
    return ActivationNumbers(jnp.int32(_CASES.index(case)), jnp.float32(slope))


def activate(
    numbers: ActivationNumbers, x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """Applies the activation; one case runs, unless `numbers.case` has lanes."""
    leaky_relu = lambda x: jnp.where(x > 0, x, numbers.slope * x)
    others = [ACTIVATIONS[name] for name in _CASES[1:]]
    return jax.lax.switch(numbers.case, [leaky_relu, *others], x)
