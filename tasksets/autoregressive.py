"""Masked autoregressive bijectors (Papamakarios et al. 2017, arXiv 1705.07057).

    z_j = (x_j - t_j(x_{<j})) exp(-s_j(x_{<j})),    log |det dz/dx| = -sum_j s_j

All t and s come from one pass through MADE (Germain et al. 2015, arXiv 1502.03509), a
network of dense layers in which every unit has a degree and is connected to the units
before it of no greater one. Input j has degree j, the two outputs for j have j - 1,
and the degrees of a hidden layer are spread evenly over 0 .. dims - 2. The way from
noise to data takes one pass for every variable.

s is clipped to [-5, 3], and its gradient is not: a variable that left the interval
finds back.
"""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tasksets.activations import activate
from tasksets.dense import Layers, apply_mlp, init_mlp
from tasksets.flows import BijectorNumbers
from tasksets.initializers import Kind

_LOWEST_LOG_SCALE, _HIGHEST_LOG_SCALE = -5.0, 3.0


@dataclass(frozen=True)
class MaskedAutoregressive:
    """Each variable, shifted and scaled by what the variables before it say."""

    hidden: tuple[int, ...]
    initializer: Kind

    def init(
        self, numbers: BijectorNumbers, num_dims: int, key: PRNGKeyArray
    ) -> Layers:
        sizes = (num_dims, *self.hidden, 2 * num_dims)
        layers = init_mlp(sizes, self.initializer, numbers.initializer, key)
        # Weights without effect are zero, as no gradient would ever move them.
        return _mask(layers, num_dims)

    def to_noise(
        self, numbers: BijectorNumbers, params: Layers, x: Float[Array, "batch dims"]
    ) -> tuple[Float[Array, "batch dims"], Float[Array, "batch"]]:
        t, s = _shift_and_log_scale(numbers, _mask(params, x.shape[-1]), x)
        return (x - t) * jnp.exp(-s), -jnp.sum(s, axis=-1)

    def to_data(
        self, numbers: BijectorNumbers, params: Layers, z: Float[Array, "batch dims"]
    ) -> Float[Array, "batch dims"]:
        layers = _mask(params, z.shape[-1])

        def settle_one_more(_: int, x: Float[Array, "batch dims"]) -> Array:
            t, s = _shift_and_log_scale(numbers, layers, x)
            return z * jnp.exp(s) + t

        return jax.lax.fori_loop(0, z.shape[-1], settle_one_more, jnp.zeros_like(z))

    def keeps(self, num_dims: int) -> Bool[np.ndarray, "dims"]:
        return np.zeros(num_dims, bool)


def _shift_and_log_scale(
    numbers: BijectorNumbers, masked: Layers, x: Float[Array, "batch dims"]
) -> tuple[Float[Array, "batch dims"], Float[Array, "batch dims"]]:
    outputs = apply_mlp(masked, x, partial(activate, numbers.activation))
    shift, log_scale = jnp.split(outputs, 2, axis=-1)
    clipped = jnp.clip(log_scale, _LOWEST_LOG_SCALE, _HIGHEST_LOG_SCALE)
    with_its_gradient = log_scale - jax.lax.stop_gradient(log_scale)
    return shift, jax.lax.stop_gradient(clipped) + with_its_gradient


def _mask(layers: Layers, num_dims: int) -> Layers:
    """The layers without the weights that lead to a lower degree.

    The masks are comparisons of degrees where they are used; stored, those of a wide
    network would be as large as its weights.
    """
    in_order = [layers[f"layer_{i}"] for i in range(len(layers))]
    degrees = [jnp.arange(num_dims)]
    degrees += [_spread(layer["b"].shape[0], num_dims) for layer in in_order[:-1]]
    degrees += [jnp.tile(jnp.arange(num_dims) - 1, 2)]
    masked = {}
    for i, layer in enumerate(in_order):
        is_connected = degrees[i][:, None] <= degrees[i + 1]
        weight = jnp.where(is_connected, layer["w"], 0.0)
        masked[f"layer_{i}"] = {"w": weight, "b": layer["b"]}
    return masked


def _spread(width: int, num_dims: int) -> Array:
    """The degrees of a hidden layer: the middles of `width` equal parts."""
    return (2 * jnp.arange(width) + 1) * (num_dims - 1) // (2 * width)
