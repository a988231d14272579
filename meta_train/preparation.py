"""Groups made ready in the background, while others run.

To run, a group needs its tasks, their data on the devices, and a compiled program:

    window(estimator, view, lanes, slot, weight) -> (contribution, lanes)

The estimator is an argument, so tasks, data and horizons are never constants of a
program, and all groups of one structure share it. Programs that are no longer needed
are dropped, the least recently used first; the persistent compilation cache has them.
"""

import dataclasses
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from fractions import Fraction
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from meta_train.devices import compile_for, replicate
from meta_train.estimators import EvolutionStrategy
from meta_train.groups import Group, Groups
from meta_train.inner_training import InnerTraining
from meta_train.outer import Contribution, OuterState, contribution
from meta_train.system import Theta
from tasksets import Task

Lanes = Any  # an estimator's state
Program = Callable[..., tuple[Contribution, Lanes]]


class View(NamedTuple):
    """What of the outer state a group sees.

    Attributes:
      theta: the meta-parameters.
      key: the run's root key.
      step: outer steps done.
      restart: whether all lanes must begin new episodes.
    """

    theta: Theta
    key: PRNGKeyArray
    step: Int[Array, ""]
    restart: Bool[Array, ""]

    @classmethod
    def of(cls, state: OuterState) -> "View":
        return cls(state.theta, state.key, state.step, state.safety.restart)


class Prepared(NamedTuple):
    """A group that is ready to run.

    Attributes:
      group: which one.
      tasks: the names of its tasks.
      estimator: over the stacked tasks, placed on the devices.
      lanes: before the first estimate.
      program: the compiled window.
      weight: how much it counts in an outer step; 1 is the mean over groups.
      data: as the tasks hold them; while they are held, they are loaded once.
    """

    group: Group
    tasks: tuple[str, ...]
    estimator: EvolutionStrategy
    lanes: Lanes
    program: Program
    weight: np.float32
    data: Any


class Preparation:
    """Prepares groups, one at a time, in a thread.

    Args:
      groups: says what the tasks of a group are.
      estimator: makes an estimator of tasks of equal structure, with `Episodes`, that has
        a share of all pairs.
      view: of any state; tells shapes and places.
      mesh: over which lanes are spread; None for one device.
      kept_programs: compiled programs to keep, at least 1, in use or not.
    """

    def __init__(
        self,
        groups: Groups,
        estimator: Callable[[Sequence[Task], Fraction], EvolutionStrategy],
        view: View,
        mesh: Mesh | None,
        kept_programs: int,
    ):
        self._groups = groups
        self._estimator = estimator
        self._view = jax.tree.map(_abstract, view)
        self._key = jax.random.key(0)
        self._mesh = mesh
        self._kept_programs = kept_programs
        self._programs: OrderedDict[Any, Program] = OrderedDict()
        self._placed: weakref.WeakValueDictionary[int, Array] = (
            weakref.WeakValueDictionary()
        )
        self._asked: dict[Group, Future[Prepared]] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="preparation")

    def ask(self, group: Group) -> None:
        """Have a group prepared; what was asked for first is prepared first."""
        if group not in self._asked:
            self._asked[group] = self._thread.submit(self._prepare, group)

    def get(self, group: Group) -> Prepared:
        """A group, as soon as it is ready; raises what went wrong with its tasks."""
        self.ask(group)
        return self._asked.pop(group).result()

    def close(self) -> None:
        """Stop preparing; waits for what is being compiled right now."""
        self._thread.shutdown(cancel_futures=True)

    def _prepare(self, group: Group) -> Prepared:
        tasks = self._groups.tasks(group)
        share = self._groups.share(group)
        estimator = self._place(self._estimator(tasks, share))
        # Lanes that have not begun depend on nothing but theta's size.
        theta = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), self._view.theta)
        lanes = estimator.init(theta, self._key)
        names = tuple(task.name for task in tasks)
        program = self._program(estimator, lanes)
        weight = np.float32(share * self._groups.slots)
        return Prepared(group, names, estimator, lanes, program, weight, tasks[0].data)

    def _place(self, estimator: EvolutionStrategy) -> EvolutionStrategy:
        """On all devices of the mesh; data that several groups use are placed once."""
        system = estimator.system
        assert isinstance(system, InnerTraining)
        data = jax.tree.map(self._place_shared, system.task.data)
        task = dataclasses.replace(
            system.task, numbers=replicate(system.task.numbers, self._mesh), data=data
        )
        system = dataclasses.replace(system, task=task)
        return dataclasses.replace(estimator, system=system)

    def _place_shared(self, array: Array) -> Array:
        # Whoever holds the placed array holds the original too (`Prepared.data`), so
        # an identity cannot belong to another array by now.
        placed = self._placed.get(id(array))
        if placed is None:
            placed = replicate(array, self._mesh)
            self._placed[id(array)] = placed
        return placed

    def _program(self, estimator: EvolutionStrategy, lanes: Lanes) -> Program:
        numbers = np.int32(0), np.float32(1.0)  # slot and weight
        arguments = jax.tree.map(_abstract, (estimator, self._view, lanes, *numbers))
        leaves, structure = jax.tree.flatten(arguments)
        key = structure, tuple((leaf.shape, leaf.dtype) for leaf in leaves)
        if key in self._programs:
            self._programs.move_to_end(key)
            return self._programs[key]
        out_shardings = None
        if self._mesh is not None:
            everywhere = self._view.step.sharding
            out_shardings = (everywhere, jax.tree.map(lambda x: x.sharding, lanes))
        of_jit = {"donate_argnums": 2, "out_shardings": out_shardings}
        try:
            program = compile_for(window, arguments, **of_jit)
        except OSError:  # no room; groups hold those that are in use
            self._programs.clear()
            program = compile_for(window, arguments, **of_jit)
        self._programs[key] = program
        while len(self._programs) > self._kept_programs:
            self._programs.popitem(last=False)
        return program


def window(
    estimator: EvolutionStrategy,
    view: View,
    lanes: Lanes,
    slot: Int[Array, ""],
    weight: Float[Array, ""],
) -> tuple[Contribution, Lanes]:
    """One window of all lanes of a group."""
    # A lane without a single window has yet to begin.
    num_windows = jnp.where(view.restart, 0, lanes.num_windows)
    key = jax.random.fold_in(jax.random.fold_in(view.key, view.step), slot)
    estimate, lanes = estimator.estimate(
        view.theta, lanes._replace(num_windows=num_windows), key
    )
    return contribution(estimate, weight), lanes


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    sharding = x.sharding if isinstance(x, jax.Array) else None
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
