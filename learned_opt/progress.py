"""How far a run has come, as nine bounded numbers (VeLO; Metz et al. 2022, 2211.09760).

    tanh(10 (t / T - c)),   c = .03, .1, .2, .4, .6, .8, .9, 1, 1.1

Each is a soft switch at one point of the run; the last two tell how far it has gone past
its end.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

NUM_FEATURES = 9
_CENTRES = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1], np.float32)


def features(step: Int[Array, ""], num_steps: Float[Array, ""]) -> Float[Array, "9"]:
    """The nine features after ``step`` of ``num_steps`` updates, each within +-1."""
    return jnp.tanh(10.0 * (step.astype(jnp.float32) / num_steps - _CENTRES))
