"""Affine coupling, the bijector of Real NVP (Dinh et al. 2017, arXiv 1605.08803).

    x = (x_a, x_b),    z = (x_a, (x_b - t(x_a)) exp(-s(x_a)))
    log |det dz/dx| = -sum s(x_a)

x_a is the first half, rounded down. One network of dense layers gives t and s, in this
order. s is unbounded, so that wide initializers start at losses of any size.
"""

from dataclasses import dataclass
from functools import partial

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from tasksets.activations import activate
from tasksets.dense import Layers, apply_mlp, init_mlp
from tasksets.flows import BijectorNumbers
from tasksets.initializers import Kind


@dataclass(frozen=True)
class AffineCoupling:
    """Half of the variables, shifted and scaled by what the other half says."""

    hidden: tuple[int, ...]
    initializer: Kind

    def init(
        self, numbers: BijectorNumbers, num_dims: int, key: PRNGKeyArray
    ) -> Layers:
        half = num_dims // 2
        sizes = (half, *self.hidden, 2 * (num_dims - half))
        return init_mlp(sizes, self.initializer, numbers.initializer, key)

    def to_noise(
        self, numbers: BijectorNumbers, params: Layers, x: Float[Array, "batch dims"]
    ) -> tuple[Float[Array, "batch dims"], Float[Array, "batch"]]:
        x_a, x_b = jnp.split(x, [x.shape[-1] // 2], axis=-1)
        t, s = self._shift_and_log_scale(numbers, params, x_a)
        z = jnp.concatenate([x_a, (x_b - t) * jnp.exp(-s)], axis=-1)
        return z, -jnp.sum(s, axis=-1)

    def to_data(
        self, numbers: BijectorNumbers, params: Layers, z: Float[Array, "batch dims"]
    ) -> Float[Array, "batch dims"]:
        z_a, z_b = jnp.split(z, [z.shape[-1] // 2], axis=-1)
        t, s = self._shift_and_log_scale(numbers, params, z_a)
        return jnp.concatenate([z_a, z_b * jnp.exp(s) + t], axis=-1)

    def keeps(self, num_dims: int) -> Bool[np.ndarray, "dims"]:
        return np.arange(num_dims) < num_dims // 2

    def _shift_and_log_scale(
        self, numbers: BijectorNumbers, params: Layers, x_a: Float[Array, "batch half"]
    ) -> tuple[Float[Array, "batch rest"], Float[Array, "batch rest"]]:
        outputs = apply_mlp(params, x_a, partial(activate, numbers.activation))
        shift, log_scale = jnp.split(outputs, 2, axis=-1)
        return shift, log_scale
