"""Small networks of every parameter as GPU kernels, compiled once for each shape.

XLA compiles such a network anew for each tensor, and may make several kernels of it that
write what lies between its layers to memory. A kernel of
`pallas <https://docs.jax.dev/en/latest/pallas>`_ is closed: nothing is merged with it, and
tensors of equal shape share it.

A kernel's program works on some hundred elements of the tensor, wherever they are in its
shape. It has them, and all that lies between, in registers. What the network closes over
(its weights, the step) is computed outside and handed over as one vector. Triton's maximum
drops NaN; here it is kept (`_evaluate`), so that a run that has failed does not go on.

This is a Triton kernel. Jax 0.11.2 and later warn that they will drop Triton some day;
`learned_opt.PerTensor` does without.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import pallas
from jax.experimental.pallas import triton
from jax.extend.core import ClosedJaxpr, Literal
from jaxtyping import Array, Bool, Float, Int

from learned_opt.kernel_layout import Entry

_BLOCK = 512  # elements of a program: four for each of its threads
_WARPS = 4
_LARGEST = 2**31 - _BLOCK  # positions are int32
# What calls a function, and where that is.
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr"}


def fits(shape: tuple[int, ...], *arrays: Array | Entry) -> bool:
    """Whether a kernel can work on a tensor of this shape, and on these arrays of it."""
    sizes = [math.prod(x.shape) for x in arrays]
    return 0 < math.prod(shape) and max(math.prod(shape), *sizes) < _LARGEST


def prepare(
    f: Callable[..., tuple[Any, Any]],
    shape: tuple[int, ...],
    *arrays: Float[Array, "..."] | Entry,
    replaced: int = 0,
    interpret: bool = False,
) -> Callable[..., tuple[Any, Any]]:
    """An elementwise function of a tensor as a kernel.

    Args:
      f: gives what to return, and what only to sum. Where an array has leading axes, it
        gets a tuple of entries (nested, for more than one); it may close over numbers, and
        arrays that it takes apart to numbers.
      shape: of the tensor; see `fits`.
      *arrays: each ``[..., *shape]``, some axes of ``shape`` perhaps 1 long; or an
        `Entry`, whose values are ``[..., tensors]``. All float32; only shapes are used.
      replaced: so many of the last arrays are replaced by the last of what ``f`` returns,
        and may be overwritten.
      interpret: runs on any platform, slowly.

    Returns:
      A function of arrays of these shapes. It gives what `pieces.map_and_sum` does: the
      first, ``[*shape]``, and sums of the second over the tensor.

    Raises:
      ValueError: ``f`` reads an array that it closes over as a whole.
    """
    views = [_view(x, shape) for x in arrays]
    jaxpr, results = jax.make_jaxpr(f, return_shape=True)(
        *[v.abstract() for v in views]
    )
    numbers, network = _without_constants(jaxpr)
    (outputs, out_tree), (sums, sum_tree) = map(jax.tree.flatten, results)
    size = math.prod(shape)
    programs = -(-size // _BLOCK)

    def kernel(index_ref: Any, numbers_ref: Any, *refs: Any) -> None:
        inputs, made = refs[: len(views)], refs[len(views) :]
        program = pallas.program_id(0)
        position = program * _BLOCK + jnp.arange(_BLOCK, dtype=jnp.int32)
        exists = position < size
        block = _Block(position, exists, index_ref[0])
        pairs = zip(views, inputs, strict=True)
        values = [view.load(ref, block) for view, ref in pairs]
        constants = [numbers_ref[i] for i in range(numbers.size)]
        results = network(*constants, *jax.tree.leaves(values))
        results = [jnp.broadcast_to(x, (_BLOCK,)) for x in results]
        fields, summed = results[: len(outputs)], results[len(outputs) :]
        for ref, x in zip(made[: len(outputs)], fields, strict=True):
            triton.store(ref.at[position], x, mask=exists)
        for i, x in enumerate(summed):
            made[-1][program * len(sums) + i] = jnp.sum(jnp.where(exists, x, 0.0))

    made = [jax.ShapeDtypeStruct((size,), jnp.float32) for _ in outputs]
    made += [jax.ShapeDtypeStruct((programs * len(sums),), jnp.float32)] if sums else []
    first_input, first_output = 2 + len(views) - replaced, len(outputs) - replaced
    call = pallas.pallas_call(
        kernel,
        grid=(programs,),
        out_shape=made,
        input_output_aliases={
            first_input + i: first_output + i for i in range(replaced)
        },
        interpret=interpret,
        compiler_params=triton.CompilerParams(num_warps=_WARPS),
        name="network",
    )

    @jax.jit  # traced once for all tensors of a shape
    def run(
        index: Int[Array, "1"], numbers: Float[Array, "numbers"], *arrays: Array
    ) -> tuple[Any, Any]:
        made = call(index, numbers, *(x.reshape(-1) for x in arrays))
        fields = [x.reshape(shape) for x in made[: len(outputs)]]
        partial = made[-1].reshape(programs, len(sums)) if sums else jnp.zeros((1, 0))
        totals = jnp.unstack(jnp.sum(partial, axis=0))
        filled = jax.tree.unflatten(out_tree, fields)
        return filled, jax.tree.unflatten(sum_tree, totals)

    def apply(*arrays: Array | Entry) -> tuple[Any, Any]:
        indices = [x.index for x in arrays if isinstance(x, Entry)]
        index = indices[0] if indices else np.zeros(1, np.int32)
        arrays = tuple(x.values if isinstance(x, Entry) else x for x in arrays)
        return run(index, numbers, *arrays)

    return apply


class _Block(NamedTuple):
    """The elements that a program works on."""

    position: Int[Array, "block"]  # in the tensor, as if it were a vector
    exists: Bool[Array, "block"]  # the last block may be longer than what is left
    index: Int[Array, ""]  # of the tensor among all


@dataclasses.dataclass(frozen=True)
class _Number:
    """Every tensor's number; those of the elements are the same.

    Attributes:
      lead: leading axes.
      tensors: how many there are.
    """

    lead: tuple[int, ...]
    tensors: int

    def abstract(self) -> Any:
        """What stands for the array while a function is traced."""
        number = jax.ShapeDtypeStruct((), jnp.float32)
        return _nest(self.lead, lambda i: number)

    def load(self, ref: Any, block: _Block) -> Any:
        """The number of the block's tensor."""
        return _nest(self.lead, lambda i: ref[i * self.tensors + block.index])


@dataclasses.dataclass(frozen=True)
class _Elements:
    """How the elements of a tensor find theirs in an array ``[*lead, *own]``.

    Attributes:
      lead: leading axes.
      own: the others; each as long as the tensor's, or 1.
      shape: the tensor's.
    """

    lead: tuple[int, ...]
    own: tuple[int, ...]
    shape: tuple[int, ...]

    def abstract(self) -> Any:
        """What stands for the array while a function is traced."""
        block = jax.ShapeDtypeStruct((_BLOCK,), jnp.float32)
        return _nest(self.lead, lambda i: block)

    def load(self, ref: Any, block: _Block) -> Any:
        """The entries of the block's elements, of those that exist."""
        place, size = self._place(block.position), math.prod(self.own)
        read = functools.partial(triton.load, mask=block.exists, other=0.0)
        return _nest(self.lead, lambda i: read(ref.at[place + i * size]))

    def _place(self, position: Int[Array, "block"]) -> Int[Array, "block"]:
        place, stride, own_stride = jnp.zeros_like(position), 1, 1
        for length, repeated in reversed(self._axes()):
            if not repeated:
                along = (
                    jax.lax.div(position, jnp.int32(stride)) if stride > 1 else position
                )
                if stride * length < math.prod(self.shape):
                    along = jax.lax.rem(along, jnp.int32(length))
                place, own_stride = place + along * own_stride, own_stride * length
            stride *= length
        return place

    def _axes(self) -> list[tuple[int, bool]]:
        """The length of each axis, and whether the array repeats along it; few are left."""
        axes: list[tuple[int, bool]] = []
        for length, own in zip(self.shape, self.own, strict=True):
            if length > 1 and axes and axes[-1][1] == (own == 1):
                axes[-1] = (axes[-1][0] * length, own == 1)
            elif length > 1:
                axes.append((length, own == 1))
        return axes


def _view(x: Array | Entry, shape: tuple[int, ...]) -> _Number | _Elements:
    if isinstance(x, Entry):
        return _Number(x.shape[:-1], x.shape[-1])
    lead = len(x.shape) - len(shape)
    return _Elements(x.shape[:lead], x.shape[lead:], shape)


def _nest(lead: tuple[int, ...], entry: Callable[[int], Any]) -> Any:
    """Nested tuples like an array of these axes, of its flat positions' entries."""

    def nest(x: Any) -> Any:
        return tuple(map(nest, x)) if isinstance(x, list) else entry(x)

    return nest(np.arange(math.prod(lead)).reshape(lead).tolist())


def _without_constants(
    closed: ClosedJaxpr,
) -> tuple[Float[Array, "numbers"], Callable[..., list[Array]]]:
    """What a function closes over, as numbers, and the function of them and its arguments.

    All that does not depend on the arguments is computed here, so that what the function
    reads is numbers: an entry of the weights, not the weights.
    """
    jaxpr = closed.jaxpr
    known, outside, inside = set(jaxpr.constvars), [], []
    for equation in jaxpr.eqns:
        read = [x for x in equation.invars if not _is_literal_number(x)]
        of_known = all(isinstance(x, Literal) or x in known for x in read)
        # To repeat a number for all elements is the kernel's.
        repeats = equation.primitive.name == "broadcast_in_dim"
        if read and of_known and not repeats:
            outside.append(equation)
            known.update(equation.outvars)
        else:
            inside.append(equation)
    used = [x for e in inside for x in e.invars if not isinstance(x, Literal)]
    used += [x for x in jaxpr.outvars if not isinstance(x, Literal)]
    needed = [x for x in dict.fromkeys(used) if x in known]
    for x in needed:
        if x.aval.shape or x.aval.dtype != jnp.float32:
            raise ValueError(
                "a kernel's function may close over float32 numbers, or arrays that it "
                f"takes apart to such numbers; this one reads {x.aval} as a whole."
            )
    pick = functools.partial(_function, closed, known=list(jaxpr.constvars))
    numbers = pick(outside, [], needed)(*closed.consts)
    vector = jnp.stack(numbers) if numbers else jnp.zeros((1,))
    f = _function(closed, inside, list(jaxpr.invars), jaxpr.outvars, known=needed)
    if not numbers:  # Triton takes no empty array: the vector still has an entry
        return vector, lambda nothing, *x: f(*x)
    return vector, f


def _function(
    closed: ClosedJaxpr,
    equations: Sequence[Any],
    arguments: list[Any],
    results: Sequence[Any],
    *,
    known: list[Any],
) -> Callable[..., list[Array]]:
    """The function of ``known`` and arguments that some of the equations make."""
    jaxpr = closed.jaxpr.replace(
        constvars=[],
        invars=[*known, *arguments],
        outvars=list(results),
        eqns=list(equations),
    )
    return lambda *x: _evaluate(jaxpr, (), x)


def _is_literal_number(x: Any) -> bool:
    return isinstance(x, Literal) and np.ndim(x.val) == 0


def _evaluate(
    jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]
) -> list[Any]:
    """What a jaxpr computes, with maxima and minima that keep NaN wherever it runs."""
    values = dict(zip(jaxpr.constvars, constants, strict=True))
    values |= dict(zip(jaxpr.invars, arguments, strict=True))
    read = lambda x: x.val if isinstance(x, Literal) else values[x]
    for equation in jaxpr.eqns:
        inputs, name = [read(x) for x in equation.invars], equation.primitive.name
        if name in _CALLS:
            called = equation.params[_CALLS[name]]
            outputs = _evaluate(called.jaxpr, called.consts, inputs)
        elif name in ("max", "min"):
            x, y = inputs
            first = x > y if name == "max" else x < y
            outputs = [jnp.where(first | (x != x), x, y)]
        else:
            made = equation.primitive.bind(*inputs, **equation.params)
            outputs = made if equation.primitive.multiple_results else [made]
        values |= dict(zip(equation.outvars, outputs, strict=True))
    return [read(x) for x in jaxpr.outvars]
