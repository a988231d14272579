"""The outer loop of a run: step after step, until all are done or somebody wants to stop.

One step is in flight: the metrics of step n are read while n + 1 runs. More would be no
faster, and XLA's CPU collectives can deadlock on a queue.
"""

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from meta_train.checkpoint import Checkpoints
from meta_train.engine import Engine, GroupError, Step
from meta_train.group_log import GroupLog
from meta_train.processes import Processes
from meta_train.run_log import Timing
from meta_train.selection import Selection

FINISHED, OUT_OF_TIME = "finished", "time budget"
LAST_WORDS_SECONDS = 5.0  # kept back from a time budget for the final checkpoint
_STEPS_TO_STOP = 4  # begun by when a wish to stop is granted, and not done
_RECENT_STEPS = 16


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A run in progress, as one process has it.

    Attributes:
      engine: makes the steps.
      checkpoints: of the run.
      groups: their log.
      selection: evaluates theta; None where nothing is evaluated.
      processes: of which this is one.
      begun: whether all groups are in flight; otherwise a stop came before that.
      outer_steps: how many there are to be.
      checkpoint_seconds: between checkpoints.
    """

    engine: Engine
    checkpoints: Checkpoints
    groups: GroupLog
    selection: Selection | None
    processes: Processes
    begun: bool
    outer_steps: int
    checkpoint_seconds: float

    @property
    def step(self) -> int:
        """Outer steps done; waits for them."""
        return int(self.engine.state.step)


class _InFlight(NamedTuple):
    """A step that may still be being computed, or that has been read."""

    number: int  # from 1
    step: Step
    done_at: float | None  # None where that is not known

    @classmethod
    def begun(cls, number: int, step: Step) -> "_InFlight":
        # Where computations are not queued it is done, and maybe long before it is read.
        return cls(number, step, time.monotonic() if step.is_done() else None)

    def read(self) -> "_InFlight":
        """The same on the host, as soon as it is computed."""
        return self._replace(step=self.step.read())


def outer_loop(
    run: Run,
    report: Callable[[int, Step, Timing], None],
    deadline: float | None,
    stopped: list[str],
) -> str:
    """Make the outer steps that are missing; why it ended.

    A wish to stop or to write a checkpoint travels with the sums over processes and is
    granted when they are read, so that all processes do it after the same step: a stop
    where any of them wishes it, a checkpoint where all do, none of them being busy with
    the one before.

    Args:
      run: what to go on with.
      report: told of every step, in order, from 1.
      deadline: of `time.monotonic`, by when the last checkpoint should be on disk.
      stopped: receives the name of a signal that asks to stop.

    Returns:
      "finished", "time budget", the name of the signal, or "stopped by another process".

    Raises:
      GroupError: by its cause, a group cannot follow another; all steps made are reported.
    """
    if not run.begun:
        late = deadline is not None and time.monotonic() > deadline
        return _why(stopped, late)
    engine, writer = run.engine, run.checkpoints.writer
    done = run.step
    saved_at = mark = time.monotonic()
    pending: _InFlight | None = None
    recent: deque[float] = deque([0.0], _RECENT_STEPS)  # seconds of steps

    def last_moment() -> float:
        """When to stop, to have a checkpoint by the deadline."""
        if deadline is None:
            return float("inf")
        steps = _STEPS_TO_STOP * max(recent)
        return deadline - LAST_WORDS_SECONDS - 2 * writer.longest - steps

    def tell(steps: list[_InFlight], following: _InFlight | None) -> None:
        """Report what has been read since the last time; one more may be in flight."""
        nonlocal mark
        # The time until the first end that is known is shared by those who do not know.
        sharing = list(steps)
        if following is not None and following.done_at is not None:
            sharing.append(following)
        end = sharing[-1].done_at or time.monotonic()
        for i, (number, step, done_at) in enumerate(steps):
            at = done_at or mark + (end - mark) / (len(sharing) - i)
            seconds, mark = at - mark, at
            recent.append(seconds)
            speed = seconds, step.inner_steps / seconds
            timing = Timing(*speed, step.waited, step.replaced, writer.failures)
            report(number, step, timing)

    def to_evaluate() -> bool:
        return run.selection is not None and run.selection.due(done)

    def evaluated() -> bool:
        """Evaluate theta where it is due; False where a stop came before it was done."""
        nonlocal mark
        if run.selection is None or not to_evaluate():
            return True
        # Several processes must agree on when to stop.
        alone = run.processes.count == 1
        stop = lambda: alone and (bool(stopped) or time.monotonic() > last_moment())
        complete = run.selection.evaluate(done, engine.state.average, stop)
        mark = time.monotonic()
        return complete

    if not evaluated():
        return _why(stopped, late=True)
    while done < run.outer_steps:
        now = time.monotonic()
        due = now - saved_at > run.checkpoint_seconds and not writer.busy
        wishes = bool(stopped), now > last_moment(), due
        try:
            made = engine.step(wishes)
        except GroupError:
            if pending is not None:
                tell([pending.read()], None)
            raise
        done += 1
        newest = _InFlight.begun(done, made)
        arrived = [] if pending is None else [pending.read()]
        granted = arrived[0].step.wishes if arrived else np.zeros(3)
        pending = newest
        stop, late, save = granted >= (1, 1, run.processes.count)
        last = done == run.outer_steps
        if last or stop or late or save or to_evaluate():  # would count as its seconds
            arrived.append(newest.read())
            pending = None
            granted = np.maximum(granted, arrived[-1].step.wishes)
            stop, late, save = granted >= (1, 1, run.processes.count)
        if arrived:
            tell(arrived, pending)
        if stop and done < run.outer_steps:
            return _why(stopped, late=False)
        if late and done < run.outer_steps:
            return OUT_OF_TIME
        if not evaluated():
            return _why(stopped, late=True)
        if save:
            run.checkpoints.save(engine, run.groups.totals)
            saved_at = mark = time.monotonic()
    return FINISHED


def _why(stopped: list[str], late: bool) -> str:
    """Why a run stops: a signal, the time, or else what another process was told."""
    if stopped:
        return stopped[0]
    return OUT_OF_TIME if late else "stopped by another process"
