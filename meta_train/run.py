"""One meta-training run in one folder, which can be stopped at any instant and resumed.

folder/config.json       the config
folder/metrics.jsonl     one line per outer step; the same with and without a stop
folder/timing.jsonl      seconds and inner steps per second, which never are the same
folder/tensorboard/      both, for those who have it open anyway
folder/checkpoints/      the last few states
folder/cache/            compiled programs
folder/theta/            the result, loadable with `pretrained.load`
folder/*.png             plots
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np

import pretrained
from meta_train import outer, stop_signals
from meta_train.checkpoint import Checkpoints
from meta_train.config import TrainConfig
from meta_train.devices import compilation_cache_in, lane_mesh
from meta_train.engine import Engine, Step
from meta_train.preparation import Preparation, View
from meta_train.processes import Processes, ProcessLostError
from meta_train.run_log import RunLog, Timing
from meta_train.run_log import read_metrics as read_metrics

CHECKPOINT_SECONDS = 15.0
_SPARE_PROGRAMS = 8  # kept beyond those in flight and those to come
LAST_WORDS_SECONDS = 5.0  # kept back from a time budget for the final checkpoint


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
      theta: the averaged meta-parameters.
      outer_steps: outer steps done in all.
      finished: whether all steps of the config are done.
      reason: "finished", "time budget", "SIGINT" or "SIGTERM".
      folder: where everything is.
    """

    theta: Any
    outer_steps: int
    finished: bool
    reason: str
    folder: Path


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a progress display may want to show, once per outer step."""

    step: int
    outer_steps: int
    metrics: dict[str, float]
    timing: Timing


def train(
    config: TrainConfig,
    folder: Path,
    *,
    resume: bool = False,
    time_budget: float | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    warn: Callable[[str], None] = print,
) -> Result:
    """Meta-train until the config's outer steps are done.

    Args:
      config: what to do.
      folder: the run folder, made when missing.
      resume: go on from the newest good checkpoint in the folder; starts afresh where
        there is none yet.
      time_budget: seconds after which to stop with a checkpoint; None is no limit.
        SIGINT and SIGTERM end a run in the same clean way.
      on_progress: called once per outer step.
      warn: told about anything unusual that did not stop the run.

    Raises:
      FileExistsError: the folder holds a run and ``resume`` is False.
      ValueError: the folder holds a run of another config; names the fields.
      CheckpointError: there are checkpoints, but none is usable.
      LookupError: an unknown suite, or tasks whose data are not on this machine.
      ProcessLostError: another process of the run is gone; start all of them again, as
        many as there are now, with ``resume``.

    Where `processes.connect` brought several processes together, all of them call this
    with the same arguments and a folder that all can see; the first one writes the logs
    and calls ``on_progress``.
    """
    deadline = None if time_budget is None else time.monotonic() + time_budget
    processes = Processes()
    first = processes.index == 0
    if first:
        claim(config, folder, resume)
    with (
        compilation_cache_in(folder / "cache"),
        stop_signals.watch() as stopped,
        _engine(config, folder, resume, processes, warn) as (engine, checkpoints),
        RunLog(folder, keep_steps=int(engine.state.step))
        if first
        else nullcontext() as log,
    ):

        def report(step: int, metrics: dict[str, float], timing: Timing) -> None:
            if log is not None:
                log.write(step, metrics, timing)
                on_progress(Progress(step, config.outer_steps, metrics, timing))

        with _naming_lost_processes(processes):
            reason = _loop(config, engine, checkpoints, report, deadline, stopped)
            checkpoints.save(engine)
            step, average = int(engine.state.step), engine.state.average
    result = Result(average, step, reason == "finished", reason, folder)
    if first:
        save_theta(config, result)
    return result


def save_theta(config: TrainConfig, result: Result, how: str = "") -> Path:
    """Write the result as a pretrained folder, with a card that says how it was made.

    Args:
      config: of the run.
      result: of the run.
      how: words of the command line beside those of the config.
    """
    path = result.folder / "theta"
    options = " or ".join(config.mix.task_options)
    suites = " and ".join(config.mix.suites)
    tasks = (
        f"{config.num_tasks} tasks"
        if config.groups_in_flight is None
        else f"groups of {config.tasks_per_group} tasks, one after the other,"
    )
    card = pretrained.Card(
        summary=f"{config.optimizer} after {result.outer_steps} outer steps.",
        trained_on=(
            f"{tasks} of {suites}{' with ' + options if options else ''}, horizons "
            f"{config.horizons.min_horizon} to {config.horizons.max_horizon}, "
            f"seed {config.seed}."
        ),
        command=f"{config.command()} {how}".strip(),
        compute="not recorded",
        results="not evaluated yet: `learned-opt evaluate` does it.",
        failures="unknown until evaluated.",
    )
    pretrained.save(
        path, config.learned_optimizer(), result.theta, card, overwrite=True
    )
    return path


@contextmanager
def _engine(
    config: TrainConfig,
    folder: Path,
    resume: bool,
    processes: Processes,
    warn: Callable[[str], None],
) -> Iterator[tuple[Engine, Checkpoints]]:
    """The engine at the step to go on from, and the checkpoints of its run."""
    mesh = lane_mesh()
    groups, optimizer = config.groups(), config.outer()
    state = outer.start_without_lanes(
        config.initial_theta(),
        optimizer,
        jax.random.key(config.seed),
        mesh,
        config.safety,
    )
    checkpoints = Checkpoints(folder / "checkpoints", config, processes, warn)
    found = checkpoints.restore_state(state) if resume else None
    if found is not None:
        state = found[1]
    processes.require_equal("the outer step to go on from", int(state.step))
    preparation = Preparation(
        groups,
        functools.partial(config.estimator_of, slots=groups.slots, mesh=mesh),
        View.of(state),
        mesh,
        kept_programs=2 * groups.slots + _SPARE_PROGRAMS,
    )
    update = outer.update_function(optimizer, clip=config.clip, safety=config.safety)
    try:
        engine = Engine(groups, preparation, update, state, processes, mesh)
        engine.begin()
        if found is not None:
            engine.set_lanes(checkpoints.restore_lanes(found[0], engine))
        yield engine, checkpoints
    finally:
        preparation.close()


def _loop(
    config: TrainConfig,
    engine: Engine,
    checkpoints: Checkpoints,
    report: Callable[[int, dict[str, float], Timing], None],
    deadline: float | None,
    stopped: list[str],
) -> str:
    """Outer steps until all are done, or a signal or the deadline says so; why it ended.

    One step is in flight: the metrics of step n are read while n + 1 runs. More would be
    no faster, and XLA's CPU collectives can deadlock on a queue. A wish to stop or to
    write a checkpoint travels with the sums over processes and is granted when they are
    read, so that all processes do it after the same step.
    """
    done = int(engine.state.step)
    saved_at = mark = time.monotonic()
    pending: Step | None = None

    def read(step: Step, number: int) -> None:
        nonlocal mark
        metrics = {k: float(x) for k, x in jax.device_get(step.metrics).items()}
        now = time.monotonic()
        seconds, mark = now - mark, now
        rate = step.inner_steps / seconds
        report(number, metrics, Timing(seconds, rate, step.waited, step.replaced))

    while done < config.outer_steps:
        now = time.monotonic()
        late = deadline is not None and now > deadline - LAST_WORDS_SECONDS
        due = now - saved_at > CHECKPOINT_SECONDS
        step = engine.step([bool(stopped), late, due])
        done += 1
        granted = np.zeros(3)
        if pending is not None:
            granted = pending.wishes
            read(pending, done - 1)
        pending = step
        if granted.any():
            read(pending, done)
            pending = None
        if granted[:2].any() and done < config.outer_steps:
            if granted[0]:
                return stopped[0] if stopped else "stopped by another process"
            return "time budget"
        if granted[2]:
            checkpoints.save(engine)
            saved_at = mark = time.monotonic()
    if pending is not None:
        read(pending, done)
    return "finished"


def claim(config: TrainConfig, folder: Path, resume: bool) -> None:
    """Make the folder this config's, or say why it cannot be."""
    path = folder / "config.json"
    if path.exists():
        if not resume:
            raise FileExistsError(
                f"{folder} already holds a run; go on with it by --resume, or choose "
                "another --folder."
            )
        differences = config.differences(TrainConfig.load(path))
        if differences:
            raise ValueError(
                f"{folder} holds a run of another config:\n  "
                + "\n  ".join(differences)
            )
        return
    folder.mkdir(parents=True, exist_ok=True)
    config.save(path)


@contextmanager
def _naming_lost_processes(processes: Processes) -> Iterator[None]:
    """Where a sum over processes fails, say what that means."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if processes.count == 1:
            raise
        raise ProcessLostError(
            f"process {processes.index} of {processes.count} cannot reach the others: one "
            "of them was killed, or its machine is gone. Start all again, as many as you "
            "like, with --resume."
        ) from error
