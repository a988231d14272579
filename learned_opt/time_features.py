"""How many updates were made, as eleven bounded numbers (Metz et al. 2019, 1810.10180).

    bounded    tanh(t / s - 1)        periodic    sin(t / (pi s))

with s = 1, 3, 10, ..., 1e5. They are the same for all parameters of a model: a network
takes them in as part of its first bias, which costs nothing per parameter.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from learned_opt import network

_SCALES = np.array([1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4, 1e5])
NUM_FEATURES = len(_SCALES)


def bounded(step: Int[Array, ""]) -> Float[Array, "11"]:
    """Soft switches, one per scale: from -.76 at the first update to 1."""
    return jnp.tanh(step.astype(jnp.float32) / _SCALES - 1.0)


def periodic(step: Int[Array, ""]) -> Float[Array, "11"]:
    """Waves, one per scale, each within +-1."""
    return jnp.sin(step.astype(jnp.float32) / (_SCALES * np.pi))


def into_bias(
    layers: tuple[network.Dense, ...], time: Float[Array, "time"]
) -> tuple[network.Dense, ...]:
    """The network without its last inputs, which become part of the first bias."""
    first, *rest = layers
    own = first.w.shape[0] - time.size
    return (network.Dense(first.w[:own], first.b + time @ first.w[own:]), *rest)
