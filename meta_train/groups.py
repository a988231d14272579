"""Groups in flight: which tasks run side by side, from when until when.

A *group* is a batch of lanes whose tasks have one structure, hence one compiled program.
A run keeps a number of *slots*, each with one group in flight. Which group is in a
slot at an outer step is a function of the seed and that step alone: never of how
fast anything was, so that a run that was stopped, or ran elsewhere, has the same ones.
"""

import dataclasses
import math
from fractions import Fraction
from typing import Protocol

import numpy as np

import tasksets
from meta_train.curriculum import Horizons, TaskMix
from tasksets import Task


@dataclasses.dataclass(frozen=True)
class Group:
    """One group of lanes.

    Attributes:
      slot: where it is in flight.
      generation: how many groups were in this slot before it.
      born: outer steps done when it makes its first estimate.
      ends: outer steps done when the next group takes its place; None for never.
      windows: the length of all its episodes, in windows; None where each episode draws
        its own.
    """

    slot: int
    generation: int
    born: int
    ends: int | None
    windows: int | None


class Groups(Protocol):
    """Which groups there are, and what they train on."""

    @property
    def slots(self) -> int:
        """Groups in flight at a time."""
        ...

    def at(self, slot: int, step: int) -> Group:
        """The group in a slot after so many outer steps."""
        ...

    def after(self, group: Group) -> Group | None:
        """The group that takes its place; None where it stays for good."""
        ...

    def tasks(self, group: Group) -> list[Task]:
        """Its tasks, all of one structure; as many in every group of that structure."""
        ...

    def share(self, group: Group) -> Fraction:
        """Its part of what is trained on; those in flight have 1 together."""
        ...

    def windows(self, group: Group, step: int) -> tuple[int, int]:
        """Shortest and longest episode that may begin then, in windows."""
        ...


class StandingGroups:
    """A fixed sample of tasks in groups that stay for the whole run.

    Every lane draws the length of each of its episodes and starts anew when it is over,
    with another task of its group.

    Args:
      mix: what to sample.
      horizons: of the episodes.
      num_tasks: tasks in all groups together.
      seed: of the sample.
    """

    def __init__(self, mix: TaskMix, horizons: Horizons, num_tasks: int, seed: int):
        self._horizons = horizons
        self._tasks = tasksets.group_by_structure(mix.sample(num_tasks, seed))

    @property
    def slots(self) -> int:
        return len(self._tasks)

    def at(self, slot: int, step: int) -> Group:
        del step
        return Group(slot, generation=0, born=0, ends=None, windows=None)

    def after(self, group: Group) -> None:
        del group

    def tasks(self, group: Group) -> list[Task]:
        return self._tasks[group.slot]

    def share(self, group: Group) -> Fraction:
        return Fraction(len(self.tasks(group)), sum(map(len, self._tasks)))

    def windows(self, group: Group, step: int) -> tuple[int, int]:
        del group
        return self._horizons.windows(step)


class ChangingGroups:
    """Groups drawn one after the other, each replaced when its horizon ends.

    All lanes of a group begin together and run one episode, as long as the horizon drawn
    for the group. Slots are out of step: the very first group of each is cut at a
    uniformly random window, as `Truncation` does with lanes. Slots beyond ``slots`` have
    groups too: workers that come and go are numbered without an end.

    Args:
      mix: what to draw from.
      horizons: of the groups.
      slots: groups in flight at a time.
      tasks_per_group: tasks in each.
      seed: of all draws.
      whole_episodes: an estimate is a whole episode, so a group makes just one.
    """

    def __init__(
        self,
        mix: TaskMix,
        horizons: Horizons,
        slots: int,
        tasks_per_group: int,
        seed: int,
        *,
        whole_episodes: bool = False,
    ):
        self._mix = mix
        self._horizons = horizons
        self._slots = slots
        self._tasks_per_group = tasks_per_group
        self._seed = seed
        self._whole_episodes = whole_episodes
        self._latest: dict[int, Group] = {}  # places to start a search from, no more

    @property
    def slots(self) -> int:
        return self._slots

    def at(self, slot: int, step: int) -> Group:
        group = self._latest.get(slot)
        if group is None or step < group.born:
            group = self._draw(slot, 0, 0)
        while group.ends is not None and step >= group.ends:
            group = self.after(group)
        self._latest[slot] = group
        return group

    def after(self, group: Group) -> Group:
        assert group.ends is not None
        return self._draw(group.slot, group.generation + 1, group.ends)

    def tasks(self, group: Group) -> list[Task]:
        turn = group.slot + self._slots * group.generation
        seed = [self._seed, group.slot, group.generation, 1]
        return self._mix.sample_alike(self._tasks_per_group, turn, seed)

    def share(self, group: Group) -> Fraction:
        del group
        return Fraction(1, self._slots)

    def windows(self, group: Group, step: int) -> tuple[int, int]:
        del step
        assert group.windows is not None
        return group.windows, group.windows

    def _draw(self, slot: int, generation: int, born: int) -> Group:
        rng = np.random.default_rng([self._seed, slot, generation])
        windows = self._horizons.draw(born, rng)
        life = 1 if self._whole_episodes else windows
        if generation == 0:
            life = 1 + math.floor(life * rng.uniform())
        return Group(slot, generation, born, born + life, windows)
