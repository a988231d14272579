"""Random numbers by position, for where a key for each would be too dear."""

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt


def mix(x: UInt[Array, "..."]) -> UInt[Array, "..."]:
    """The finalizer of MurmurHash3 (Appleby), on uint32."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def unit_interval(bits: UInt[Array, "..."]) -> Float[Array, "..."]:
    """Mixed bits as a number in [0, 1)."""
    return (bits >> 8).astype(jnp.float32) * 2.0**-24
