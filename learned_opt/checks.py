"""What an optimizer may be given, and errors that say what to do instead.

All of it is about structure, shapes and dtypes, none about numbers: a compiled program
does not contain these checks, and they work on abstract arrays.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# optax keeps this sentence private; users should meet the same one everywhere.
NO_PARAMS = (
    "You are using a transformation that requires the current value of parameters, "
    "but you are not passing `params` when calling `update`."
)


def require_trainable(params: Any) -> None:
    """Raises ValueError for a leaf that is not a real floating-point array."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        try:
            dtype = jnp.result_type(leaf)
        except TypeError:  # a function or a string: no number at all
            dtype = np.dtype(object)
        if jnp.issubdtype(dtype, jnp.floating):
            continue
        if jnp.issubdtype(dtype, jnp.complexfloating):
            fix = "wrap the transform: `optax.contrib.split_real_and_imaginary(tx)`."
        else:
            fix = (
                "leave it out, as `optax.masked` or `eqx.filter(model, "
                "eqx.is_inexact_array)` do."
            )
        raise ValueError(
            f"parameter {_name(path)} is {_dtype(leaf) or type(leaf).__name__}, and "
            f"only real floating-point numbers can be trained; {fix}"
        )


def require_gradients(updates: Any, params: Any) -> None:
    """Raises ValueError for gradients that are not those of the parameters."""
    structure = jax.tree.structure(params)
    if jax.tree.structure(updates) != structure:
        raise ValueError(
            "gradients and parameters differ in structure:\n"
            f"  gradients:  {jax.tree.structure(updates)}\n"
            f"  parameters: {structure}"
        )
    shapes = [jnp.shape(x) for x in jax.tree.leaves(updates)]
    _require_shapes(shapes, params, "its gradient has")


def require_slots(slots: tuple[Any, ...], params: Any) -> None:
    """Raises ValueError for fields, nested in tuples, of other parameters' shapes."""
    structure = jax.tree.structure(params)
    is_field = lambda x: jax.tree.structure(x) == structure
    for slot in jax.tree.leaves(slots, is_leaf=is_field):
        if not is_field(slot):
            raise ValueError(
                "the optimizer state was made for parameters of another structure than"
                f"\n  {structure}\ncall `init` again with these parameters."
            )
        shapes = [jnp.shape(x) for x in jax.tree.leaves(slot)]
        ranks = [jnp.ndim(p) for p in jax.tree.leaves(params)]
        pairs = zip(shapes, ranks, strict=True)
        lead = min((len(shape) - rank for shape, rank in pairs), default=0)
        own = [shape[max(lead, 0) :] for shape in shapes]  # a field may have more axes
        _require_shapes(own, params, "the optimizer state, made at `init`, holds")


@jax.tree_util.register_static
class MadeFor(NamedTuple):
    """What the parameters were at `init`, kept beside the arrays of the state.

    To jax all instances are equal, and without leaves: this is there for error messages,
    and must not make two states differ in structure (optax builds states of
    placeholders). To flax, which writes checkpoints, it is a tuple of strings.
    """

    dtypes: tuple[str | None, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MadeFor)

    def __ne__(self, other: object) -> bool:  # tuples have their own
        return not self == other

    def __hash__(self) -> int:
        return hash(MadeFor)

    @classmethod
    def of(cls, params: Any) -> "MadeFor":
        """From the leaves, in their order."""
        return cls(tuple(_dtype(leaf) for leaf in jax.tree.leaves(params)))

    def require(self, params: Any) -> None:
        """Raises ValueError for parameters of other dtypes, or of another number."""
        named = jax.tree_util.tree_leaves_with_path(params)
        if len(named) != len(self.dtypes):
            raise ValueError(
                f"the parameters have {len(named)} tensors, but the optimizer state was "
                f"made for {len(self.dtypes)}; call `init` again with these parameters."
            )
        for (path, leaf), before in zip(named, self.dtypes, strict=True):
            now = _dtype(leaf)
            if None not in (before, now) and before != now:
                raise ValueError(
                    f"parameter {_name(path)} was {before} at `init` and is {now} now; "
                    "call `init` again after a cast."
                )


def _dtype(leaf: Any) -> str | None:
    """Name of an array's dtype; None for what is no array."""
    return str(leaf.dtype) if hasattr(leaf, "dtype") else None


def _require_shapes(shapes: list[tuple[int, ...]], params: Any, what: str) -> None:
    named = jax.tree_util.tree_leaves_with_path(params)
    for (path, p), shape in zip(named, shapes, strict=True):
        if shape != jnp.shape(p):
            raise ValueError(
                f"parameter {_name(path)} has shape {jnp.shape(p)} but {what} {shape}."
            )


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path) or "(the only tensor)"
