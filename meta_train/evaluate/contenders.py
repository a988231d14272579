"""What is compared: an optimizer, or a grid of them from which the best is taken.

A `Kind` compiles once; a `Point` is one setting of its numbers; a `Contender` is the
points that are tried, and on what the choice between them is made.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

import learned_opt
from learned_opt import Flat, LearnedOptimizer, Rule

Tuned = Literal["per task", "over the suite"]


def _as_trained(state: Any, params: Any) -> Any:
    del state
    return params


@dataclasses.dataclass(frozen=True, eq=False)
class Kind:
    """An optimizer whose numbers are arguments of the compiled program.

    Attributes:
      identity: says what it is, so that equal strings mean equal optimizers; kinds of
        equal identity share a program.
      make: ``make(numbers, num_steps)`` gives the optax transform; traced.
      measured: the parameters to measure, of (state, params); schedule-free methods
        train at other parameters than they give.
    """

    identity: str
    make: Callable[[Any, int], optax.GradientTransformation]
    measured: Callable[[Any, Any], Any] = _as_trained


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
    """One optimizer with all its numbers.

    Attributes:
      kind: what compiles.
      numbers: pytree of arrays that ``kind.make`` takes.
      label: what people call this point.
      content: a digest of everything that decides what it does; None where that is
        not known, which keeps its results out of every cache.
    """

    kind: Kind
    numbers: Any
    label: str
    content: str | None


@dataclasses.dataclass(frozen=True, eq=False)
class Contender:
    """What is compared, under one name.

    Attributes:
      name: how tables call it, and how the command line does.
      points: the optimizers to choose from, one or more.
      tuned: whether each task gets its own point, or all tasks of a suite the same.
      baseline: whether its runs count as "known" where losses are normalised.
    """

    name: str
    points: tuple[Point, ...]
    tuned: Tuned = "per task"
    baseline: bool = False

    @property
    def content(self) -> str | None:
        """Digest of all that decides its results on a task; None if that is unknown."""
        contents = [point.content for point in self.points]
        if None in contents:
            return None
        return digest([self.tuned, *contents])


def fixed(name: str, transform: optax.GradientTransformation) -> Contender:
    """Any optax transform as it is. Its results are not cached: it has no content."""
    identity = f"the transform {id(transform)}"  # alive as long as the contender is
    kind = Kind(identity, lambda numbers, num_steps: transform)
    return Contender(name, (Point(kind, (), name, None),))


def learned(name: str, optimizer: LearnedOptimizer, theta: Any) -> Contender:
    """A learned optimizer with its theta; nothing is tuned."""
    identity = _describe(optimizer)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(theta)]
    content = digest([identity, *(leaf.tobytes().hex() for leaf in leaves)])
    kind = Kind(f"{identity} {jax.tree.structure(theta)}", _maker(optimizer))
    return Contender(name, (Point(kind, theta, name, content),))


def grid(
    name: str, optimizers: Mapping[str, Rule], *, tuned: Tuned = "per task"
) -> Contender:
    """Hand-designed optimizers by label, a baseline.

    All their floating-point fields must be what ``init`` puts into theta, as those of
    `Adam`, `NAdamW`, `Momentum` are: they share a program where only these differ.
    """
    points = []
    for label, optimizer in optimizers.items():
        theta = optimizer.init(jax.random.key(0))
        static = {k: v for k, v in _fields(optimizer).items() if type(v) is not float}
        name_and_fields = f"{learned_opt.name_of(optimizer)} {json.dumps(static)}"
        identity = f"{name_and_fields} {jax.tree.structure(theta)}"
        kind = Kind(identity, _maker(optimizer))
        points.append(Point(kind, theta, label, digest([_describe(optimizer)])))
    return Contender(name, tuple(points), tuned, baseline=True)


def stack_numbers(points: Sequence[Point]) -> Any:
    """The numbers of points of one kind along a new leading axis."""
    return jax.tree.map(lambda *xs: jnp.stack(xs), *(p.numbers for p in points))


def digest(parts: Sequence[Any]) -> str:
    """SHA-256 of a list of plain values, in hexadecimal."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _maker(
    optimizer: LearnedOptimizer,
) -> Callable[[Any, int], optax.GradientTransformation]:
    """Rules run on the flat layout, as in meta-training: the same, only faster."""
    layout = {"layout": Flat} if isinstance(optimizer, Rule) else {}
    return lambda theta, n: optimizer.transform(theta, num_steps=n, **layout)


def _describe(optimizer: LearnedOptimizer) -> str:
    """Name and fields; equal strings mean equal functions of theta."""
    fields, name = _fields(optimizer), learned_opt.name_of(optimizer)
    try:
        return f"{name} {json.dumps(fields)}"
    except TypeError:
        raise ValueError(
            f"what {name} computes cannot be told from its fields {fields}: use numbers, "
            "strings, booleans, None, and tuples of these."
        ) from None


def _fields(optimizer: Any) -> dict[str, Any]:
    return {f.name: getattr(optimizer, f.name) for f in dataclasses.fields(optimizer)}
