"""Elastic meta-training: workers come and go, and theta moves on with those that are there.

    worker:  takes theta of some version -> one window -> contribution
    leader:  averages ``groups_in_flight`` contributions -> clip, update -> next version

Nobody waits for anybody. A contribution was estimated under the theta of some steps ago;
one that is staler than a limit is dropped and counted (batched asynchronous training with
a limit of five, as in Metz et al. 2019, arXiv 1810.10180, and 2020, arXiv 2009.11243). An
outer step averages as many groups as that of a run without workers, so the number of
workers changes how fast a run is and how stale its gradients are, and nothing else.

The leader knows workers by a `Pool` alone. Its checkpoints hold theta and all that moves
with it; lanes live in the workers, and begin anew when the run goes on after a stop.
"""

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from meta_train import outer, run, stop_signals
from meta_train.checkpoint import Checkpoints
from meta_train.config import TrainConfig
from meta_train.devices import compilation_cache_in, compiler_options
from meta_train.loop import FINISHED, LAST_WORDS_SECONDS, OUT_OF_TIME
from meta_train.outer import OuterState
from meta_train.processes import Processes
from meta_train.run_log import RunLog, Timing, cut_back
from meta_train.theta_folder import save_theta
from meta_train.worker import Assignment, Delivery, require_changing_groups

STALENESS = 5  # outer steps
SILENCE_SECONDS = 60.0  # without any delivery, after which somebody is told
_PATIENCE_SECONDS = 1.0  # between looks at the clock and at signals


class Pool(Protocol):
    """Workers, wherever they run; each does one thing at a time."""

    @property
    def size(self) -> int:
        """How many there should be; they are numbered from 0."""
        ...

    def submit(self, worker: int, assignment: Assignment) -> None:
        """Have a worker run an assignment, now or as soon as there is a place for it.

        A worker that is lost begins anew by itself, wherever there is a place, with
        what it was told last.
        """
        ...

    def next(self, timeout: float) -> Delivery | None:
        """The next delivery, or None after so many seconds without one."""
        ...


class Update(NamedTuple):
    """An outer step of the leader.

    Attributes:
      metrics: scalars by name; those of `outer.update_function`, and

          staleness     mean age of the contributions in this step, in outer steps
          stale         contributions dropped since the leader began
          workers       how many have begun
          lost_workers  how often one of them was lost and began anew

      inner_steps: optimizer steps that went into it.
      waited: seconds that workers spent waiting for groups.
      replaced: groups that made room for the next.
    """

    metrics: dict[str, float]
    inner_steps: float
    waited: float
    replaced: int


class Leader:
    """The outer state, and what workers have contributed to the next step.

    Args:
      pool: the workers; all of them are given something to do.
      update: from `outer.update_function`.
      state: before the next outer step. Donated.
      groups: contributions to an outer step, at least 1.
      staleness: age in outer steps above which contributions are dropped, at least 0.
    """

    def __init__(
        self, pool: Pool, update: Any, state: OuterState, groups: int, staleness: int
    ):
        if staleness < 0:
            raise ValueError(f"staleness is at least 0 outer steps, not {staleness}.")
        self.state = state
        self.lanes: dict[int, Any] = {}  # none: they live in the workers
        self.in_flight: dict[int, Any] = {}
        self._pool = pool
        self._groups = groups
        self._staleness = staleness
        self._update = jax.jit(
            update, donate_argnums=0, compiler_options=compiler_options()
        )
        rollbacks = int(getattr(state.safety, "rollbacks", 0))
        self._current = Assignment(_copy(state.theta), int(state.step), rollbacks)
        self._ages: list[int] = []
        self._batch: list[Delivery] = []
        self._begun: set[int] = set()
        self._lost = self._stale = 0
        for worker in range(pool.size):
            pool.submit(worker, self._current)

    def receive(self, delivery: Delivery) -> Update | None:
        """Take a delivery, give its worker the newest theta; an update if one is due."""
        update = None
        if delivery.contribution is None:
            self._lost += delivery.worker in self._begun
            self._begun.add(delivery.worker)
        elif self._is_stale(delivery):
            self._stale += 1
        else:
            self._batch.append(delivery)
            self._ages.append(self._current.version - delivery.version)
            if len(self._batch) == self._groups:
                update = self._step()
        self._pool.submit(delivery.worker, self._current)
        return update

    def _is_stale(self, delivery: Delivery) -> bool:
        age = self._current.version - delivery.version
        return age > self._staleness or delivery.rollbacks < self._current.rollbacks

    def _step(self) -> Update:
        batch, ages, self._batch, self._ages = self._batch, self._ages, [], []
        contributions = [delivery.contribution for delivery in batch]
        total = jax.tree.map(lambda *xs: sum(xs), *contributions)
        self.state, metrics = self._update(self.state, [total])
        found = {name: float(x) for name, x in jax.device_get(metrics).items()}
        self._current = Assignment(
            _copy(self.state.theta),
            self._current.version + 1,
            int(found.get("rollbacks", 0)),
        )
        found |= {
            "staleness": float(np.mean(ages)),
            "stale": float(self._stale),
            "workers": float(len(self._begun)),
            "lost_workers": float(self._lost),
        }
        return Update(
            found,
            inner_steps=sum(delivery.inner_steps for delivery in batch),
            waited=sum(delivery.waited for delivery in batch),
            replaced=sum(delivery.replaced for delivery in batch),
        )


def contributions(config: TrainConfig) -> int:
    """How many contributions make an outer step.

    Raises:
      ValueError: it is no config for workers that come and go.
    """
    if config.proxy.proxy_every is not None:
        raise ValueError(
            "a run with workers does not evaluate theta meanwhile; leave out "
            "--proxy-every, and evaluate its folder whenever you like."
        )
    return require_changing_groups(config)


def train(
    config: TrainConfig,
    folder: Path,
    pool: Pool,
    *,
    staleness: int = STALENESS,
    resume: bool = False,
    time_budget: float | None = None,
    on_progress: Callable[[run.Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda text: None,
    warn: Callable[[str], None] = print,
) -> run.Result:
    """Meta-train with workers until the config's outer steps are done.

    The folder, how a run ends and what it raises are as in `run.train`, and either can go
    on with a run of the other; but how it goes depends on who was how fast, so nothing is
    repeated bit by bit.

    Args:
      config: what to do; its groups must be such as come and go.
      folder: the run folder, made when missing; workers need not see it.
      pool: the workers.
      staleness: age in outer steps above which contributions are dropped.
      resume: go on from the newest good checkpoint in the folder.
      time_budget: seconds after which to stop with a checkpoint; None is no limit.
      on_progress: called once per outer step.
      note: told what an outer step is.
      warn: told about anything unusual, such as workers of which nothing is heard.
    """
    deadline = None if time_budget is None else time.monotonic() + time_budget
    groups, optimizer = contributions(config), config.outer()
    note(f"an outer step is the mean of {groups} contributions, from any workers")
    with run.claimed(config, folder, resume, warn):
        state = outer.start_without_lanes(
            config.initial_theta(),
            optimizer,
            jax.random.key(config.seed),
            None,
            config.safety,
        )
        checkpoints = Checkpoints(folder / "checkpoints", config, Processes(), warn)
        found = checkpoints.restore_state(state) if resume else None
        if found is not None:
            state = found[1]
        for path in folder.glob("groups*.jsonl"):  # of a run without workers until then
            cut_back(path, int(state.step))
        update = outer.update_function(
            optimizer, clip=config.clip, safety=config.safety
        )
        with (
            compilation_cache_in(folder / "cache"),
            stop_signals.watch() as stopped,
            closing(checkpoints.writer),
            RunLog(folder, int(state.step), warn) as log,
        ):
            leader = Leader(pool, update, state, groups, staleness)

            def report(step: int, metrics: dict[str, float], timing: Timing) -> None:
                log.write(step, metrics, timing)
                on_progress(run.Progress(step, config.outer_steps, metrics, timing))

            reason = _lead(
                config, leader, pool, checkpoints, report, deadline, stopped, warn
            )
            checkpoints.save_last(leader, {})
        step, average = int(leader.state.step), leader.state.average
        result = run.Result(average, step, reason == FINISHED, reason, folder)
        how = f"--elastic {pool.size} --staleness {staleness}"
        save_theta(config, folder / "theta", average, step, how=how)
        return result


def _copy(theta: Any) -> Any:
    """On the host, where no update can overwrite it."""
    return jax.tree.map(np.array, theta)


def _lead(
    config: TrainConfig,
    leader: Leader,
    pool: Pool,
    checkpoints: Checkpoints,
    report: Callable[[int, dict[str, float], Timing], None],
    deadline: float | None,
    stopped: list[str],
    warn: Callable[[str], None],
) -> str:
    """Outer steps until all are done, or a signal or the deadline says so; why it ended."""
    writer, done = checkpoints.writer, int(leader.state.step)
    saved_at = mark = heard_at = time.monotonic()
    while done < config.outer_steps:
        if stopped:
            return stopped[0]
        last_words = LAST_WORDS_SECONDS + 2 * writer.longest
        if deadline is not None and time.monotonic() > deadline - last_words:
            return OUT_OF_TIME
        delivery = pool.next(_PATIENCE_SECONDS)
        now = time.monotonic()
        if delivery is None:
            if now - heard_at > SILENCE_SECONDS:
                warn(
                    f"no worker was heard of for {SILENCE_SECONDS:.0f} s; `ray status` "
                    "tells whether there is a place for them."
                )
                heard_at = now
            continue
        heard_at = now
        update = leader.receive(delivery)
        if update is None:
            continue
        done += 1
        now = time.monotonic()
        seconds, mark = now - mark, now
        speed = seconds, update.inner_steps / seconds
        timing = Timing(*speed, update.waited, update.replaced, writer.failures)
        report(done, update.metrics, timing)
        if now - saved_at > run.CHECKPOINT_SECONDS and not writer.busy:
            checkpoints.save(leader, {})
            saved_at = time.monotonic()
    return FINISHED
