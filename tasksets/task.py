"""A task: something to optimize, split into what compiles and what varies.

A `Task` is an immutable pytree of three parts and an annotation:

* `problem`: the *structure*, static and hashable: family, architecture, shapes,
  data set, batch size. It holds the maths as methods of (numbers, ...).
* `numbers`: the leaves that differ between tasks of equal structure: scales, noise
  levels, matrices, seeds, and the two losses that `normalize` needs. They stack.
* `data`: the arrays on the device that tasks of one data set share. Never stacked.
* `name`: for people. It is not part of the pytree, so two tasks of equal structure
  share one compilation; a task that went through `jit` or `vmap` has no name.
"""

import abc
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

SplitName = Literal["train", "inner_valid", "outer_valid", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)

Params = PyTree
Batch = PyTree
Drawn = PyTree


class Numbers(Protocol):
    """What the numbers of every family have, beside the family's own."""

    @property
    def initial_loss(self) -> Float[Array, "*lanes"]: ...

    @property
    def best_loss(self) -> Float[Array, "*lanes"]: ...


class Problem(abc.ABC):
    """The structure of a task. Subclasses are frozen dataclasses of hashable fields.

    Every method is a pure function that runs inside `jit`, `vmap`, `scan` and
    `shard_map`; two problems that compare equal must compute the same function.
    """

    @abc.abstractmethod
    def init(self, numbers: Any, key: PRNGKeyArray) -> Params:
        """Draws initial parameters."""

    def draw(
        self, numbers: Any, data: PyTree, split: SplitName, key: PRNGKeyArray
    ) -> Drawn:
        """All the chance in a batch, small enough to be kept for many batches."""
        del numbers, data, split
        return key

    @abc.abstractmethod
    def take(self, numbers: Any, data: PyTree, split: SplitName, drawn: Drawn) -> Batch:
        """The batch that was drawn, from arrays that are on the device."""

    @abc.abstractmethod
    def loss(
        self, numbers: Any, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """The loss of `params` on `batch`; `key` serves noise within the loss."""

    def metrics(
        self, numbers: Any, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, ""]]:
        """What people read beside the loss; nothing unless a family says so."""
        del numbers, params, batch, key
        return {}

    def one_split(self, data: PyTree) -> bool:
        """Whether the splits are one, whose batches only chance tells apart."""
        return not jax.tree.leaves(data)

    def progress(self, numbers: Any, loss: Float[Array, "..."]) -> Float[Array, "..."]:
        """The scale on which `Task.normalize` is linear: the loss itself here."""
        del numbers
        return loss


@jax.tree_util.register_pytree_with_keys_class
@dataclass(frozen=True, eq=False)
class Task:
    """One optimization problem with its data: init, batch, loss."""

    problem: Problem
    numbers: Any
    data: PyTree = ()
    name: str = ""

    def init(self, key: PRNGKeyArray) -> Params:
        """Initial parameters, a pytree of float32."""
        self._require_one_lane("init")
        return self.problem.init(self.numbers, key)

    def batch(self, split: SplitName, key: PRNGKeyArray) -> Batch:
        """One batch of `split`, drawn with replacement: `take(split, draw(...))`."""
        return self.take(split, self.draw(split, key))

    def draw(self, split: SplitName, key: PRNGKeyArray) -> Drawn:
        """What decides a batch, such as indices; many are cheaper drawn at once."""
        self._require_one_lane("draw")
        _require_split(split)
        return self.problem.draw(self.numbers, self.data, split, key)

    def take(self, split: SplitName, drawn: Drawn) -> Batch:
        """The batch of `split` that `draw` decided on."""
        self._require_one_lane("take")
        _require_split(split)
        return self.problem.take(self.numbers, self.data, split, drawn)

    def loss(self, params: Params, batch: Batch, key: PRNGKeyArray) -> Float[Array, ""]:
        """Scalar float32 loss; `key` serves noise within the loss."""
        self._require_one_lane("loss")
        return self.problem.loss(self.numbers, params, batch, key)

    def metrics(
        self, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, ""]]:
        """What people read beside the loss, such as {"accuracy": ...}."""
        self._require_one_lane("metrics")
        return self.problem.metrics(self.numbers, params, batch, key)

    def normalize(self, loss: Float[Array, "..."]) -> Float[Array, "..."]:
        """Maps a loss to [0, 1]: 1 at the initial loss, 0 at the best known one.

            n(l) = clip((u(l) - u(best)) / (u(initial) - u(best)), 0, 1)

        with u the identity for most families and the logarithm for quadratics
        (`Problem.progress`). NaN counts as 1: diverging is no better than not starting.
        For a stacked task the first axis of `loss` is the lanes.
        """
        if self.stacked:
            lane_task = Task(self.problem, self.numbers)
            return jax.vmap(Task.normalize)(lane_task, jnp.asarray(loss))
        u = lambda value: self.problem.progress(self.numbers, value)
        best, initial = u(self.numbers.best_loss), u(self.numbers.initial_loss)
        fraction = (u(jnp.asarray(loss)) - best) / (initial - best)
        return jnp.where(jnp.isnan(fraction), 1.0, jnp.clip(fraction, 0.0, 1.0))

    @property
    def one_split(self) -> bool:
        """Whether the splits are one: a key then gives the same batch of each of them."""
        return self.problem.one_split(self.data)

    @property
    def stacked(self) -> bool:
        """Whether the numbers carry a leading lane axis."""
        return self.numbers.initial_loss.ndim > 0

    @property
    def num_lanes(self) -> int:
        """Number of lanes of a stacked task."""
        if not self.stacked:
            raise TypeError(f"{self!r} is not stacked: it has no lanes")
        return self.numbers.initial_loss.shape[0]

    def lane(self, index: int | Int[Array, ""]) -> "Task":
        """The task in lane `index`, which may be traced; the data stay shared."""
        num_lanes = self.num_lanes
        if isinstance(index, int) and not -num_lanes <= index < num_lanes:
            raise IndexError(f"lane {index} of a stack of {num_lanes}")
        numbers = jax.tree.map(lambda leaf: leaf[index], self.numbers)
        return Task(self.problem, numbers, self.data)

    def __getitem__(self, index: int | Int[Array, ""]) -> "Task":
        return self.lane(index)

    def __iter__(self) -> Iterator["Task"]:
        return (self.lane(index) for index in range(self.num_lanes))

    def __repr__(self) -> str:
        return f"Task({self.name or type(self.problem).__name__!r})"

    def _require_one_lane(self, method: str) -> None:
        if self.stacked:
            raise ValueError(
                f"Task.{method} was called on a stack of {self.num_lanes} tasks; use "
                f"jax.vmap(..., in_axes=(tasksets.lane_axes(task), ...)) or task[i]"
            )

    def tree_flatten_with_keys(self) -> tuple[tuple[Any, ...], Problem]:
        children = (
            (jax.tree_util.GetAttrKey("numbers"), self.numbers),
            (jax.tree_util.GetAttrKey("data"), self.data),
        )
        return children, self.problem

    def tree_flatten(self) -> tuple[tuple[Any, ...], Problem]:
        return (self.numbers, self.data), self.problem

    @classmethod
    def tree_unflatten(cls, problem: Problem, children: tuple[Any, ...]) -> "Task":
        return cls(problem, *children)


def _require_split(split: str) -> None:
    if split not in SPLITS:
        nearest = difflib.get_close_matches(str(split), SPLITS, n=1, cutoff=0.0)
        raise ValueError(
            f"unknown split {split!r}; did you mean {nearest[0]!r}? "
            f"The splits are {', '.join(SPLITS)}."
        )
