"""What every wrapper is: a map from tasks to tasks, a problem and numbers that nest.

wrapper(Task(problem, numbers, data, name))
    = Task(WrappedProblem(problem, ...), WrappedNumbers(numbers, ...), data,
           name + "+wrapper:field=value")
"""

import abc
import dataclasses
import math
import typing
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from tasksets.around import Around
from tasksets.task import Task

# A wrapper's key is folded from the loss's key by a number from here on: `split` makes
# its keys by folding in 0, 1, 2, ..., and would otherwise make the same ones.
_FIRST_FOLD = 2**31


class WrappedNumbers(NamedTuple):
    """The numbers of a wrapped task: those of the task, and the wrapper's own."""

    inner: Any
    own: PyTree  # () where the wrapper adds none
    initial_loss: Float[Array, "*lanes"]
    best_loss: Float[Array, "*lanes"]


@dataclass(frozen=True)
class WrappedProblem(Around):
    """A problem around another, which does everything that a wrapper leaves alone."""

    @property
    def depth(self) -> int:
        """Number of wrappers, this one included."""
        inner = self.inner.depth if isinstance(self.inner, WrappedProblem) else 0
        return 1 + inner

    def own_key(self, key: PRNGKeyArray) -> PRNGKeyArray:
        """A key for this wrapper's chance; the problem inside is given `key` itself."""
        return jax.random.fold_in(key, _FIRST_FOLD + self.depth)


class Wrapper(abc.ABC):
    """A change of a task. Subclasses are frozen dataclasses of int, float, bool, str.

    `str(wrapper)` is what it appends to the name of a task: every field, in one
    spelling, so that later versions may change a default.
    """

    keyword: ClassVar[str]  # lower case letters, digits and _

    @abc.abstractmethod
    def wrap(self, task: Task) -> tuple[WrappedProblem, PyTree]:
        """The problem around that of `task`, and the wrapper's own numbers."""

    def __call__(self, task: Task) -> Task:
        if task.stacked:
            raise ValueError(
                f"cannot wrap {task!r}, a stack of {task.num_lanes} tasks; wrap each "
                "task and stack the wrapped ones"
            )
        # A task may be wrapped inside a trace; what is added must not be tracers.
        with jax.ensure_compile_time_eval():
            problem, own = self.wrap(task)
        numbers = WrappedNumbers(
            task.numbers, own, task.numbers.initial_loss, task.numbers.best_loss
        )
        name = f"{task.name}{self}" if task.name else ""
        return Task(problem, numbers, task.data, name)

    def __str__(self) -> str:
        fields = [
            f"{field}={_spell(kind(getattr(self, field)))}"
            for field, kind in self.fields().items()
        ]
        return f"+{self.keyword}{':' + '&'.join(fields) if fields else ''}"

    @classmethod
    def fields(cls) -> dict[str, type]:
        """The type of every field, in their order."""
        hints = typing.get_type_hints(cls)
        names = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
        return {name: hints[name] for name in names}


def require(condition: bool, wrapper: Wrapper, rule: str) -> None:
    """Raises where a field of `wrapper` breaks a rule; NaN breaks every comparison."""
    if not condition:
        raise ValueError(f"{wrapper!r}: {rule}")


def is_positive(number: float) -> bool:
    """Whether a number is above 0 and finite."""
    return 0 < number < math.inf


def _spell(value: int | float | bool | str) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
