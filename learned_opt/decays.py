"""Decays of running averages that are meta-learned (google/learned_optimization).

A decay ``d`` that starts at ``d0`` is moved by a meta-parameter ``o``, zero at first:

    log(1 - d) / 10 = log(1 - d0) / 10 + o

so equal steps of ``o`` are equal factors of the rate ``1 - d``. The factor 10 brings the
right size of a step near that of a network's weights.
"""

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from learned_opt import moments


def learned_rates(
    offsets: Float[Array, "decays"], initial_rates: ArrayLike
) -> Float[Array, "decays"]:
    """Rates ``1 - d``, in (0, 1], that meta-parameters say.

    Args:
      offsets: the meta-parameters ``o``; zero gives the initial rates.
      initial_rates: ``1 - d0``, each in (0, 1].
    """
    return moments.rate(
        jnp.log(jnp.asarray(initial_rates, jnp.float32)) + 10.0 * offsets
    )
