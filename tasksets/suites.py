"""Suites: named lists of thousands of task names, and sampling from them.

names("taskset", split="test")            the names of a suite, in a stable order
sample(64, suite="small_mlp", seed=1)     tasks for meta-training
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, overload

import numpy as np

from tasksets import stacking
from tasksets.names import TaskName, UnknownNameError
from tasksets.registry import TaskSplit, get, split_of
from tasksets.task import Task


@dataclass(frozen=True)
class SuitePart:
    """Consecutive seeds of one family."""

    family: str
    num_seeds: int
    dataset: str | None = None  # None: what each config says

    def names(self) -> Iterable[str]:
        return (
            str(TaskName(self.family, seed, self.dataset))
            for seed in range(self.num_seeds)
        )


_SUITES: dict[str, tuple[SuitePart, ...]] = {
    # The sampled families of TaskSet that are here; most need prepared data.
    "taskset": (SuitePart("mlp_family", 1000), SuitePart("quadratic_family", 1000)),
    # Runs anywhere: the same networks on bundled data.
    "digits": (SuitePart("mlp_family", 1000, "digits"),),
    # Few structures, many lanes: for meta-training.
    "small_mlp": (SuitePart("small_mlp", 10000, "digits"),),
    "quadratic": (SuitePart("quadratic_family", 1000),),
}


def suites() -> list[str]:
    """The names of the suites."""
    return sorted(_SUITES)


def names(suite: str, split: TaskSplit | None = None) -> list[str]:
    """The names of a suite in a stable order; of one split where it is given."""
    if suite not in _SUITES:
        raise UnknownNameError("suite", suite, _SUITES)
    every = (name for part in _SUITES[suite] for name in part.names())
    return [name for name in every if split is None or split_of(name) == split]


@overload
def sample(
    n: int,
    *,
    suite: str,
    split: TaskSplit = ...,
    seed: int = ...,
    group_by_structure: Literal[False] = ...,
) -> list[Task]: ...
@overload
def sample(
    n: int,
    *,
    suite: str,
    split: TaskSplit = ...,
    seed: int = ...,
    group_by_structure: Literal[True],
) -> list[list[Task]]: ...
def sample(
    n: int,
    *,
    suite: str,
    split: TaskSplit = "train",
    seed: int = 0,
    group_by_structure: bool = False,
) -> list[Task] | list[list[Task]]:
    """`n` different tasks of a suite, drawn uniformly; as lists that stack if asked."""
    if split not in ("train", "test"):
        raise ValueError(f"split is 'train' or 'test', not {split!r}")
    choice = names(suite, split)
    if n > len(choice):
        raise ValueError(
            f"suite {suite!r} has {len(choice)} tasks to {split} with, {n} were asked"
        )
    order = np.random.RandomState(seed).permutation(len(choice))[:n]
    tasks = [get(choice[index]) for index in order]
    return stacking.group_by_structure(tasks) if group_by_structure else tasks
