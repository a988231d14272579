"""What an estimator of meta-gradients is, and the metrics that all of them report."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float, PRNGKeyArray

from meta_train.system import Theta

EstimatorState = Any  # a pytree of arrays; lanes lie along the leading axis


class Estimate(NamedTuple):
    """One estimate of the meta-gradient.

    Attributes:
      grad: like theta. Averaged over the windows of an episode its expectation is the
        gradient of the mean loss per step of that episode.
      loss: mean loss per step over lanes and this window, guarded (see `guard`).
      metrics: scalar diagnostics by name.
    """

    grad: Theta
    loss: Float[Array, ""]
    metrics: dict[str, Float[Array, ""]]


@runtime_checkable
class Estimator(Protocol):
    """Two pure functions, in the shape of an optax transform."""

    def init(self, theta: Theta, key: PRNGKeyArray) -> EstimatorState:
        """Start all lanes."""
        ...

    def estimate(
        self, theta: Theta, state: EstimatorState, key: PRNGKeyArray
    ) -> tuple[Estimate, EstimatorState]:
        """Advance all lanes by one window and estimate the gradient at ``theta``."""
        ...
