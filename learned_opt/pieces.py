"""Large tensors in pieces, so that a network of every parameter fits into memory.

A network turns each parameter into dozens of numbers. For all parameters of a large
tensor at once these are many times the model's memory, and on a CPU they leave its
caches. So a tensor is cut, and the pieces are worked on one after the other.

An axis of length ``a * k`` is folded to ``[a, k]`` and piece ``j`` is ``[:, j]``: rows from
all over the tensor. Where the tensor is spread over devices by blocks of rows, each has its
part of every piece, and nothing has to move: ``a`` is a multiple of their number.
"""

import math
from collections.abc import Callable, Sequence
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
    most = _ON_CPU if jax.default_backend() == "cpu" else _ON_ACCELERATOR
    cut = _cut(shape, most, jax.device_count())
    if cut is None or any(map(is_sharded, arrays)):
        return _filled(f(*arrays), shape)
    axis, count = cut
    if rest := _rest(shape, axis, count, most):
        return _apart(f, shape, axis, shape[axis] - rest, arrays)
    place = axis - len(shape)  # from the end, as arrays may have leading axes
    folded = [_fold(x, place, count, shape[axis]) for x in arrays]
    of_piece = (*shape[:axis], shape[axis] // count, *shape[axis + 1 :])

    def piece(j: Int[Array, ""]) -> tuple[Any, Any]:
        parts = [
            x if whole else jax.lax.dynamic_index_in_dim(x, j, x.ndim + place, False)
            for x, whole in folded
        ]
        return _filled(f(*parts), of_piece)

    def step(carry: tuple[Any, Any], j: Int[Array, ""]) -> tuple[tuple[Any, Any], None]:
        outputs, sums = piece(j)
        filled, so_far = carry

        def put(into: Array, x: Array) -> Array:
            return jax.lax.dynamic_update_index_in_dim(into, x, j, into.ndim + place)

        return (
            jax.tree.map(put, filled, outputs),
            jax.tree.map(jnp.add, so_far, sums),
        ), None

    outputs, sums = jax.eval_shape(piece, jnp.int32(0))

    def room(x: jax.ShapeDtypeStruct) -> Array:
        before = x.ndim + place + 1
        return _zeros((*x.shape[:before], count, *x.shape[before:]), x)

    start = (
        jax.tree.map(room, outputs),
        jax.tree.map(lambda x: _zeros(x.shape, x), sums),
    )
    (filled, summed), _ = jax.lax.scan(step, start, jnp.arange(count))

    def unfold(x: Array) -> Array:
        return x.reshape(*x.shape[: x.ndim - len(shape) - 1], *shape)

    return jax.tree.map(unfold, filled), summed


def _cut(shape: tuple[int, ...], most: int, devices: int) -> tuple[int, int] | None:
    """The axis to cut and into how many pieces, to come nearest to ``most`` elements.

    The last axis is left whole, since its elements lie side by side; None: no cut. Of an
    axis that ``devices`` could have parts of, each has as much of every piece.
    """
    size = math.prod(shape)
    if size <= 2 * most:
        return None
    cuts = [
        (axis, count)
        for axis, length in enumerate(shape[:-1])
        for count in _divisors(length)
        if length // count % math.gcd(length, devices) == 0
    ]
    return min(cuts, key=lambda x: abs(math.log(size / x[1] / most)), default=None)


def _rest(shape: tuple[int, ...], axis: int, count: int, most: int) -> int:
    """How many rows to do apart, where an axis has few divisors and pieces are crumbs."""
    size, length = math.prod(shape), shape[axis]
    if size // count >= most // 8:
        return 0
    return length % (size // most)


def _apart(
    f: Callable[..., tuple[Any, Any]],
    shape: tuple[int, ...],
    axis: int,
    length: int,
    arrays: Sequence[Array],
) -> tuple[Any, Any]:
    """`map_and_sum` of the first rows along an axis, and of those after ``length``."""
    place = axis - len(shape)

    def part(begin: int, end: int) -> tuple[Any, Any]:
        cut = lambda x: jax.lax.slice_in_dim(x, begin, end, axis=x.ndim + place)
        own = [cut(x) if x.shape[place] == shape[axis] else x for x in arrays]
        shape_of_part = (*shape[:axis], end - begin, *shape[axis + 1 :])
        return map_and_sum(f, shape_of_part, *own)

    (first, sums), (last, more) = part(0, length), part(length, shape[axis])
    join = lambda x, y: jnp.concatenate([x, y], axis=x.ndim + place)
    return jax.tree.map(join, first, last), jax.tree.map(jnp.add, sums, more)


def _zeros(shape: tuple[int, ...], like: jax.ShapeDtypeStruct) -> Array:
    """Zeros that differ over the axes of a `jax.shard_map` as what is put there does."""
    zeros, kind = jnp.zeros(shape, like.dtype), like.manual_axis_type
    varying = tuple(kind.varying) if kind is not None else ()
    return jax.lax.pcast(zeros, varying, to="varying") if varying else zeros


def _divisors(n: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(n) + 1) if n % d == 0]
    return sorted({*small, *(n // d for d in small)})


def _fold(x: Array, place: int, count: int, length: int) -> tuple[Array, bool]:
    """With an axis of ``length`` as two, or as it is; and whether that is so."""
    at = x.ndim + place
    if x.shape[at] != length:
        return x, True
    return x.reshape(*x.shape[:at], -1, count, *x.shape[at + 1 :]), False


def _full(x: Array, shape: tuple[int, ...]) -> Array:
    """``[..., *shape]``, repeating ``x`` along axes of the shape that it has 1 long."""
    return jnp.broadcast_to(x, (*x.shape[: x.ndim - len(shape)], *shape))


def total(x: Array, shape: tuple[int, ...]) -> Array:
    """The sum over a tensor of that shape, ``[...]``, of what `_full` makes an array."""
    return jnp.sum(_full(x, shape), axis=tuple(range(x.ndim - len(shape), x.ndim)))


def _filled(results: tuple[Any, Any], shape: tuple[int, ...]) -> tuple[Any, Any]:
    """What a tensor, or a piece of it, contributes to the results of `map_and_sum`."""
    outputs, summed = results
    return (
        jax.tree.map(lambda x: _full(x, shape), outputs),
        jax.tree.map(lambda x: total(x, shape), summed),
    )


def is_sharded(x: Array) -> bool:
    """Whether its type says that it is spread over devices: then only XLA may cut it."""
    return any(name is not None for name in jax.typeof(x).sharding.spec)
