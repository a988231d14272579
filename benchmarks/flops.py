"""Counting the floating-point operations of a traced function, loops included.

`count`: those of matrix products and convolutions, 2 for a multiply and add. `entries`:
the numbers that everything else computes, which is what narrow networks spend their time
on. A `scan` counts as often as it runs, a `while` once, a `cond` as its dearest branch.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

# Products, which `count` has, and what moves numbers or costs nothing once fused.
_FREE = (
    "dot_general",
    "conv_general_dilated",
    "reshape",
    "broadcast_in_dim",
    "squeeze",
    "transpose",
    "iota",
    "convert_element_type",
)


def count(function: Callable[..., Any], *arguments: Any) -> int:
    """Operations in matrix products and convolutions of `function(*arguments)`."""
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: core.Jaxpr) -> int:
    return sum(_count_equation(equation) for equation in jaxpr.eqns)


def _count_equation(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = parameters["dimension_numbers"]
        left = equation.invars[0].aval.shape
        depth = math.prod(left[axis] for axis in contracted)
        return 2 * depth * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        outputs = kernel[parameters["dimension_numbers"].rhs_spec[0]]
        per_output = math.prod(kernel) // outputs
        return 2 * per_output * math.prod(equation.outvars[0].aval.shape)
    inner = [_count(jaxpr) for jaxpr in _jaxprs(parameters)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (parameters["length"] if name == "scan" else 1)


def entries(function: Callable[..., Any], *arguments: Any) -> int:
    """Numbers computed outside of products, not counting those only moved or cast."""
    return _entries(jax.make_jaxpr(function)(*arguments).jaxpr)


def _entries(jaxpr: core.Jaxpr) -> int:
    return sum(_entries_of_equation(equation) for equation in jaxpr.eqns)


def _entries_of_equation(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    inner = [_entries(jaxpr) for jaxpr in _jaxprs(parameters)]
    if inner and name == "cond":
        return max(inner)
    if inner:
        return sum(inner) * (parameters["length"] if name == "scan" else 1)
    if name in _FREE:
        return 0
    return sum(math.prod(variable.aval.shape) for variable in equation.outvars)


def _jaxprs(parameters: dict[str, Any]) -> list[core.Jaxpr]:
    found = []
    for value in parameters.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr):
                found.append(item.jaxpr)
            elif isinstance(item, core.Jaxpr):
                found.append(item)
    return found
