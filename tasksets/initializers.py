"""Weight initialisers with their shape static and their scale a number.

All nine of TaskSet's (Metz et al. 2020, arXiv 2002.11887) are one of four kinds,

    W = sigma * W_kind,    sigma^2 = gain / (c_1 + c_in fan_in + c_out fan_out),

where `W_kind` has independent standard entries (normal, normal truncated at two
standard deviations, uniform on +-sqrt(3)) or is a (semi-)orthogonal matrix. Only the
kind is structure: he, glorot and fixed scales stack with each other.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.names import UnknownNameError

Kind = Literal["normal", "truncated", "uniform", "orthogonal"]

# Cutting a standard normal at +-2 leaves this standard deviation.
_TRUNCATED_STD = 0.87962566103423978

_PER_WEIGHT, _PER_FAN_IN, _PER_FAN_MEAN = (1, 0, 0), (0, 1, 0), (0, 0.5, 0.5)


class InitializerNumbers(NamedTuple):
    """The scale of an initialiser."""

    gain: Float[Array, "*lanes"]
    fans: Float[Array, "*lanes 3"]  # (c_1, c_in, c_out)


def initializer(name: str, scale: float | None) -> tuple[Kind, InitializerNumbers]:
    """TaskSet's initialiser `name`; `scale` is what the last five are sampled with.

    `truncated_normal` is truncated here. TaskSet's code calls the plain normal there,
    so that its published curves for these tasks belong to a slightly wider law.
    """
    s = 1.0 if scale is None else scale
    unit_truncated = 1 / _TRUNCATED_STD**2
    table: dict[str, tuple[Kind, float, tuple[float, float, float]]] = {
        "he_normal": ("truncated", 2 * unit_truncated, _PER_FAN_IN),
        "he_uniform": ("uniform", 2, _PER_FAN_IN),
        "glorot_normal": ("truncated", unit_truncated, _PER_FAN_MEAN),
        "glorot_uniform": ("uniform", 1, _PER_FAN_MEAN),
        "orthogonal": ("orthogonal", s**2, _PER_WEIGHT),
        "random_uniform": ("uniform", s**2 / 3, _PER_WEIGHT),
        "random_normal": ("normal", s**2, _PER_WEIGHT),
        "truncated_normal": ("truncated", s**2, _PER_WEIGHT),
        "variance_scaling": ("truncated", s * unit_truncated, _PER_FAN_IN),
    }
    if name not in table:
        raise UnknownNameError("initializer", name, table)
    kind, gain, fans = table[name]
    return kind, InitializerNumbers(jnp.float32(gain), jnp.float32(fans))


def init_matrix(
    kind: Kind, numbers: InitializerNumbers, shape: tuple[int, int], key: PRNGKeyArray
) -> Float[Array, "fan_in fan_out"]:
    """One weight matrix."""
    fan_in, fan_out = shape
    fan = numbers.fans @ jnp.array([1.0, fan_in, fan_out])
    sigma = jnp.sqrt(numbers.gain / fan)
    if kind == "orthogonal":
        return sigma * jax.random.orthogonal(key, max(shape))[:fan_in, :fan_out]
    if kind == "uniform":
        bound = np.sqrt(3)
        return sigma * jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    if kind == "truncated":
        return sigma * jax.random.truncated_normal(key, -2.0, 2.0, shape)
    return sigma * jax.random.normal(key, shape)
