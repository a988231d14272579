"""How a model's tensors lie in memory while an optimizer works on them.

An optimizer is written once, against three operations on *fields* (a field holds one
number per parameter): ``map`` an elementwise function, take the ``mean`` over each
tensor, ``spread`` one number per tensor over its elements. Two layouts give them:

* `PerTensor` keeps the pytree. State inherits shapes and shardings from the
  parameters, nothing is gathered, so this is what the public transform uses.
* `Flat` concatenates all tensors into one vector. A step is then a handful of fused
  loops whatever the number of tensors, which is several times faster for the small
  models of meta-training, on CPU (SIMD over one long axis) and GPU (few launches).

A field may carry leading axes (``[features, *shape]`` or ``[features, params]``).
"""

import abc
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

# Float[Array, "... params"] when flat, a pytree of [..., *shape] per tensor
Field = Any

_FEW_TENSORS = 16  # up to here, selecting among them is cheap


class Layout(abc.ABC):
    """The operations an optimizer may use; see the module docstring.

    Attributes:
      shapes: the shape of each tensor, in the order of ``jax.tree.leaves``.
    """

    shapes: tuple[tuple[int, ...], ...]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of elements of each tensor, ``[tensors]``."""
        return tuple(math.prod(shape) for shape in self.shapes)

    @abc.abstractmethod
    def ravel(self, tree: Any) -> Field:
        """The field that holds the same numbers as a pytree of tensors."""

    @abc.abstractmethod
    def unravel(self, field: Field) -> Any:
        """The pytree of tensors that holds the same numbers as a field."""

    @abc.abstractmethod
    def map(self, f: Callable[..., Any], *fields: Field) -> Any:
        """Apply an elementwise ``f``: its output, with a field at each leaf."""

    @abc.abstractmethod
    def mean(self, field: Field) -> Float[Array, "... tensors"]:
        """Mean over the elements of each tensor (0 for an empty one)."""

    @abc.abstractmethod
    def spread(self, values: Float[Array, "... tensors"]) -> Field:
        """A field that repeats each tensor's value over its elements."""


class PerTensor(Layout):
    """Every tensor keeps its own array: the layout of the public transform."""

    def __init__(self, params: Any):
        leaves, self._treedef = jax.tree.flatten(params)
        self.shapes = tuple(tuple(jnp.shape(leaf)) for leaf in leaves)

    def ravel(self, tree: Any) -> Field:
        return tree

    def unravel(self, field: Field) -> Any:
        return field

    def map(self, f: Callable[..., Any], *fields: Field) -> Any:
        columns = [self._treedef.flatten_up_to(field) for field in fields]
        outputs = [f(*leaves) for leaves in zip(*columns, strict=True)]
        if not outputs:  # a model without tensors: only the structure is needed
            structure = jax.eval_shape(f, *(jnp.zeros(()) for _ in fields))
            return jax.tree.map(lambda _: self._treedef.unflatten([]), structure)
        return jax.tree.map(lambda *xs: self._treedef.unflatten(xs), *outputs)

    def mean(self, field: Field) -> Float[Array, "... tensors"]:
        leaves = self._treedef.flatten_up_to(field)
        means = [
            jnp.sum(x, axis=tuple(range(x.ndim - len(shape), x.ndim))) / max(size, 1)
            for x, shape, size in zip(leaves, self.shapes, self.sizes, strict=True)
        ]
        return jnp.stack(means, axis=-1) if means else jnp.zeros((0,))

    def spread(self, values: Float[Array, "... tensors"]) -> Field:
        return self._treedef.unflatten(
            values[..., i].reshape(values.shape[:-1] + (1,) * len(shape))
            for i, shape in enumerate(self.shapes)
        )


class Flat(Layout):
    """All tensors in one vector ``[params]``: the layout of meta-training."""

    def __init__(self, params: Any):
        leaves, self._treedef = jax.tree.flatten(params)
        self.shapes = tuple(tuple(jnp.shape(leaf)) for leaf in leaves)
        self._ends = tuple(int(end) for end in np.cumsum(self.sizes))

    def _split(self, field: Field) -> list[Array]:
        pairs = zip(self._ends, self.sizes, strict=True)
        return [field[..., end - size : end] for end, size in pairs]

    def ravel(self, tree: Any) -> Field:
        leaves = self._treedef.flatten_up_to(tree)
        if not leaves:
            return jnp.zeros((0,))
        lead = leaves[0].ndim - len(self.shapes[0])
        flat = [x.reshape(x.shape[:lead] + (-1,)) for x in leaves]
        return jnp.concatenate(flat, axis=-1)

    def unravel(self, field: Field) -> Any:
        return self._treedef.unflatten(
            piece.reshape(piece.shape[:-1] + shape)
            for piece, shape in zip(self._split(field), self.shapes, strict=True)
        )

    def map(self, f: Callable[..., Any], *fields: Field) -> Any:
        return f(*fields)

    def mean(self, field: Field) -> Float[Array, "... tensors"]:
        means = [
            jnp.sum(piece, axis=-1) / max(piece.shape[-1], 1)
            for piece in self._split(field)
        ]
        return jnp.stack(means, axis=-1) if means else jnp.zeros((0,))

    def spread(self, values: Float[Array, "... tensors"]) -> Field:
        # Measured on CPU: selects fuse into what uses [features, params], where
        # concatenation breaks the loop; for one row of numbers it is the other way.
        if values.ndim > 1 and 0 < len(self.sizes) <= _FEW_TENSORS:
            return self._select(values)
        return self._concatenate(values)

    def _select(self, values: Float[Array, "... tensors"]) -> Field:
        index = np.arange(sum(self.sizes))
        field = values[..., :1]
        for i, start in enumerate(self._ends[:-1], 1):
            field = jnp.where(index >= start, values[..., i : i + 1], field)
        return jnp.broadcast_to(field, (*values.shape[:-1], index.size))

    def _concatenate(self, values: Float[Array, "... tensors"]) -> Field:
        pieces = [
            jnp.broadcast_to(values[..., i : i + 1], (*values.shape[:-1], size))
            for i, size in enumerate(self.sizes)
        ]
        return jnp.concatenate(pieces, axis=-1)
