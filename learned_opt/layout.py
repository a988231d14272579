"""How a model's tensors lie in memory while an optimizer works on them.

An optimizer is written once, against three operations on *fields* (a field holds one
number per parameter): ``map`` an elementwise function, take the ``mean`` over each
tensor, ``spread`` one number per tensor over its elements. Three layouts give them:

* `PerTensor` keeps the pytree. State inherits shapes and shardings from the
  parameters, nothing is gathered, so this is what the public transform uses.
* `Flat` concatenates all tensors into one vector. A step is then a handful of fused
  loops whatever the number of tensors, which is several times faster for the small
  models of meta-training, on CPU (SIMD over one long axis) and GPU (few launches).
* `Kernels` is `PerTensor` with GPU kernels for what holds a small network (``map_network``
  and what is averaged); see `kernel_layout`.

A field may carry leading axes (``[features, *shape]`` or ``[features, params]``).

A tensor of rank over 1 is also a stack of matrices, made of its two longest axes. Means
over rows and over columns are fields themselves, one entry per row or column: of the
layouts ``rows`` and ``columns``, which keep a list of arrays where the layout keeps a
pytree, and one vector where it keeps one.

What else depends on a tensor's axes (a matrix product) is done on ``tensors``, each in
its own shape, and the results are joined to a ``field``.
"""

import abc
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from learned_opt import cutting, pieces

# Float[Array, "... params"] when flat, a pytree of [..., *shape] per tensor
Field = Any

_FEW_TENSORS = 16  # up to here, selecting among them is cheap
_MANY_TENSORS = 32  # from here, `Flat` does not give each its own code
_BLOCK = 64  # elements


class Layout(abc.ABC):
    """The operations an optimizer may use; see the module docstring.

    Attributes:
      shapes: the shape of each tensor, in the order of ``jax.tree.leaves``.
    """

    shapes: tuple[tuple[int, ...], ...]
    _treedef: Any

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each tensor, a plain tuple in their order."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @functools.cached_property
    def rows(self) -> "Layout":
        """The layout of one number per row: the longest axis of each tensor is 1.

        Every entry of a tensor of rank 0 or 1 is a row, and a column, of its own.
        """
        return self._of_lines(
            [_placeholder(shape, _longest(shape)) for shape in self.shapes]
        )

    @functools.cached_property
    def columns(self) -> "Layout":
        """The layout of one number per column: the second longest axis is 1."""
        return self._of_lines(
            [_placeholder(shape, _second(shape)) for shape in self.shapes]
        )

    @abc.abstractmethod
    def _of_lines(self, lines: list[jax.ShapeDtypeStruct]) -> "Layout":
        """The layout of the same kind for what is left of each tensor."""

    def row_means(self, field: Field) -> Field:
        """Means over the longest axis of each tensor (0 of an empty axis)."""
        pairs = zip(self.tensors(field), self.shapes, strict=True)
        return self.rows.field([_mean_over(x, _longest(s), len(s)) for x, s in pairs])

    def column_means(self, field: Field) -> Field:
        """Means over the second longest axis of each tensor, as `row_means`."""
        pairs = zip(self.tensors(field), self.shapes, strict=True)
        return self.columns.field([_mean_over(x, _second(s), len(s)) for x, s in pairs])

    def spread_rows(self, values: Field) -> Field:
        """A field that repeats each row's value over the row."""
        return self._repeat(self.rows.tensors(values))

    def spread_columns(self, values: Field) -> Field:
        """A field that repeats each column's value over the column."""
        return self._repeat(self.columns.tensors(values))

    @abc.abstractmethod
    def _repeat(self, tensors: list[Array]) -> Field:
        """The field of tensors with axes of length 1 that are to be repeated."""

    @abc.abstractmethod
    def ravel(self, tree: Any) -> Field:
        """The field that holds the same numbers as a pytree of tensors."""

    @abc.abstractmethod
    def unravel(self, field: Field) -> Any:
        """The pytree of tensors that holds the same numbers as a field."""

    def tensors(self, field: Field) -> list[Array]:
        """The tensors of a field, each ``[..., *shape]``, in the order of ``shapes``."""
        return self._treedef.flatten_up_to(self.unravel(field))

    def field(self, tensors: Sequence[Array]) -> Field:
        """The field made of these tensors, the inverse of `tensors`."""
        return self.ravel(self._treedef.unflatten(tensors))

    @abc.abstractmethod
    def map(self, f: Callable[..., Any], *fields: Field) -> Any:
        """Apply an elementwise ``f``: its output, with a field at each leaf."""

    @abc.abstractmethod
    def mean(self, field: Field) -> Float[Array, "... tensors"]:
        """Mean over the elements of each tensor (0 for an empty one)."""

    @abc.abstractmethod
    def means(
        self, f: Callable[..., Sequence[Array]], *fields: Field
    ) -> Float[Array, "outputs tensors"]:
        """Means of each output of an elementwise ``f``, none of which is kept.

        As in `map_network`, ``f`` may be given tuples in place of leading axes.
        """

    @abc.abstractmethod
    def mean_squares(
        self, f: Callable[..., Sequence[Array]], *fields: Field
    ) -> Float[Array, "outputs tensors"]:
        """Mean squares of each output of an elementwise ``f``; otherwise as `means`."""

    @abc.abstractmethod
    def map_in_pieces(
        self, f: Callable[..., tuple[Any, Any]], *fields: Field
    ) -> tuple[Any, Any]:
        """`map` for an ``f`` with large intermediate results, as a network has.

        Args:
          f: elementwise; gives what to return as fields, and what only to average.
          *fields: its arguments.

        Returns:
          The first with a field at each leaf, and the means of the second over each
          tensor, ``[..., tensors]``.
        """

    def map_network(
        self, f: Callable[..., Any], *fields: Field, state: Sequence[Field] = ()
    ) -> Any:
        """`map` for an ``f`` with a small network, written out (`network.unrolled`).

        Args:
          f: elementwise, of ``fields`` and ``state``. It is also given tuples in place of
            leading axes: it may index them, and take them apart by `network.entries`. All
            it returns has the shape of a tensor.
          *fields: its arguments, float32.
          state: more of them, without leading axes; what ``f`` returns ends with their
            successors, which may be written in their place.

        Returns:
          What ``f`` does, with a field at each leaf.
        """
        return self.map(f, *fields, *state)

    def map_and_mean(
        self,
        f: Callable[..., tuple[Any, Any]],
        *fields: Field,
        state: Sequence[Field] = (),
    ) -> tuple[Any, Any]:
        """`map_network` for an ``f`` that also gives what only to average.

        Returns:
          The first with a field at each leaf, and the means of the second over each
          tensor, ``[tensors]``.
        """
        outputs, averaged = self.map(f, *fields, *state)
        return outputs, jax.tree.map(self.mean, averaged, is_leaf=self._is_field)

    @abc.abstractmethod
    def _is_field(self, x: Any) -> bool:
        """Whether a part of what `map` returns is a field."""

    @abc.abstractmethod
    def spread(self, values: Float[Array, "... tensors"]) -> Field:
        """A field that repeats each tensor's value over its elements.

        It is for the operations of the layout: `Kernels` has no arrays there.
        """


class PerTensor(Layout):
    """Every tensor keeps its own array: the layout of the public transform."""

    def __init__(self, params: Any):
        leaves, self._treedef = jax.tree.flatten(params)
        self.shapes = tuple(tuple(jnp.shape(leaf)) for leaf in leaves)

    def ravel(self, tree: Any) -> Field:
        return tree

    def _is_field(self, x: Any) -> bool:
        return jax.tree.structure(x) == self._treedef

    def unravel(self, field: Field) -> Any:
        return field

    def map(self, f: Callable[..., Any], *fields: Field) -> Any:
        columns = [self._treedef.flatten_up_to(field) for field in fields]
        if any(isinstance(x, Tracer) for x in jax.tree.leaves(columns)):
            f = jax.jit(f)  # traced once for all tensors of a shape
        outputs = [f(*leaves) for leaves in zip(*columns, strict=True)]
        if not outputs:  # a model without tensors: only the structure is needed
            structure = jax.eval_shape(f, *(jnp.zeros(()) for _ in fields))
            return jax.tree.map(lambda _: self._treedef.unflatten([]), structure)
        return jax.tree.map(lambda *xs: self._treedef.unflatten(xs), *outputs)

    def mean(self, field: Field) -> Float[Array, "... tensors"]:
        leaves = self._treedef.flatten_up_to(field)
        means = [
            # A float, since 2^31 is too large for an integer that meets an array.
            pieces.total(x, shape) / float(max(size, 1))
            for x, shape, size in zip(leaves, self.shapes, self.sizes, strict=True)
        ]
        return jnp.stack(means, axis=-1) if means else jnp.zeros((0,))

    def means(
        self, f: Callable[..., Sequence[Array]], *fields: Field
    ) -> Float[Array, "outputs tensors"]:
        # One by one: stacked, they would fill memory with all outputs at once.
        return jnp.stack(self.map_and_mean(lambda *x: ((), list(f(*x))), *fields)[1])

    def mean_squares(
        self, f: Callable[..., Sequence[Array]], *fields: Field
    ) -> Float[Array, "outputs tensors"]:
        # In pieces, since what is squared may be an input of a network as well: XLA would
        # make it once for both, and keep it.
        squares = lambda *x: (None, [jnp.square(y) for y in f(*x)])
        return jnp.stack(self.map_in_pieces(squares, *fields)[1])

    def map_in_pieces(
        self, f: Callable[..., tuple[Any, Any]], *fields: Field
    ) -> tuple[Any, Any]:
        return self._each(functools.partial(pieces.map_and_sum, f), *fields)

    def _each(
        self, f: Callable[..., tuple[Any, Any]], *fields: Field
    ) -> tuple[Any, Any]:
        """`map_in_pieces` by an ``f`` of a tensor's shape and arrays, that sums itself."""
        columns = [self._treedef.flatten_up_to(field) for field in fields]
        pairs = [f(*row) for row in zip(self.shapes, *columns, strict=True)]
        outputs, sums = zip(*pairs, strict=True)
        sizes = np.maximum(self.sizes, 1).astype(np.float32)
        return (
            jax.tree.map(lambda *xs: self._treedef.unflatten(xs), *outputs),
            jax.tree.map(lambda *xs: jnp.stack(xs, axis=-1) / sizes, *sums),
        )

    def spread(self, values: Float[Array, "... tensors"]) -> Field:
        return self._treedef.unflatten(
            values[..., i].reshape(values.shape[:-1] + (1,) * len(shape))
            for i, shape in enumerate(self.shapes)
        )

    def _of_lines(self, lines: list[jax.ShapeDtypeStruct]) -> Layout:
        # Of no tensors, one leaf: optax has it stand for all that is not like parameters.
        return PerTensor(lines) if lines else Flat(lines)

    def _repeat(self, tensors: list[Array]) -> Field:
        return self._treedef.unflatten(tensors)


class Flat(Layout):
    """All tensors in one vector ``[params]``: the layout of meta-training.

    From 32 tensors on, each fills a whole number of blocks. What is done tensor by tensor
    is then done block by block, by code that is compiled once (see `cutting`). The rest of
    a tensor's last block belongs to nobody, and may hold anything.

    Args:
      params: tensors, or what has their shapes.
      block: elements of a block; chosen by the number of tensors unless given.
    """

    def __init__(self, params: Any, block: int | None = None):
        leaves, self._treedef = jax.tree.flatten(params)
        self.shapes = tuple(tuple(jnp.shape(leaf)) for leaf in leaves)
        self._many = len(self.shapes) >= _MANY_TENSORS and sum(self.sizes) > 0
        self._block = block or (_BLOCK if self._many else 1)
        block = self._block
        self._blocks = tuple(-(-size // block) for size in self.sizes)
        ends = np.cumsum(self._blocks, dtype=int) * block
        self._starts = tuple(int(x) for x in ends - np.array(self._blocks) * block)

    @functools.cached_property
    def _tensor_of_block(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.shapes)), self._blocks)

    @functools.cached_property
    def _owned(self) -> np.ndarray:
        """How many elements of each block belong to its tensor, ``[blocks]``."""
        after = np.repeat(np.add(self._starts, self.sizes), self._blocks)
        return np.minimum(after - np.arange(after.size) * self._block, self._block)

    def _split(self, field: Field) -> list[Array]:
        if self._many:
            return cutting.cut(cutting.apart(field), self._starts, self.sizes)
        pairs = zip(self._starts, self.sizes, strict=True)
        return [field[..., start : start + size] for start, size in pairs]

    def ravel(self, tree: Any) -> Field:
        leaves = self._treedef.flatten_up_to(tree)
        if not leaves:
            return jnp.zeros((0,))
        lead = leaves[0].ndim - len(self.shapes[0])
        flat = [x.reshape(x.shape[:lead] + (-1,)) for x in leaves]
        padded = [_pad_last(x, -x.shape[-1] % self._block) for x in flat]
        return jnp.concatenate(padded, axis=-1)

    def unravel(self, field: Field) -> Any:
        return self._treedef.unflatten(
            piece.reshape(piece.shape[:-1] + shape)
            for piece, shape in zip(self._split(field), self.shapes, strict=True)
        )

    def map(self, f: Callable[..., Any], *fields: Field) -> Any:
        return f(*fields)

    def _is_field(self, x: Any) -> bool:
        return isinstance(x, jax.Array)

    def mean(self, field: Field) -> Float[Array, "... tensors"]:
        if self._block > 1:
            return self._mean_by_blocks(field)
        means = [
            jnp.sum(piece, axis=-1) / float(max(piece.shape[-1], 1))
            for piece in self._split(field)
        ]
        return jnp.stack(means, axis=-1) if means else jnp.zeros((0,))

    def _mean_by_blocks(self, field: Field) -> Float[Array, "... tensors"]:
        blocks = field.reshape(*field.shape[:-1], -1, self._block)
        owned = jnp.arange(self._block) < jnp.asarray(self._owned)[:, None]
        sums = jnp.sum(jnp.where(owned, blocks, 0.0), axis=-1)
        total = jax.ops.segment_sum(
            jnp.moveaxis(sums, -1, 0),
            self._tensor_of_block,
            num_segments=len(self.shapes),
            indices_are_sorted=True,
        )
        return jnp.moveaxis(total, 0, -1) / np.maximum(self.sizes, 1).astype(np.float32)

    def means(
        self, f: Callable[..., Sequence[Array]], *fields: Field
    ) -> Float[Array, "outputs tensors"]:
        return self.mean(jnp.stack(list(self.map(f, *fields))))

    def mean_squares(
        self, f: Callable[..., Sequence[Array]], *fields: Field
    ) -> Float[Array, "outputs tensors"]:
        # Squared once stacked: the stack may be an input of a network as well.
        return self.mean(jnp.square(jnp.stack(list(self.map(f, *fields)))))

    def map_in_pieces(
        self, f: Callable[..., tuple[Any, Any]], *fields: Field
    ) -> tuple[Any, Any]:
        # One piece: this layout is for small models, side by side in many lanes. A large
        # one needs memory for everything that ``f`` holds of every parameter.
        return self.map_and_mean(f, *fields)

    def _of_lines(self, lines: list[jax.ShapeDtypeStruct]) -> "Flat":
        return Flat(lines, block=1)

    def spread(self, values: Float[Array, "... tensors"]) -> Field:
        if self._block > 1:
            of_blocks = values[..., self._tensor_of_block, None]
            blocks = jnp.broadcast_to(of_blocks, (*of_blocks.shape[:-1], self._block))
            return blocks.reshape(*values.shape[:-1], -1)
        # Measured on CPU: selects fuse into what uses [features, params], where
        # concatenation breaks the loop; for one row of numbers it is the other way.
        if values.ndim > 1 and 0 < len(self.sizes) <= _FEW_TENSORS:
            return self._select(values)
        return self._concatenate(values)

    def _select(self, values: Float[Array, "... tensors"]) -> Field:
        index = np.arange(sum(self.sizes))
        field = values[..., :1]
        for i, start in enumerate(self._starts[1:], 1):
            field = jnp.where(index >= start, values[..., i : i + 1], field)
        return jnp.broadcast_to(field, (*values.shape[:-1], index.size))

    def _concatenate(self, values: Float[Array, "... tensors"]) -> Field:
        pieces = [
            jnp.broadcast_to(values[..., i : i + 1], (*values.shape[:-1], size))
            for i, size in enumerate(self.sizes)
        ]
        return jnp.concatenate(pieces, axis=-1)

    def _repeat(self, tensors: list[Array]) -> Field:
        pairs = zip(tensors, self.shapes, strict=True)
        return self.field(
            [
                jnp.broadcast_to(x, (*x.shape[: x.ndim - len(shape)], *shape))
                for x, shape in pairs
            ]
        )


def _longest(shape: tuple[int, ...]) -> int | None:
    """The longest axis, the last of equals; None for ranks 0 and 1."""
    return None if len(shape) < 2 else int(np.argsort(shape, kind="stable")[-1])


def _second(shape: tuple[int, ...]) -> int | None:
    """The second longest axis; None for ranks 0 and 1."""
    return None if len(shape) < 2 else int(np.argsort(shape, kind="stable")[-2])


def _placeholder(shape: tuple[int, ...], axis: int | None) -> jax.ShapeDtypeStruct:
    """An array of the shape that is left when one axis has been averaged to 1."""
    if axis is not None:
        shape = (*shape[:axis], 1, *shape[axis + 1 :])
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _pad_last(x: Array, count: int) -> Array:
    """With so many zeros after the end of the last axis."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, count)]) if count else x


def _mean_over(x: Array, axis: int | None, rank: int) -> Array:
    """The mean over an axis of the last ``rank`` ones, which becomes 1 long."""
    if axis is not None:
        size = x.shape[axis - rank]
        x = jnp.sum(x, axis=axis - rank, keepdims=True) / float(max(size, 1))
    return x
