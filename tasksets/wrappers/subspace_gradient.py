"""subspace_gradient: what n random directions tell about the gradient.

    g = 1/n sum_i e_i <e_i, gradient>          sign=false
    g = 1/n sum_i e_i sign(<e_i, gradient>)    sign=true,    e_i ~ N(0, I)

The limit of evolution strategies for small perturbations. The first is unbiased for any
n. The directions are new for every key.

No direction is ever drawn: with u = gradient / |gradient| and a_i = <e_i, u>, which are
standard normal, what is left of the e_i across u is independent of the a_i, so that

    g = |gradient|/n (A u + sqrt(A) z),    A = sum_i a_i^2      sign=false
    g = 1/n (B u + sqrt(n) z),             B = sum_i |a_i|      sign=true

with one normal z across u has exactly the law of g above, at a cost that does not grow
with n times the number of parameters.

The value of the loss is unchanged; a second derivative is that of the last two lines,
and so not that of the first two in a fixed basis.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from tasksets.task import Params, Task
from tasksets.wrappers.gradient import (
    ModifiedGradientProblem,
    direction_and_norm,
    inner_product,
    normal_like,
)
from tasksets.wrappers.wrapper import Wrapper, require


@dataclass(frozen=True)
class SubspaceGradientProblem(ModifiedGradientProblem):
    """A problem whose gradient is seen along random directions."""

    directions: int
    sign: bool

    def modify(self, own: tuple[()], gradient: Params, key: PRNGKeyArray) -> Params:
        del own
        along_key, across_key = jax.random.split(key)
        u, norm = direction_and_norm(gradient)
        a = jax.random.normal(along_key, (self.directions,))
        e = normal_like(gradient, across_key)
        e_along = inner_product(e, u)
        n = self.directions
        if self.sign:
            # sign(0) is 0: where there is no gradient, there is none.
            some = (norm > 0).astype(jnp.float32)
            along = some * jnp.sum(jnp.abs(a)) / n
            across = some / jnp.sqrt(n)
        else:
            square = jnp.sum(a**2)
            along = norm * square / n
            across = norm * jnp.sqrt(square) / n
        combine = lambda u, e, g: (along * u + across * (e - e_along * u)).astype(
            g.dtype
        )
        return jax.tree.map(combine, u, e, gradient)


@dataclass(frozen=True)
class SubspaceGradient(Wrapper):
    """Replaces the gradient by what random directions see of it."""

    keyword: ClassVar[str] = "subspace_gradient"
    directions: int  # the n above; logint 1-1024 in VeLO
    sign: bool  # whether only the sign is seen along each; 50/50 in VeLO

    def __post_init__(self) -> None:
        require(self.directions >= 1, self, "directions is at least 1")

    def wrap(self, task: Task) -> tuple[SubspaceGradientProblem, tuple[()]]:
        return SubspaceGradientProblem(task.problem, self.directions, self.sign), ()
