"""Large tensors in pieces, so that a network of every parameter fits into memory.

A network turns each parameter into dozens of numbers. For all parameters of a large
tensor at once these are many times the model's memory, and on a CPU they leave its
caches. So a tensor is cut, and the pieces are worked on one after the other.

An axis of length ``a * k`` is folded to ``[a, k]`` and piece ``j`` is ``[:, j]``: rows from
all over the tensor. Where the tensor is spread over (fewer than ``a``) devices by blocks of
rows, each has its part of every piece, and nothing has to move.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

_ON_CPU, _ON_ACCELERATOR = 2**13, 2**20  # elements: 32 floats each are 1 and 128 MB


def map_and_sum(
    f: Callable[..., tuple[Any, Any]], shape: tuple[int, ...], *arrays: Array
) -> tuple[Any, Any]:
    """An elementwise function of a tensor, in pieces where the tensor is large.

    Args:
      f: of arrays like ``arrays``; gives what to return, and what only to sum.
      shape: of the tensor.
      *arrays: each ``[..., *shape]``, some axes of ``shape`` perhaps 1 long.

    Returns:
      The first, ``[..., *shape]``, and sums of the second over the tensor, ``[...]``.
    """
    cut = _cut(shape, _ON_CPU if jax.default_backend() == "cpu" else _ON_ACCELERATOR)
    if cut is None or any(map(_is_sharded, arrays)):
        outputs, summed = f(*arrays)
        return outputs, _sums(summed, len(shape))
    axis, count = cut
    place = axis - len(shape)  # from the end, as arrays may have leading axes
    folded = [_fold(x, place, count, shape[axis]) for x in arrays]

    def piece(j: Int[Array, ""]) -> tuple[Any, Any]:
        parts = [
            x if whole else jax.lax.dynamic_index_in_dim(x, j, x.ndim + place, False)
            for x, whole in folded
        ]
        outputs, summed = f(*parts)
        return outputs, _sums(summed, len(shape))

    def step(carry: tuple[Any, Any], j: Int[Array, ""]) -> tuple[tuple[Any, Any], None]:
        outputs, sums = piece(j)
        filled, total = carry

        def put(into: Array, x: Array) -> Array:
            return jax.lax.dynamic_update_index_in_dim(into, x, j, into.ndim + place)

        return (
            jax.tree.map(put, filled, outputs),
            jax.tree.map(jnp.add, total, sums),
        ), None

    outputs, sums = jax.eval_shape(piece, jnp.int32(0))

    def room(x: jax.ShapeDtypeStruct) -> Array:
        before = x.ndim + place + 1
        return jnp.zeros((*x.shape[:before], count, *x.shape[before:]), x.dtype)

    start = (
        jax.tree.map(room, outputs),
        jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), sums),
    )
    (filled, total), _ = jax.lax.scan(step, start, jnp.arange(count))

    def unfold(x: Array) -> Array:
        return x.reshape(*x.shape[: x.ndim - len(shape) - 1], *shape)

    return jax.tree.map(unfold, filled), total


def _cut(shape: tuple[int, ...], most: int) -> tuple[int, int] | None:
    """The axis to cut and into how many pieces, to come nearest to ``most`` elements.

    The last axis is left whole, since its elements lie side by side; None: no cut.
    """
    size = math.prod(shape)
    if size <= 2 * most:
        return None
    cuts = [
        (axis, count)
        for axis, length in enumerate(shape[:-1])
        for count in _divisors(length)
    ]
    return min(cuts, key=lambda x: abs(math.log(size / x[1] / most)), default=None)


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def _fold(x: Array, place: int, count: int, length: int) -> tuple[Array, bool]:
    """With an axis of ``length`` as two, or as it is; and whether that is so."""
    at = x.ndim + place
    if x.shape[at] != length:
        return x, True
    return x.reshape(*x.shape[:at], -1, count, *x.shape[at + 1 :]), False


def _sums(summed: Any, rank: int) -> Any:
    """Over the last ``rank`` axes of every array."""
    return jax.tree.map(
        lambda x: jnp.sum(x, axis=tuple(range(x.ndim - rank, x.ndim))), summed
    )


def _is_sharded(x: Array) -> bool:
    """Whether its type says that it is spread over devices: then only XLA may cut it."""
    return any(name is not None for name in jax.typeof(x).sharding.spec)
