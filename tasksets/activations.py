"""The nonlinearities of TaskSet (Metz et al. 2020, arXiv 2002.11887).

`ACTIVATIONS` has them by name, for where an activation is structure. As
`ActivationNumbers` it is data, and tasks that differ in it stack.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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
_CASES = ("leaky_relu", "elu", "cos", "sigmoid", "swish", "tanh")
_LEAKY, _ELU, _COS, _SIGMOID, _SWISH, _TANH = range(len(_CASES))


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
    """Applies the activation.

    All cases at once, out of one exponential and one cosine, with the derivative written
    out: cheaper to compile than a branch for each case and, where the case has lanes,
    to run; nearly as cheap as an activation that is structure.
    """
    return _activate(numbers.case, numbers.slope, jnp.asarray(x))


@jax.custom_jvp
def _activate(
    case: Int[Array, ""], slope: Float[Array, ""], x: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    return _value_and_derivative(case, slope, x)[0]


@_activate.defjvp
def _activate_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> Any:
    value, derivative = _value_and_derivative(*primals)
    return value, derivative * tangents[2]


def _value_and_derivative(
    case: Int[Array, ""], slope: Float[Array, ""], x: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    z = jnp.where(case == _TANH, 2 * x, x)
    decay_less_one = jnp.expm1(-jnp.abs(z))  # e^-|z| - 1, exact near 0
    decay = 1 + decay_less_one
    sigmoid = jnp.where(z > 0, 1.0, decay) / (1 + decay)
    slope_of_sigmoid = decay / (1 + decay) ** 2
    tanh = -jnp.sign(x) * decay_less_one / (1 + decay)

    sin, cos = _sin_and_cos(x)
    is_elu = case == _ELU
    left = jnp.where(is_elu, decay_less_one, slope * x)
    slope_left = jnp.where(is_elu, decay, slope)
    value = jnp.where(x > 0, x, left)
    derivative = jnp.where(x > 0, 1.0, slope_left)
    for other, other_value, other_derivative in (
        (_COS, cos, -sin),
        (_SIGMOID, sigmoid, slope_of_sigmoid),
        (_SWISH, x * sigmoid, sigmoid + x * slope_of_sigmoid),
        (_TANH, tanh, 4 * slope_of_sigmoid),
    ):
        value = jnp.where(case == other, other_value, value)
        derivative = jnp.where(case == other, other_derivative, derivative)
    return value, derivative


def _sin_and_cos(
    x: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Both, from the Taylor series at half the angle; 1e-6 exact below |x| = 1000.

    An eighth of the time that XLA's own take on a CPU, where every task of a stack would
    pay for the few that need them.
    """
    angle = x.astype(jnp.float32)
    turns = jnp.round(angle / (2 * np.pi))
    half = ((angle - turns * _TURN_HIGH) - turns * _TURN_LOW) / 2  # within +-pi / 2
    square = half * half
    sin_half = half * jnp.polyval(_SIN_SERIES, square)
    cos_half = jnp.polyval(_COS_SERIES, square)
    sin, cos = 2 * sin_half * cos_half, 1 - 2 * sin_half * sin_half
    return sin.astype(x.dtype), cos.astype(x.dtype)


# 2 pi in two parts, the first so short that its small multiples are exact.
_TURN_HIGH = 6.28125
_TURN_LOW = 2 * np.pi - _TURN_HIGH
_SIN_SERIES = np.array([(-1) ** k / math.factorial(2 * k + 1) for k in range(6)])[::-1]
_COS_SERIES = np.array([(-1) ** k / math.factorial(2 * k) for k in range(7)])[::-1]
