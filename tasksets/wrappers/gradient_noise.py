"""gradient_noise: a gradient with independent normal noise on every entry.

    g = gradient + std * e,    e ~ N(0, I), anew for every key

The value of the loss is unchanged; a second derivative is that of the loss.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.task import Params, Task
from tasksets.wrappers.gradient import ModifiedGradientProblem, normal_like
from tasksets.wrappers.wrapper import Wrapper, is_positive, require


class GradientNoiseNumbers(NamedTuple):
    """What this wrapper adds to the numbers."""

    std: Float[Array, "*lanes"]


@dataclass(frozen=True)
class GradientNoiseProblem(ModifiedGradientProblem):
    """A problem with a noisy gradient."""

    def modify(
        self, own: GradientNoiseNumbers, gradient: Params, key: PRNGKeyArray
    ) -> Params:
        add = lambda g, e: (g + own.std * e).astype(g.dtype)
        return jax.tree.map(add, gradient, normal_like(gradient, key))


@dataclass(frozen=True)
class GradientNoise(Wrapper):
    """Adds noise to the gradient."""

    keyword: ClassVar[str] = "gradient_noise"
    std: float  # of the noise on an entry, in units of the gradient

    def __post_init__(self) -> None:
        require(is_positive(self.std), self, "std is positive and finite")

    def wrap(self, task: Task) -> tuple[GradientNoiseProblem, GradientNoiseNumbers]:
        std = jnp.float32(self.std)
        return GradientNoiseProblem(task.problem), GradientNoiseNumbers(std)
