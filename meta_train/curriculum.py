"""What is trained on: a mix of suites, and for how long an episode lasts.

Small frozen dataclasses, which are part of `TrainConfig` and of the command line. All
draws are functions of a seed and of what is asked for, so any machine that has the same
data sets draws the same tasks.
"""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

import tasksets
from meta_train.truncation import Truncation
from tasksets import Task
from tasksets.names import UnknownNameError, parse
from tasksets.registry import TaskSplit
from tasksets.wrappers import Reparametrized, Wrapper, draw

AbsentData = Literal["error", "leave out"]

_MOST_DRAWS = 500  # of a task that costs no more than the cap
_MOST_MISSES = 8  # tasks of other structures in a row, after which no more are tried


@dataclasses.dataclass(frozen=True)
class TaskMix:
    """Which tasks are trained on."""

    suites: tuple[str, ...] = ("small_mlp",)
    """Suites of tasks to train on (their training names only)."""
    weights: tuple[float, ...] = ()
    """Share of each suite, in any unit; empty: equal shares."""
    task_options: tuple[str, ...] = ()
    """Fields to fix in the tasks, e.g. 'dataset=iris&hidden=32'; tasks take turns."""
    augmentation: float = 0.0
    """Chance of a task to get the wrappers that VeLO's augmentation draws, 0 to 1."""
    max_megaflops: float = math.inf
    """Tasks whose gradient takes more million operations are drawn again."""
    absent_data: AbsentData = "error"
    """What to do with tasks whose data set is not on this machine."""

    def __post_init__(self) -> None:
        if isinstance(self.suites, str):
            raise TypeError(f"suites are several names: ({self.suites!r},).")
        if not self.suites:
            raise ValueError("suites must name at least one suite.")
        if self.weights and len(self.weights) != len(self.suites):
            raise ValueError(
                f"there are {len(self.weights)} weights for {len(self.suites)} suites."
            )
        if self.weights and not (min(self.weights) >= 0 and sum(self.weights) > 0):
            raise ValueError(f"weights must be positive, got {self.weights}.")
        if not 0 <= self.augmentation <= 1:
            raise ValueError(f"augmentation is a chance, got {self.augmentation}.")
        if not self.max_megaflops > 0:
            raise ValueError(f"max_megaflops must be positive: {self.max_megaflops}.")
        if self.absent_data not in (choices := get_args(AbsentData)):
            raise UnknownNameError("absent_data", self.absent_data, choices)

    @property
    def shares(self) -> tuple[float, ...]:
        """Of each suite; they sum to 1."""
        weights = self.weights or (1.0,) * len(self.suites)
        return tuple(weight / sum(weights) for weight in weights)

    def sample(self, count: int, seed: int, split: TaskSplit = "train") -> list[Task]:
        """``count`` tasks, different ones within a suite, each suite by its share.

        Args:
          count: tasks.
          seed: of the draw.
          split: "train", or "test" for names that are never trained on.

        Raises:
          ValueError: a suite has too few tasks (within the cap).
          LookupError: an unknown suite, or data that are not on this machine.
        """
        ends = [round(count * share) for share in np.cumsum(self.shares)]
        counts = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        tasks: list[Task] = []
        for suite, wanted in zip(self.suites, counts, strict=True):
            names = self._names(suite, split)
            order = np.random.RandomState(seed).permutation(len(names))
            found: list[Task] = []
            for index in order:
                if len(found) == wanted:
                    break
                turn = len(tasks) + len(found)
                task = self._outline(names[index], turn)
                wrappers = self._wrappers(task, seed)
                if self._affordable(_wrap(task, wrappers)):
                    found.append(_wrap(tasksets.filled_in(task), wrappers))
            if len(found) < wanted:
                raise ValueError(
                    f"suite {suite!r} has {len(found)} tasks to {split} with that cost "
                    f"at most {self.max_megaflops:g} megaflops, {wanted} were asked."
                )
            tasks += found
        return tasks

    def sample_alike(self, count: int, turn: int, seed: list[int]) -> list[Task]:
        """``count`` tasks of one structure, which the first one drawn decides.

        The others are of its family. Where few have its structure they come several
        times; episodes differ in their start and their batches anyway. All are wrapped
        alike, each with a seed of its own where a wrapper has one.

        Args:
          count: tasks, at least 1.
          turn: whose turn it is among the task options.
          seed: numbers that decide the draw.

        Raises:
          ValueError: no task is within the cap.
          LookupError: an unknown suite, or data that are not on this machine.
        """
        rng = np.random.default_rng(seed)
        suite = self.suites[rng.choice(len(self.suites), p=self.shares)]
        names = self._names(suite)
        wrapping_seed = int(rng.integers(2**31))
        for _ in range(_MOST_DRAWS):
            leader = names[rng.integers(len(names))]
            task = self._outline(leader, turn)
            wrappers = self._wrappers(task, wrapping_seed)
            if self._affordable(_wrap(task, wrappers)):
                break
        else:
            raise ValueError(
                f"none of {_MOST_DRAWS} tasks drawn from suite {suite!r} costs at most "
                f"{self.max_megaflops:g} megaflops a gradient."
            )
        family = [name for name in names if parse(name).family == parse(leader).family]
        found, misses = [task], 0
        for index in rng.permutation(len(family)):
            if len(found) == count or misses == _MOST_MISSES:
                break
            if family[index] == leader:
                continue
            mate = self._outline(family[index], turn)
            alike = tasksets.structure(mate) == tasksets.structure(task)
            found += [mate] if alike else []
            misses = 0 if alike else misses + 1
        filled = [tasksets.filled_in(task) for task in found]
        tasks = tasksets.group_by_structure(filled)[0]  # those with the leader's data
        return [
            _wrap(tasks[i % len(tasks)], _reseed(wrappers, i)) for i in range(count)
        ]

    def _names(self, suite: str, split: TaskSplit = "train") -> list[str]:
        return _suite_names(suite, split, self.absent_data == "leave out")

    def _outline(self, name: str, turn: int) -> Task:
        if not self.task_options:
            return tasksets.outline(name)
        options = self.task_options[turn % len(self.task_options)]
        return tasksets.outline(tasksets.with_options(name, options))

    def _wrappers(self, task: Task, seed: int) -> tuple[Wrapper, ...]:
        chance = np.random.default_rng([seed, *task.name.encode()]).uniform()
        return draw(task, seed) if chance < self.augmentation else ()

    def _affordable(self, task: Task) -> bool:
        if self.max_megaflops == math.inf:
            return True
        return tasksets.gradient_operations(task).total <= 1e6 * self.max_megaflops


@dataclasses.dataclass(frozen=True)
class Horizons:
    """How long episodes last, and how that grows while training goes on.

    Episodes are log-uniformly long between a fixed shortest and a longest that grows
    geometrically from ``first_max_horizon`` to ``max_horizon``.
    """

    window: int = 100
    """Inner steps per estimate, the truncation length K."""
    min_horizon: int = 100
    max_horizon: int = 1600
    """Episode lengths in inner steps, log-uniform, whole windows."""
    first_max_horizon: int | None = None
    """The longest episode at the start, where it is to grow; None: max_horizon."""
    growth_steps: int = 0
    """Outer steps until the longest episode is max_horizon."""

    def __post_init__(self) -> None:
        Truncation(self.window, self.min_horizon, self.max_horizon)
        if (self.first_max_horizon is None) != (self.growth_steps == 0):
            raise ValueError(
                "a growing horizon needs first_max_horizon and growth_steps."
            )
        if self.growth_steps < 0:
            raise ValueError(f"growth_steps is at least 0, got {self.growth_steps}.")
        if self.first_max_horizon is not None:
            Truncation(self.window, self.min_horizon, self.first_max_horizon)

    def windows(self, step: int) -> tuple[int, int]:
        """Shortest and longest episode that may begin at an outer step, in windows."""
        shortest, longest = (
            self.min_horizon // self.window,
            self.max_horizon // self.window,
        )
        if self.first_max_horizon is not None and step < self.growth_steps:
            first = self.first_max_horizon // self.window
            longest = round(first * (longest / first) ** (step / self.growth_steps))
        return shortest, longest

    def draw(self, step: int, rng: np.random.Generator) -> int:
        """Length of an episode that begins at an outer step, in windows."""
        low, high = self.windows(step)
        # Each whole number n gets the log-uniform mass of [n, n + 1), as in `Truncation`.
        return min(int(math.exp(rng.uniform(math.log(low), math.log(high + 1)))), high)


@functools.cache
def _suite_names(suite: str, split: TaskSplit, data_here: bool) -> list[str]:
    return tasksets.names(suite, split, data_here=data_here)


def _wrap(task: Task, wrappers: Sequence[Wrapper]) -> Task:
    for wrapper in wrappers:
        task = wrapper(task)
    return task


def _reseed(wrappers: Sequence[Wrapper], index: int) -> list[Wrapper]:
    """The wrappers for the task at ``index`` of a group; the first keeps its seeds."""
    return [
        dataclasses.replace(wrapper, seed=(wrapper.seed + index) % 2**32)
        if isinstance(wrapper, Reparametrized)
        else wrapper
        for wrapper in wrappers
    ]
