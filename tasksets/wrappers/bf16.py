"""bf16: the loss in bfloat16, the parameters in float32.

    loss'(params) = float32(loss(bfloat16(params), bfloat16(batch)))

Every float that goes in is bfloat16: parameters, inputs, and the numbers of the task
(a float32 number would, by jax's rules of promotion, make float32 of all it meets). So
networks compute in it, forwards and backwards. What is summed over classes, pixels, tokens
and the batch is float32, as is usual in mixed precision: between 2 and 4 bfloat16 knows
losses to 1/64 only, too coarse to estimate a gradient by. The parameters outside and, by
the cast's derivative, the gradient are float32. VeLO keeps the parameters in bfloat16 too.
Problems without a network (quadratics, losg) are bfloat16 to the last sum, but for what
they make of float32 constants.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from tasksets.task import Batch, Params, Task
from tasksets.wrappers.wrapper import WrappedNumbers, WrappedProblem, Wrapper


@dataclass(frozen=True)
class Bf16Problem(WrappedProblem):
    """A problem that computes in bfloat16."""

    def loss(
        self, numbers: WrappedNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        inner = _cast_numbers(numbers.inner)
        loss = self.inner.loss(inner, _cast(params), _cast(batch), key)
        return loss.astype(jnp.float32)

    def metrics(
        self, numbers: WrappedNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, ""]]:
        inner = _cast_numbers(numbers.inner)
        metrics = self.inner.metrics(inner, _cast(params), _cast(batch), key)
        return {name: value.astype(jnp.float32) for name, value in metrics.items()}


def _cast(tree: PyTree) -> PyTree:
    is_float = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
    return jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16) if is_float(leaf) else leaf, tree
    )


def _cast_numbers(numbers: Any) -> Any:
    """Casts a family's numbers; wrappers see to the types of what they compute.

    A scale that `init` divides by and `loss` multiplies by must be one number.
    """
    if isinstance(numbers, WrappedNumbers):
        return numbers._replace(inner=_cast_numbers(numbers.inner))
    return _cast(numbers)


@dataclass(frozen=True)
class Bf16(Wrapper):
    """Computes the loss in bfloat16."""

    keyword: ClassVar[str] = "bf16"

    def wrap(self, task: Task) -> tuple[Bf16Problem, tuple[()]]:
        return Bf16Problem(task.problem), ()
