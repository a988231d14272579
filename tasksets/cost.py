"""What a computation costs, counted and not timed: the same on every machine.

    gradient_operations(task)             of one batch, the loss and its gradient
    operations(function, *arguments)      of any function that can be traced

So what is left out as too dear does not depend on where a run is.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
from jaxtyping import PRNGKeyArray

from tasksets.task import Params, Task

# What only moves numbers, or is free once fused.
_FREE = frozenset(
    "reshape broadcast_in_dim squeeze transpose iota convert_element_type".split()
)


class Operations(NamedTuple):
    """Floating-point operations.

    Attributes:
      products: in matrix products and convolutions, 2 for a multiply and add.
      entries: one for every number that anything else computes; what narrow networks
        spend their time on.
    """

    products: int
    entries: int

    @property
    def total(self) -> int:
        return self.products + self.entries


def gradient_operations(task: Task) -> Operations:
    """Of drawing a batch and taking the gradient of its loss."""

    def step(task: Task, params: Params, key: PRNGKeyArray) -> Any:
        batch_key, loss_key = jax.random.split(key)
        batch = task.batch("train", batch_key)
        return jax.value_and_grad(task.loss)(params, batch, loss_key)

    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(Task.init, task, key)
    return operations(step, task, params, key)


def operations(function: Callable[..., Any], *arguments: Any) -> Operations:
    """Of ``function(*arguments)``, loops included.

    The body of a loop that runs until a condition holds counts once, since nobody knows
    how often it will run; of several branches the dearest counts.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> Operations:
    return _sum(_count_one(equation) for equation in jaxpr.eqns)


def _count_one(equation: Any) -> Operations:
    name, params = equation.primitive.name, equation.params
    inner = [_count(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "scan":
        products, entries = _sum(inner)
        return Operations(params["length"] * products, params["length"] * entries)
    if name == "cond":
        return Operations(*map(max, zip(*inner, strict=True)))
    if inner:
        return _sum(inner)
    size = sum(math.prod(out.aval.shape) for out in equation.outvars)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return Operations(2 * size * math.prod(shape[axis] for axis in contracted), 0)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        channels = kernel[params["dimension_numbers"].rhs_spec[0]]
        return Operations(2 * size * (math.prod(kernel) // channels), 0)
    return Operations(0, 0 if name in _FREE else size)


def _sum(parts: Iterable[Operations]) -> Operations:
    products, entries = 0, 0
    for part in parts:
        products, entries = products + part.products, entries + part.entries
    return Operations(products, entries)


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The computations that are parameters of an operation."""
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner
