"""es_gradient: a gradient estimated by antithetic evolution strategies.

    g = 1/n sum_i e_i (loss(x + std e_i) - loss(x - std e_i)) / (2 std),  e_i ~ N(0, I)

Unbiased for the gradient of the loss smoothed by N(0, std^2 I); for a quadratic that is
the gradient of the loss. Both losses of a pair share batch and key. Nothing is
differentiated, so the loss inside need not be differentiable.

The value of the loss is unchanged; a second derivative is that of g at fixed e_i.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.task import Batch, Params, Task
from tasksets.wrappers.gradient import GradientProblem, normal_like
from tasksets.wrappers.wrapper import WrappedNumbers, Wrapper, is_positive, require


class EsGradientNumbers(NamedTuple):
    """What this wrapper adds to the numbers."""

    std: Float[Array, "*lanes"]


@dataclass(frozen=True)
class EsGradientProblem(GradientProblem):
    """A problem whose gradient is an estimate."""

    pairs: int

    def value_and_gradient(
        self, numbers: WrappedNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, ""], Params]:
        inner_loss = lambda params: self.inner.loss(numbers.inner, params, batch, key)
        std = numbers.own.std

        def add_pair(total: Params, pair_key: PRNGKeyArray) -> tuple[Params, None]:
            e = normal_like(params, pair_key)
            moved = lambda by: jax.tree.map(
                lambda p, e: (p + by * e).astype(p.dtype), params, e
            )
            slope = (inner_loss(moved(std)) - inner_loss(moved(-std))) / (2 * std)
            return jax.tree.map(lambda t, e: t + slope * e, total, e), None

        # One pair at a time, because the lanes of a stack fill a device already, and
        # the memory should not grow with the number of pairs.
        zero = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        keys = jax.random.split(self.own_key(key), self.pairs)
        total, _ = jax.lax.scan(add_pair, zero, keys)
        mean = jax.tree.map(
            lambda t, p: (t / self.pairs).astype(p.dtype), total, params
        )
        return inner_loss(params), mean


@dataclass(frozen=True)
class EsGradient(Wrapper):
    """Replaces the gradient by an estimate of evolution strategies."""

    keyword: ClassVar[str] = "es_gradient"
    std: float  # of a perturbation, in units of the parameters; logU(.001, .1) in VeLO
    pairs: int  # the n above; one of 1, 2, 4, 8, 16 in VeLO

    def __post_init__(self) -> None:
        require(is_positive(self.std), self, "std is positive and finite")
        require(self.pairs >= 1, self, "pairs is at least 1")

    def wrap(self, task: Task) -> tuple[EsGradientProblem, EsGradientNumbers]:
        std = jnp.float32(self.std)
        return EsGradientProblem(task.problem, self.pairs), EsGradientNumbers(std)
