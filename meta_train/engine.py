"""The engine: outer steps over groups that come and go.

    every group in flight:  one window           -> contribution, lanes
    all of them together:   average, clip, update -> theta

A program per structure, and one for the update that is the same for all, so a new
structure compiles nothing but itself, and it does so in the background, in time: the
group that will follow in a slot is known as soon as the one before it begins.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from meta_train.devices import compiler_options, memory_mappings, require_room
from meta_train.groups import Group, Groups
from meta_train.outer import Contribution, Metrics, OuterState
from meta_train.preparation import Lanes, Preparation, Prepared, View
from meta_train.processes import Processes

_SAMPLE = 10  # groups whose programs tell what one takes


class GroupError(Exception):
    """A group that follows cannot be made ready, for its cause; no other has moved."""


class Step(NamedTuple):
    """What happened in an outer step, maybe still being computed.

    Attributes:
      metrics: scalars by name.
      totals: float32 sums over processes: of the wishes passed to `Engine.step`, then of
        ``inner_steps``, ``waited`` and ``replaced``.
      groups: what each group of this process had part in it.
    """

    metrics: Metrics
    totals: Any
    groups: tuple["Part", ...]

    def read(self) -> "Step":
        """The same on the host, as soon as it is computed."""
        return jax.device_get(self)

    def is_done(self) -> bool:
        """Whether all of it is computed by now."""
        leaves = jax.tree.leaves((self.metrics, self.totals))
        return all(x.is_ready() for x in leaves if hasattr(x, "is_ready"))

    @property
    def wishes(self) -> np.ndarray:
        """How many processes had each wish."""
        return np.asarray(self.totals)[:-3]

    @property
    def inner_steps(self) -> float:
        """Optimizer steps of all groups together."""
        return float(self.totals[-3])

    @property
    def waited(self) -> float:
        """Seconds spent waiting for groups that were not ready in time."""
        return float(self.totals[-2])

    @property
    def replaced(self) -> int:
        """Groups that made room for the next."""
        return int(self.totals[-1])


class Part(NamedTuple):
    """A group in an outer step.

    Attributes:
      group: which one.
      tasks: the names of its tasks.
      loss: its outer loss times ``counted``.
      counted: its weight, or 0 where its estimate was lost.
    """

    group: Group
    tasks: tuple[str, ...]
    loss: Any
    counted: Any


class Running:
    """A group in flight; ``prepared`` gives its lanes away, so that they are here once."""

    def __init__(self, prepared: Prepared):
        self.lanes = prepared.lanes
        self.prepared = prepared._replace(lanes=None)
        self.windows: tuple[int, int] | None = None  # the bounds in the estimator

    def set_windows(self, windows: tuple[int, int]) -> None:
        """Change the bounds of episodes that begin from now on."""
        if windows != self.windows:
            low, high = map(np.int32, windows)
            old = self.prepared.estimator
            episodes = dataclasses.replace(
                old.truncation, min_windows=low, max_windows=high
            )
            new = dataclasses.replace(old, truncation=episodes)
            self.prepared = self.prepared._replace(estimator=new)
            self.windows = windows

    def advance(self, view: View, slot: int) -> Contribution:
        """One window of all lanes; ``slot`` tells their noise from that of others."""
        ready = self.prepared
        contribution, self.lanes = ready.program(
            ready.estimator, view, self.lanes, np.int32(slot), ready.weight
        )
        return contribution

    @property
    def inner_steps(self) -> float:
        """Optimizer steps of an estimate, those of all particles."""
        return self.prepared.estimator.inner_steps()


class Engine:
    """Groups in flight, and the state that they move on together.

    Args:
      groups: which groups there are.
      preparation: makes them ready.
      update: from `outer.update_function`.
      state: before the next outer step; its ``lanes`` are empty. Donated.
      processes: who runs which slots.
      mesh: over which lanes are spread; None for one device.
      outer_steps: how many there are to be; no group is made ready to follow the last.
    """

    def __init__(
        self,
        groups: Groups,
        preparation: Preparation,
        update: Any,
        state: OuterState,
        processes: Processes,
        mesh: Mesh | None,
        outer_steps: int,
    ):
        self.state = state
        self._outer_steps = outer_steps
        self._groups = groups
        self._preparation = preparation
        self._processes = processes
        self._step = int(state.step)
        self._slots = processes.share(range(groups.slots))
        self._running: dict[int, Running] = {}
        # XLA's CPU collectives can deadlock on a queue of programs.
        self._one_at_a_time = mesh is not None and jax.default_backend() == "cpu"
        sharding = state.step.sharding if mesh is not None else None
        self._update = jax.jit(
            update,
            donate_argnums=0,
            out_shardings=sharding,
            compiler_options=compiler_options(),
        )

    def begin(self, stop: Callable[[], bool] = lambda: False) -> bool:
        """Put the groups of this step in flight, with lanes that have not begun.

        Args:
          stop: asked before each of them, which may take long to compile.

        Returns:
          Whether all are in flight; not so where ``stop``, in any process, said True.

        Raises:
          OSError: by what the first ones took, there is no room for all their programs.
        """
        present = [self._groups.at(slot, self._step) for slot in self._slots]
        for group in present:
            self._preparation.ask(group)
        for group in sorted(present, key=_end):
            self._ask_next(group)
        told = False
        before, _ = memory_mappings()
        for ready, group in enumerate(present):
            if told := stop():
                break
            if ready >= _SAMPLE:  # what follows may take minutes, to end in an error
                each = (memory_mappings()[0] - before) / ready
                require_room(len(present) - ready, each)
            self._running[group.slot] = Running(self._preparation.get(group))
        return not self._processes.any(told)

    def set_lanes(self, lanes: Mapping[int, Lanes]) -> None:
        """Go on with these lanes, by slot."""
        for slot, found in lanes.items():
            self._running[slot].lanes = found

    def step(self, wishes: Sequence[bool] = ()) -> Step:
        """One outer step; what this process wishes for, all will know.

        Raises:
          GroupError: a group that takes the place of another cannot be made ready.
        """
        waited, replaced = self._replace_groups()
        view = View.of(self.state)
        contributions: list[Contribution] = []
        parts: list[Part] = []
        inner_steps = 0.0
        for slot, running in self._running.items():
            group = running.prepared.group
            running.set_windows(self._groups.windows(group, self._step))
            contribution = running.advance(view, slot)
            if self._one_at_a_time:
                jax.block_until_ready(contribution)
            contributions.append(contribution)
            loss, counted = contribution.metrics["loss"], contribution.groups
            parts.append(Part(group, running.prepared.tasks, loss, counted))
            inner_steps += running.inner_steps
        numbers = np.array([*wishes, inner_steps, waited, replaced], np.float32)
        total, totals = self._processes.sum(contributions, numbers)
        self.state, metrics = self._update(self.state, total)
        self._step += 1
        return Step(metrics, totals, tuple(parts))

    @property
    def lanes(self) -> dict[int, Lanes]:
        """The lanes of this process's groups by slot."""
        return {slot: running.lanes for slot, running in self._running.items()}

    @property
    def in_flight(self) -> dict[int, Prepared]:
        """This process's groups by slot; some may end with the step just done."""
        return {slot: running.prepared for slot, running in self._running.items()}

    def _replace_groups(self) -> tuple[float, int]:
        present = {slot: self._groups.at(slot, self._step) for slot in self._running}
        new = [
            group
            for slot, group in present.items()
            if group != self._running[slot].prepared.group
        ]
        started = time.monotonic()
        try:
            ready = [self._preparation.get(group) for group in new]
        except Exception as error:
            raise GroupError from error
        waited = time.monotonic() - started if new else 0.0
        for prepared in ready:
            self._running[prepared.group.slot] = Running(prepared)
            self._ask_next(prepared.group)
        return waited, len(new)

    def _ask_next(self, group: Group) -> None:
        following = self._groups.after(group)
        if following is not None and following.born < self._outer_steps:
            self._preparation.ask(following)


def _end(group: Group) -> float:
    return float("inf") if group.ends is None else group.ends
