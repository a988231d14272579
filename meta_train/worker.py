"""The worker of an elastic run: one group after the other, one window each time it is asked.

It is told a theta and which version that is; it lets its lanes live through one window
under it and answers with what they contribute. The particles stay here: theta comes in, a
gradient goes out, and a worker that is lost takes nothing with it but its lanes.

Which groups worker ``n`` trains on is the stream of slot ``n``: `ChangingGroups`. Time is
counted in windows of its own, since others may be faster or slower; only how long
horizons are by now is told by the version of theta.
"""

import dataclasses
import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from meta_train.config import TrainConfig
from meta_train.devices import replicate
from meta_train.engine import Running
from meta_train.groups import Group
from meta_train.outer import Contribution
from meta_train.preparation import Preparation, View
from meta_train.system import Theta

_KEPT_PROGRAMS = 8


class Assignment(NamedTuple):
    """What a worker is told.

    Attributes:
      theta: the meta-parameters, as numpy arrays.
      version: outer steps done when theta became what it is.
      rollbacks: how often theta was rolled back by then.
    """

    theta: Theta
    version: int
    rollbacks: int


class Delivery(NamedTuple):
    """What a worker answers.

    Attributes:
      worker: its number.
      version: of the theta that it was told.
      rollbacks: as told with it.
      contribution: of its group, as numpy arrays; None from a worker that has just
        begun, and was getting its first group ready.
      inner_steps: optimizer steps of the estimate.
      waited: seconds spent waiting for a group that was not ready in time.
      replaced: whether a group made room for the next.
    """

    worker: int
    version: int
    rollbacks: int
    contribution: Contribution | None
    inner_steps: float = 0.0
    waited: float = 0.0
    replaced: bool = False


class Worker:
    """Groups, one after the other, under whatever theta it is told.

    Args:
      config: of the run; ``groups_in_flight`` says into how many parts its pairs go.
      number: of this worker, from 0; no other has it at the same time.
      mesh: over which lanes are spread; None for one device.

    Raises:
      ValueError: the run has groups that stay, which nobody can take over.
    """

    def __init__(self, config: TrainConfig, number: int, mesh: Mesh | None):
        require_changing_groups(config)
        self._number, self._mesh = number, mesh
        self._groups = config.groups()
        self._key = jax.random.key(config.seed)
        init = jax.jit(config.learned_optimizer().init)
        self._preparation = Preparation(
            self._groups,
            functools.partial(config.estimator_of, mesh=mesh),
            self._place(init(self._key), self._key, 0, restart=False),
            mesh,
            kept_programs=_KEPT_PROGRAMS,
        )
        self._running: Running | None = None
        self._next: Group
        self._left = 0  # windows that the group has yet to run
        self._told = (0, 0, 0)  # version, its windows so far, rollbacks

    def run(self, assignment: Assignment) -> Delivery:
        """One window under a theta; the very first time, the first group made ready.

        Raises:
          LookupError: the tasks' data are not on this machine.
        """
        _, version, rollbacks = assignment
        if self._running is None:
            group = self._groups.at(self._number, version)
            assert group.ends is not None
            self._start(group, group.ends - version, version)
            self._told = (version, 0, rollbacks)
            return Delivery(self._number, version, rollbacks, None)
        started, replaced = time.monotonic(), self._left == 0
        if replaced:
            group = self._next
            assert group.ends is not None
            self._start(group, group.ends - group.born, version)
        waited = time.monotonic() - started if replaced else 0.0
        view = self._view(assignment)
        running = self._running
        running.set_windows(self._groups.windows(running.prepared.group, version))
        contribution = jax.device_get(running.advance(view, self._number))
        self._left -= 1
        return Delivery(
            self._number,
            version,
            rollbacks,
            contribution,
            running.inner_steps,
            waited,
            replaced,
        )

    def close(self) -> None:
        """Stop preparing groups."""
        self._preparation.close()

    def _start(self, group: Group, windows: int, version: int) -> None:
        """Run a group for so many windows, and have the one after it prepared."""
        self._running = Running(self._preparation.get(group))
        self._left = windows
        ends = version + windows  # or so: others may be faster or slower
        following = self._groups.after(dataclasses.replace(group, ends=ends))
        assert following is not None
        self._next = following
        self._preparation.ask(following)

    def _view(self, assignment: Assignment) -> View:
        theta, version, rollbacks = assignment
        last_version, windows, last_rollbacks = self._told
        repeats = windows if version == last_version else 0
        self._told = (version, repeats + 1, rollbacks)
        # Two windows under one theta must not see the same noise.
        key = jax.random.fold_in(self._key, repeats) if repeats else self._key
        return self._place(theta, key, version, restart=rollbacks > last_rollbacks)

    def _place(self, theta: Theta, key: jax.Array, step: int, restart: bool) -> View:
        theta = jax.tree.map(jnp.asarray, theta)
        view = View(theta, key, jnp.int32(step), jnp.bool(restart))
        return replicate(view, self._mesh)


def require_changing_groups(config: TrainConfig) -> int:
    """How many groups the pairs of a run are divided over.

    Raises:
      ValueError: its groups stay.
    """
    if config.groups_in_flight is None:
        raise ValueError(
            "where workers come and go, groups do so too: say by --groups-in-flight how "
            "many contributions make an outer step."
        )
    return config.groups_in_flight
