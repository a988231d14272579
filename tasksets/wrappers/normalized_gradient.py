"""normalized_gradient: only the direction of the gradient is known.

    g = gradient / |gradient|,    the norm over all tensors;    0 where it is 0

The value of the loss is unchanged; a second derivative is that of the direction, which
is (I - g g^T) H / |gradient| with H the Hessian of the loss.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import PRNGKeyArray

from tasksets.task import Params, Task
from tasksets.wrappers.gradient import ModifiedGradientProblem, direction_and_norm
from tasksets.wrappers.wrapper import Wrapper


@dataclass(frozen=True)
class NormalizedGradientProblem(ModifiedGradientProblem):
    """A problem whose gradient has length 1."""

    def modify(self, own: tuple[()], gradient: Params, key: PRNGKeyArray) -> Params:
        del own, key
        direction, _ = direction_and_norm(gradient)
        return jax.tree.map(lambda d, g: d.astype(g.dtype), direction, gradient)


@dataclass(frozen=True)
class NormalizedGradient(Wrapper):
    """Divides the gradient by its norm."""

    keyword: ClassVar[str] = "normalized_gradient"

    def wrap(self, task: Task) -> tuple[NormalizedGradientProblem, tuple[()]]:
        return NormalizedGradientProblem(task.problem), ()
