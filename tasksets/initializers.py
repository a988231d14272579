"""Weight initialisers whose law is a number, so that tasks that differ in it stack.

All nine of TaskSet's (Metz et al. 2020, arXiv 2002.11887) are

    W = sigma * W_law,    sigma^2 = gain / (c_1 + c_in fan_in + c_out fan_out),

where `W_law` has independent standard entries (normal, normal truncated at two standard
deviations, uniform on +-sqrt(3)) or is a (semi-)orthogonal matrix. The three laws of
entries are one map of a uniform u on (-1, 1),

    a_uniform u + a_normal erfinv(c u),

with c = 1 for the normal and erf(sqrt(2)) for the truncated one. Only being orthogonal
is structure, because a QR decomposition is too dear to be drawn and thrown away.
"""

import math
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.decompositions import orthogonal
from tasksets.names import UnknownNameError

Kind = Literal["entrywise", "orthogonal"]

# Cutting a standard normal at +-2 leaves this standard deviation.
_TRUNCATED_STD = 0.87962566103423978

# The normal of standard deviation 1 / sqrt(fan_in), cut at two of them: what Sonnet 1,
# which TaskSet is built on, takes where nothing is said.
SONNET: tuple[str, float] = ("variance_scaling", _TRUNCATED_STD**2)

_Law = tuple[float, float, float]

# (a_uniform, a_normal, c)
_UNIFORM = (math.sqrt(3), 0.0, 0.0)
_NORMAL = (0.0, math.sqrt(2), 1.0)
_TRUNCATED = (0.0, math.sqrt(2), math.erf(math.sqrt(2)))
_NO_LAW = (0.0, 0.0, 0.0)

# (c_1, c_in, c_out)
_PER_WEIGHT, _PER_FAN_IN, _PER_FAN_MEAN = (1, 0, 0), (0, 1, 0), (0, 0.5, 0.5)


class InitializerNumbers(NamedTuple):
    """The law of an initialiser's entries and its scale."""

    gain: Float[Array, "*lanes"]
    fans: Float[Array, "*lanes 3"]  # (c_1, c_in, c_out)
    law: Float[Array, "*lanes 3"]  # (a_uniform, a_normal, c); zeros if orthogonal


def initializer(name: str, scale: float | None) -> tuple[Kind, InitializerNumbers]:
    """TaskSet's initialiser `name`; `scale` is what the last five are sampled with.

    `truncated_normal` is truncated here. TaskSet's code calls the plain normal there,
    so that its published curves for these tasks belong to a slightly wider law.
    """
    s = 1.0 if scale is None else scale
    unit_truncated = 1 / _TRUNCATED_STD**2
    table: dict[str, tuple[_Law, float, _Law]] = {
        "he_normal": (_TRUNCATED, 2 * unit_truncated, _PER_FAN_IN),
        "he_uniform": (_UNIFORM, 2, _PER_FAN_IN),
        "glorot_normal": (_TRUNCATED, unit_truncated, _PER_FAN_MEAN),
        "glorot_uniform": (_UNIFORM, 1, _PER_FAN_MEAN),
        "orthogonal": (_NO_LAW, s**2, _PER_WEIGHT),
        "random_uniform": (_UNIFORM, s**2 / 3, _PER_WEIGHT),
        "random_normal": (_NORMAL, s**2, _PER_WEIGHT),
        "truncated_normal": (_TRUNCATED, s**2, _PER_WEIGHT),
        "variance_scaling": (_TRUNCATED, s * unit_truncated, _PER_FAN_IN),
    }
    if name not in table:
        raise UnknownNameError("initializer", name, table)
    law, gain, fans = table[name]
    kind: Kind = "orthogonal" if name == "orthogonal" else "entrywise"
    numbers = InitializerNumbers(jnp.float32(gain), jnp.float32(fans), jnp.float32(law))
    return kind, numbers


def normal_initializer(std: float, *, per_fan_in: bool = False) -> InitializerNumbers:
    """Normal entries of standard deviation `std`, or of std / sqrt(fan_in)."""
    fans = _PER_FAN_IN if per_fan_in else _PER_WEIGHT
    law = jnp.float32(_NORMAL)
    return InitializerNumbers(jnp.float32(std**2), jnp.float32(fans), law)


def init_weight(
    kind: Kind, numbers: InitializerNumbers, shape: tuple[int, ...], key: PRNGKeyArray
) -> Float[Array, "..."]:
    """One weight, [fan_in, fan_out] or a kernel [height, width, inputs, outputs].

    A kernel's fans count its height and width, and it is orthogonal as the matrix
    [height * width * inputs, outputs].
    """
    *receptive_field, num_inputs, num_outputs = shape
    field = math.prod(receptive_field)
    fan_in, fan_out = field * num_inputs, field * num_outputs
    fan = numbers.fans @ jnp.array([1.0, fan_in, fan_out])
    sigma = jnp.sqrt(numbers.gain / fan)
    if kind == "orthogonal":
        return sigma * orthogonal(key, fan_in, num_outputs).reshape(shape)
    above_minus_one = np.nextafter(np.float32(-1), np.float32(0))
    u = jax.random.uniform(key, shape, minval=above_minus_one, maxval=1.0)
    a_uniform, a_normal, c = numbers.law
    return sigma * (a_uniform * u + a_normal * jax.lax.erf_inv(c * u))
