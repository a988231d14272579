"""Thousands of tasks by name: families, suites, and the split of training and test.

    get("mlp_family/seed7@digits")    the task of a name, the same on every machine
    names("small_mlp")                the names of a suite, in a stable order
    sample(64, suite="small_mlp")     tasks for meta-training; split="test" for the rest

A hash of `family/seedN` sends a fifth of all tasks to the test split. What follows the
seed in a name does not count, so that no variant of a test task is trained on.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np

from tasksets import stacking
from tasksets.data import DataNotFoundError
from tasksets.families import mlp, quadratic, small_mlp
from tasksets.family import Family
from tasksets.names import TaskName, UnknownNameError, override, parse
from tasksets.task import Task

TaskSplit = Literal["train", "test"]


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


_FAMILIES: dict[str, Family] = {}

_SUITES: dict[str, tuple[SuitePart, ...]] = {
    # The sampled families of TaskSet that are here; most need prepared data.
    "taskset": (SuitePart("mlp_family", 1000), SuitePart("quadratic_family", 1000)),
    # Runs anywhere: the same networks on bundled data.
    "digits": (SuitePart("mlp_family", 1000, "digits"),),
    # Few structures, many lanes: for meta-training.
    "small_mlp": (SuitePart("small_mlp", 10000, "digits"),),
    "quadratic": (SuitePart("quadratic_family", 1000),),
}


def register(family: Family) -> None:
    """Adds a family; its tasks are then `get("<family.name>/seedN")`."""
    if family.name in _FAMILIES:
        raise ValueError(f"there is a family {family.name!r} already")
    _FAMILIES[family.name] = family


for _module in (mlp, quadratic, small_mlp):
    register(_module.FAMILY)


def families() -> list[str]:
    """The registered families."""
    return sorted(_FAMILIES)


def suites() -> list[str]:
    """The names of the suites."""
    return sorted(_SUITES)


def names(suite: str, split: TaskSplit | None = None) -> list[str]:
    """The names of a suite in a stable order; of one split where it is given."""
    if suite not in _SUITES:
        raise UnknownNameError("suite", suite, _SUITES)
    every = (name for part in _SUITES[suite] for name in part.names())
    return [name for name in every if split is None or split_of(name) == split]


def split_of(name: str) -> TaskSplit:
    """Which split a task is in, by a hash of `family/seedN`: a fifth is for test."""
    root = parse(name).root.encode()
    digest = hashlib.blake2b(root, digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % 5 == 0 else "train"


def config(name: str) -> Any:
    """The config of a name, with its data set and fields applied."""
    return _configure(name)[1]


def get(name: str) -> Task:
    """The task of a name, `family/seedN[@dataset][?field=value&field=value]`.

    Raises `UnknownNameError` for names nobody knows, with the nearest that somebody
    does, and `DataNotFoundError` for a data set that is not on this machine.
    """
    task_name, task_config = _configure(name)
    build = _FAMILIES[task_name.family].build
    # A task may be asked for inside a trace; its leaves must not be tracers.
    with jax.ensure_compile_time_eval():
        try:
            problem, numbers, data = build(task_config)
        except DataNotFoundError as error:
            raise DataNotFoundError(error.dataset, task=str(task_name)) from None
        numbers = jax.tree.map(jnp.asarray, numbers)
    return Task(problem, numbers, data, str(task_name))


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


def _configure(name: str) -> tuple[TaskName, Any]:
    task_name = parse(name)
    if task_name.family not in _FAMILIES:
        raise UnknownNameError("family", task_name.family, _FAMILIES)
    sampled = _FAMILIES[task_name.family].sample(task_name.seed)
    task_config, canonical = override(sampled, task_name)
    return canonical, task_config
