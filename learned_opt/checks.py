"""What an optimizer may be given, and errors that say what to do instead.

Arrays are judged by structure, shapes and dtypes alone: a compiled program does not
contain these checks, and they work on abstract arrays. Numbers that configure an
optimizer are judged where they are known.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# optax keeps this sentence private; users should meet the same one everywhere.
NO_PARAMS = (
    "You are using a transformation that requires the current value of parameters, "
    "but you are not passing `params` when calling `update`."
)

# What the numbers of Adam may be.
ADAM = {
    "learning_rate": "(0, inf)",
    "b1": "[0, 1)",
    "b2": "[0, 1)",
    "eps": "(0, inf)",
}


def require_numbers(config: Any, **intervals: str) -> None:
    """Raises TypeError or ValueError for fields that are not numbers of an interval.

    Args:
      config: has the fields.
      **intervals: as mathematics writes them, ``learning_rate="(0, inf)"``.
    """
    for name, interval in intervals.items():
        require_number(
            f"{type(config).__name__}.{name}", getattr(config, name), interval
        )


def require_number(name: str, number: Any, interval: str) -> None:
    """Raises TypeError or ValueError for what is not a number of the interval."""
    if isinstance(number, Tracer):
        return
    if callable(number):
        raise TypeError(
            f"{name} must be a number, not a function; for a schedule, multiply the "
            "steps: `optax.chain(tx, optax.scale_by_schedule(schedule))`."
        )
    known = isinstance(number, (float, int, np.ndarray, np.generic, jax.Array))
    if not known or np.shape(number) != ():
        raise TypeError(f"{name} must be a number, not {number!r}.")
    x, (low, high) = float(number), map(float, interval[1:-1].split(","))
    at_low, at_high = interval[0] == "[" and x == low, interval[-1] == "]" and x == high
    if not (low < x < high or at_low or at_high):
        raise ValueError(f"{name} is {number}, and must be in {interval}.")


def require_theta(theta: Any, expected: Any, owner: str) -> None:
    """Raises ValueError for meta-parameters that are not those of an optimizer.

    A part that an optimizer may have or lack (None) is no mistake.

    Args:
      theta: meta-parameters.
      expected: what ``init`` gives, abstract.
      owner: name of the optimizer.
    """
    have, want = jax.tree.structure(theta), jax.tree.structure(expected)
    kind = lambda tree: (tree.node_data() or (type(None),))[0]
    wrong = f"this theta is not one of {owner}:"
    if kind(have) is not kind(want):
        raise ValueError(f"{wrong} `init` gives {want}, and this is {have}.")
    mine, theirs = _parts(theta), _parts(expected)
    _require_parts(mine, theirs, f"{wrong} it has {{}}, and `init` does not give that.")
    _require_parts(theirs, mine, f"{wrong} it lacks {{}}, which `init` gives.")
    for path, leaf in mine.items():
        like = theirs.get(path)
        if leaf is not None and like is not None and jnp.shape(leaf) != like.shape:
            raise ValueError(
                f"{wrong} its {_name(path)} has shape {jnp.shape(leaf)}, and `init` gives "
                f"{like.shape}."
            )


def _require_parts(of: dict[Any, Any], among: dict[Any, Any], message: str) -> None:
    """Raises for a part that the other tree lacks, unless it has None in its place."""
    for path, part in of.items():
        within = (path[:n] for n in range(len(path)))
        left_out = any(p in among and among[p] is None for p in within)
        if part is not None and path not in among and not left_out:
            raise ValueError(message.format(_name(path)))


def _parts(tree: Any) -> dict[Any, Any]:
    """The leaves by their paths; what is None is a leaf here."""
    is_leaf = lambda x: x is None
    return dict(jax.tree_util.tree_leaves_with_path(tree, is_leaf=is_leaf))


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


def require_slots(slots: Any, of_scalar: Any, params: Any) -> None:
    """Raises ValueError for a state that is not one of these parameters.

    Args:
      slots: fields, nested in tuples.
      of_scalar: the slots of a model that is one scalar: leading axes are all they have.
      params: a field.
    """
    structure = jax.tree.structure(params)
    leads, nesting = jax.tree.flatten(of_scalar)
    try:
        fields = nesting.flatten_up_to(slots)
    except ValueError as error:
        raise ValueError(f"this is the state of another optimizer: {error}") from None
    for lead, field in zip(leads, fields, strict=True):
        if jax.tree.structure(field) != structure:
            raise ValueError(
                "the optimizer state was made for parameters of another structure than"
                f"\n  {structure}\nor with another layout; call `init` again with these "
                "parameters."
            )
        lead, shapes = lead.shape, [jnp.shape(x) for x in jax.tree.leaves(field)]
        own = [x[len(lead) :] if x[: len(lead)] == lead else x for x in shapes]
        _require_shapes(own, params, "the optimizer state, made at `init`, holds")


@jax.tree_util.register_static
class MadeFor(NamedTuple):
    """What the parameters were at `init`, kept beside the arrays of the state.

    To jax all instances are equal, and without leaves: this is there for error messages,
    and must not make two states differ in structure (optax builds states of
    placeholders). To flax, which writes checkpoints, it is strings and numbers in tuples.
    """

    dtypes: tuple[str | None, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MadeFor)

    def __ne__(self, other: object) -> bool:  # tuples have their own
        return not self == other

    def __hash__(self) -> int:
        return hash(MadeFor)

    @classmethod
    def of(cls, params: Any) -> "MadeFor":
        """From the leaves, in their order."""
        leaves = jax.tree.leaves(params)
        return cls(tuple(map(_dtype, leaves)), tuple(map(jnp.shape, leaves)))

    def require_shapes(self, params: Any) -> None:
        """Raises ValueError for parameters of other shapes, or of another number."""
        self._require_number(params)
        _require_shapes(list(self.shapes), params, "had, at `init`,")

    def require_dtypes(self, params: Any) -> None:
        """Raises ValueError for parameters of other dtypes, or of another number."""
        self._require_number(params)
        named = jax.tree_util.tree_leaves_with_path(params)
        for (path, leaf), before in zip(named, self.dtypes, strict=True):
            now = _dtype(leaf)
            if None not in (before, now) and before != now:
                raise ValueError(
                    f"parameter {_name(path)} was {before} at `init` and is {now} now; "
                    "call `init` again after a cast."
                )

    def _require_number(self, params: Any) -> None:
        now = len(jax.tree.leaves(params))
        if now != len(self.dtypes):
            raise ValueError(
                f"the parameters have {now} tensors, but the optimizer state was made "
                f"for {len(self.dtypes)}; call `init` again with these parameters."
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
