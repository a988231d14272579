"""What one training step of a task costs, counted and not timed.

    gradient_flops(task)    floating-point operations of one batch, loss and gradient

Counted in the traced computation: products and convolutions by their shapes, anything
else as one operation per number that it makes. The count is the same on every
machine, so that what is left out as too dear does not depend on where a run is.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import PRNGKeyArray

from tasksets.task import Params, Task


def gradient_flops(task: Task) -> float:
    """Operations in drawing a batch and taking the gradient of its loss.

    The body of a loop that runs until a condition holds counts once, since nobody knows
    how often it will run; of several branches the dearest counts.
    """

    def step(task: Task, params: Params, key: PRNGKeyArray) -> Any:
        batch_key, loss_key = jax.random.split(key)
        batch = task.batch("train", batch_key)
        return jax.value_and_grad(task.loss)(params, batch, loss_key)

    key = jax.eval_shape(lambda: jax.random.key(0))
    params = jax.eval_shape(Task.init, task, key)
    return _flops(jax.make_jaxpr(step)(task, params, key).jaxpr)


def _flops(jaxpr: Any) -> float:
    return sum(_flops_of(equation) for equation in jaxpr.eqns)


def _flops_of(equation: Any) -> float:
    name, params = equation.primitive.name, equation.params
    inner = [_flops(jaxpr) for jaxpr in _jaxprs(params)]
    if name == "scan":
        return params["length"] * sum(inner)
    if name == "cond":
        return max(inner)
    if inner:
        return sum(inner)
    size = sum(math.prod(out.aval.shape) for out in equation.outvars)
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        shape = equation.invars[0].aval.shape
        return 2 * size * math.prod(shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        out_channels = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * size * math.prod(kernel) / out_channels
    return size


def _jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """The computations that are parameters of an operation."""
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            inner = getattr(one, "jaxpr", one)
            if hasattr(inner, "eqns"):
                yield inner
