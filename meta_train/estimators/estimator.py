"""What an estimator of meta-gradients is, and the metrics that all of them report."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meta_train.system import Theta

EstimatorState = Any  # a pytree of arrays; lanes lie along the leading axis


class Estimate(NamedTuple):
    """One estimate of the meta-gradient.

    Attributes:
      grad: like theta. Averaged over the windows of an episode its expectation is the
        gradient of the mean loss per step of that episode.
      loss: mean loss per step over lanes and this window, guarded (see `guard`).
      metrics: scalar diagnostics by name; may be empty.
    """

    grad: Theta
    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]


def spread(
    grad: Float[Array, "theta"], mean_square: Float[Array, ""], num_lanes: int
) -> dict[str, Float[Array, ""]]:
    """How far the lanes of one estimate are apart.

    Args:
      grad: mean over lanes.
      mean_square: mean over lanes of the squared norm of a lane's estimate.
      num_lanes: lanes, which are taken to be independent.

    Returns:
      ``grad_std``: root of the trace of one lane's covariance; ``snr``: squared norm of
      the gradient over the variance of the mean over lanes, both estimated without bias,
      so around 0 where there is only noise, and 0 where all lanes estimate zero, as
      where all losses are capped. Not a number with a single lane.
    """
    square = jnp.sum(grad**2)
    variance = (mean_square - square) * num_lanes / (num_lanes - 1 or jnp.nan)
    variance = jnp.maximum(variance, 0.0)
    noise = variance / num_lanes
    snr = jnp.where(square > 0, (square - noise) / noise, 0.0)
    return {"grad_std": jnp.sqrt(variance), "snr": snr}


@runtime_checkable
class Estimator(Protocol):
    """Two pure functions, in the shape of an optax transform.

    One that is given to a compiled step (`outer.make_step`) is a pytree, so that the data
    within are no constants of the program.
    """

    def init(self, theta: Theta, key: PRNGKeyArray) -> EstimatorState:
        """Start all lanes."""
        ...

    def estimate(
        self, theta: Theta, state: EstimatorState, key: PRNGKeyArray
    ) -> tuple[Estimate, EstimatorState]:
        """Advance all lanes by one window and estimate the gradient at ``theta``."""
        ...
