"""The layout of GPU kernels: tensors as they are, small networks compiled once a shape.

What an optimizer does beside its network is left to XLA, as in `PerTensor`; how a network
becomes a kernel is told in `kernels`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int

from learned_opt import pieces
from learned_opt.layout import Field, PerTensor


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class Entry:
    """The number of one tensor, not yet taken out of those of all.

    Attributes:
      values: those of all tensors.
      index: of the tensor.
    """

    values: Float[Array, "... tensors"]
    index: Int[Array | np.ndarray, "1"]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    def take(self, shape: tuple[int, ...]) -> Array:
        """It, as an array that is repeated over a tensor of this shape."""
        own = jnp.take(self.values, self.index[0], axis=-1)
        return own.reshape(*own.shape, *(1,) * len(shape))


class Kernels(PerTensor):
    """`PerTensor` whose small networks are kernels of their own on NVIDIA GPUs.

    For compiled updates on one device. Donate the state: it is written in place, and what
    is still needed is copied first (so is a state that a condition may bring back).

    It is `PerTensor` on other platforms, outside of `jax.jit`, inside `jax.shard_map`, and
    where types say that an array is sharded; arrays that are sharded without that are
    gathered. A compiled update has no derivatives, and is exported for one platform at a
    time.
    """

    _interpret = False

    def spread(self, values: Float[Array, "... tensors"]) -> Field:
        # Taken out by the kernel: for XLA that is a program for each tensor.
        indices = np.arange(len(self.shapes), dtype=np.int32)[:, None]
        return self._treedef.unflatten(Entry(values, i) for i in indices)

    def map(self, f: Callable[..., Any], *fields: Field) -> Any:
        return super().map(f, *map(self._taken, fields))

    def map_in_pieces(
        self, f: Callable[..., tuple[Any, Any]], *fields: Field
    ) -> tuple[Any, Any]:
        return super().map_in_pieces(f, *map(self._taken, fields))

    def unravel(self, field: Field) -> Any:
        return self._taken(field)

    def mean(self, field: Field) -> Float[Array, "... tensors"]:
        return super().mean(self._taken(field))

    def _taken(self, field: Field) -> Field:
        """With arrays for entries."""
        leaves = zip(self._treedef.flatten_up_to(field), self.shapes, strict=True)
        return self._treedef.unflatten(
            x.take(shape) if isinstance(x, Entry) else x for x, shape in leaves
        )

    def map_network(
        self, f: Callable[..., Any], *fields: Field, state: Sequence[Field] = ()
    ) -> Any:
        plain = functools.partial(PerTensor.map_network, self, f)
        alone = lambda *x: (f(*x), [])
        kernel = lambda *x: self._by_kernels(alone, *x, replaced=len(state))[0]
        return self._choose(plain, kernel, *fields, *state)

    def map_and_mean(
        self,
        f: Callable[..., tuple[Any, Any]],
        *fields: Field,
        state: Sequence[Field] = (),
    ) -> tuple[Any, Any]:
        plain = functools.partial(PerTensor.map_and_mean, self, f)
        kernel = functools.partial(self._by_kernels, f, replaced=len(state))
        return self._choose(plain, kernel, *fields, *state)

    def mean_squares(
        self, f: Callable[..., Sequence[Array]], *fields: Field
    ) -> Float[Array, "outputs tensors"]:
        plain = functools.partial(PerTensor.mean_squares, self, f)
        summed = lambda *x: ([], [jnp.square(y) for y in f(*x)])
        kernel = lambda *x: jnp.stack(self._by_kernels(summed, *x)[1])
        return self._choose(plain, kernel, *fields)

    def _choose(
        self, plain: Callable[..., Any], kernel: Callable[..., Any], *fields: Field
    ) -> Any:
        leaves = jax.tree.leaves(fields)
        if self._interpret:
            return kernel(*fields)
        if not any(isinstance(x, Tracer) for x in leaves) or _is_spread_out(leaves):
            return plain(*map(self._taken, fields))
        return jax.lax.platform_dependent(*fields, cuda=kernel, default=plain)

    def _by_kernels(
        self, f: Callable[..., tuple[Any, Any]], *fields: Field, replaced: int = 0
    ) -> tuple[Any, Any]:
        from learned_opt import kernels  # pallas takes a while to import

        prepared: dict[Any, Callable[..., tuple[Any, Any]]] = {}

        def run(shape: tuple[int, ...], *arrays: Array | Entry) -> tuple[Any, Any]:
            if not kernels.fits(shape, *arrays):
                taken = [x.take(shape) if isinstance(x, Entry) else x for x in arrays]
                return pieces.map_and_sum(f, shape, *taken)
            if shape not in prepared:
                prepared[shape] = kernels.prepare(
                    f, shape, *arrays, replaced=replaced, interpret=self._interpret
                )
            return prepared[shape](*arrays)

        return self._each(run, *fields)


def _is_spread_out(arrays: Sequence[Array]) -> bool:
    """Whether arrays are, by their types or the code around, parts on several devices."""
    manual = jax.sharding.get_abstract_mesh().manual_axes
    return bool(manual) or any(map(pieces.is_sharded, arrays))
