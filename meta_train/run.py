"""One meta-training run in one folder, which can be stopped at any instant and resumed.

folder/config.json       the config
folder/lock              says which process has the folder; see `folder_lock`
folder/metrics.jsonl     one line per outer step; the same with and without a stop
folder/groups.jsonl      one line per group that ended; likewise
folder/timing.jsonl      seconds and inner steps per second, which never are the same
folder/tensorboard/      both, for those who have it open anyway
folder/checkpoints/      the last few states
folder/cache/            compiled programs
folder/theta/            the result, loadable with `pretrained.load`
folder/best/             the theta that did best on held-out tasks; see `selection`
folder/report.html       all of it to look at; `report.write` makes it, at any time
"""

import dataclasses
import functools
import os
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

import tasksets
from meta_train import folder_lock, outer, stop_signals
from meta_train.checkpoint import Checkpoints
from meta_train.config import TrainConfig
from meta_train.devices import compilation_cache_in, lane_mesh
from meta_train.engine import Engine, GroupError, Step
from meta_train.group_log import GroupLog, forget_lost_processes
from meta_train.groups import Groups
from meta_train.inner_training import InnerTraining
from meta_train.loop import FINISHED, OUT_OF_TIME, Run, outer_loop
from meta_train.preparation import Preparation, Prepared, View
from meta_train.processes import Processes, ProcessLostError
from meta_train.run_log import RunLog, Timing, read_rows
from meta_train.run_log import read_metrics as read_metrics
from meta_train.selection import Selection
from meta_train.theta_folder import save_theta

CHECKPOINT_SECONDS = 15.0
_SPARE_PROGRAMS = 8  # kept beyond those in flight and those to come
_MUCH_DEARER = 20  # times what tasks usually cost here
_DEAR = 10**8  # operations of a gradient


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
      theta: the averaged meta-parameters.
      outer_steps: outer steps done in all.
      finished: whether all steps of the config are done.
      reason: "finished", "time budget", "SIGINT", "SIGTERM", or "stopped by another
        process", one of several that was told to stop.
      folder: where everything is.
    """

    theta: Any
    outer_steps: int
    finished: bool
    reason: str
    folder: Path

    @property
    def told_to_stop(self) -> bool:
        """Whether somebody wanted it to end, who will not want anything begun after it."""
        return self.reason not in (FINISHED, OUT_OF_TIME)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What a progress display may want to show, once per outer step."""

    step: int
    outer_steps: int
    metrics: dict[str, float]
    timing: Timing


def train(
    config: TrainConfig,
    folder: str | os.PathLike[str],
    *,
    resume: bool = False,
    time_budget: float | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    note: Callable[[str], None] = lambda text: None,
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
      note: told what the config comes to on these devices.
      warn: told about anything unusual that did not stop the run.

    Raises:
      FileExistsError: the folder holds a run and ``resume`` is False.
      FolderInUseError: another process is training in the folder.
      ValueError: the folder holds a run of another config; names the fields.
      CheckpointError: there are checkpoints, but none is usable; or the last one of this
        run could not be written (those before it may fail).
      LookupError: an unknown suite, or tasks whose data are not on this machine. Where
        that comes in the middle of a run, its steps and their theta are kept.
      DisagreementError: other processes have another config, or see another folder.
      ProcessLostError: another process of the run is gone; start all of them again, as
        many as there are now, with ``resume``.

    Where `processes.connect` brought several processes together, all of them call this
    with the same arguments and a folder that all can see; the first one writes the logs
    and calls ``on_progress``.
    """
    folder = Path(folder)
    deadline = None if time_budget is None else time.monotonic() + time_budget
    processes = Processes()
    late = lambda: deadline is not None and time.monotonic() > deadline
    first = processes.index == 0
    # Told apart, they would train along, each in its own way.
    told = f"{config.text()}{config.digests()}"
    config_hash = zlib.crc32(told.encode()) >> 1  # for an int32
    with _naming_lost_processes(processes):
        processes.require_equal(
            "the config", config_hash, "start all of them with the same command."
        )
    with (
        _naming_lost_processes(processes),
        claimed(config, folder, resume, warn) if first else nullcontext(),
        compilation_cache_in(folder / "cache"),
        stop_signals.watch() as stopped,
        _begun(
            config,
            folder,
            resume,
            processes,
            lambda: bool(stopped) or late(),
            note,
            warn,
        ) as run,
        RunLog(folder, run.step, warn) if first else nullcontext() as log,
    ):

        def report(number: int, step: Step, timing: Timing) -> None:
            run.groups.add(number, step.groups)
            if log is not None:
                metrics = {k: float(x) for k, x in step.metrics.items()}
                log.write(number, metrics, timing)
                on_progress(Progress(number, config.outer_steps, metrics, timing))

        lost, reason = None, ""
        try:
            reason = outer_loop(run, report, deadline, stopped)
        except GroupError as error:
            lost = error.__cause__
        if run.begun:
            run.checkpoints.save_last(run.engine, run.groups.totals)
        step, average = run.step, run.engine.state.average
        if first:
            save_theta(config, folder / "theta", average, step)
        if lost is not None:
            warn(f"tasks could not be made ready; step {step} is in {folder}.")
            raise lost
    return Result(average, step, reason == FINISHED, reason, folder)


@contextmanager
def _begun(
    config: TrainConfig,
    folder: Path,
    resume: bool,
    processes: Processes,
    stop: Callable[[], bool],
    note: Callable[[str], None],
    warn: Callable[[str], None],
) -> Iterator[Run]:
    """The run at the step to go on from; not all of it where ``stop`` says so."""
    mesh = lane_mesh()
    if config.proxy.proxy_every is not None:
        config.proxy.entries(config.mix)  # raises before minutes went into compiling
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
    processes.require_equal(
        "the outer step to go on from", int(state.step), "they see other run folders."
    )
    if processes.index == 0:
        _tell_pairs(config, groups, mesh, note, warn)
    preparation = Preparation(
        groups,
        functools.partial(config.estimator_of, mesh=mesh),
        View.of(state),
        mesh,
        kept_programs=2 * groups.slots + _SPARE_PROGRAMS,
    )
    update = outer.update_function(optimizer, clip=config.clip, safety=config.safety)
    try:
        engine = Engine(
            groups,
            preparation,
            update,
            state,
            processes,
            mesh,
            outer_steps=config.outer_steps,
        )
        begun = engine.begin(stop)
        _tell_dearest([*engine.in_flight.values()], warn)
        totals = {}
        if found is not None:
            engine.set_lanes(checkpoints.restore_lanes(found[0], engine))
            totals = checkpoints.restore_totals(found[0], engine)
        step = int(engine.state.step)
        if processes.index == 0:
            forget_lost_processes(folder, processes.count, step)
        with (
            closing(checkpoints.writer),
            GroupLog(
                folder, processes.index, step, config.outer_steps, totals, warn
            ) as log,
            _selection(config, folder, step, processes, warn) as selection,
        ):
            yield Run(
                engine,
                checkpoints,
                log,
                selection,
                processes,
                begun,
                outer_steps=config.outer_steps,
                checkpoint_seconds=CHECKPOINT_SECONDS,
            )
    finally:
        preparation.close()


def _tell_pairs(
    config: TrainConfig,
    groups: Groups,
    mesh: Mesh | None,
    note: Callable[[str], None],
    warn: Callable[[str], None],
) -> None:
    """How many pairs there are; they must divide over groups and devices."""
    devices = 1 if mesh is None else mesh.size
    slots = groups.slots
    shares = [groups.share(groups.at(slot, 0)) for slot in range(slots)]
    each = [config.pairs_of_share(share, devices) for share in shares]
    sizes = " to ".join(map(str, sorted({min(each), max(each)})))
    pairs = f"{sum(each)} antithetic pairs: {slots} groups of {sizes}"
    note(f"{pairs}, on {devices} devices")
    if sum(each) > config.num_pairs and min(each) == devices:
        warn(
            f"there are {pairs}, not {config.num_pairs}, since every group has at least "
            f"one on each of {devices} devices."
        )


def _tell_dearest(groups: Sequence[Prepared], warn: Callable[[str], None]) -> None:
    """Warn of a group that takes most of the time, where it is far dearer than others."""
    if len(groups) < 2:
        return
    cost = [_operations(group) for group in groups]
    shares = np.array([group.weight for group in groups]) * cost
    dearest, usual = int(np.argmax(shares)), np.median(cost)
    share = shares[dearest] / shares.sum()
    if share > 0.5 and cost[dearest] > max(_MUCH_DEARER * usual, _DEAR):
        warn(
            f"{share:.0%} of all arithmetic is that of {groups[dearest].tasks[0]} and its "
            f"like: {cost[dearest] / 1e6:,.0f} million operations a gradient, where "
            f"{usual / 1e6:,.3g} are usual here. --max-megaflops leaves such tasks out."
        )


def _operations(group: Prepared) -> int:
    """Of a gradient of one of its tasks."""
    system = group.estimator.system
    assert isinstance(system, InnerTraining)
    return tasksets.gradient_operations(system.task.lane(0)).total


def _selection(
    config: TrainConfig,
    folder: Path,
    step: int,
    processes: Processes,
    warn: Callable[[str], None],
) -> AbstractContextManager[Selection | None]:
    if config.proxy.proxy_every is None:
        return nullcontext()
    return Selection(config, folder, step, processes.index == 0, warn)


@contextmanager
def claimed(
    config: TrainConfig, folder: Path, resume: bool, warn: Callable[[str], None]
) -> Iterator[None]:
    """The folder as this config's and this process's, or say why it cannot be."""
    with folder_lock.held(folder, warn):
        _claim(config, folder, resume)
        yield


def _claim(config: TrainConfig, folder: Path, resume: bool) -> None:
    path = folder / "config.json"
    # Where no step was made, a wrong name say was to blame, the next command begins.
    if _made_steps(folder) and path.exists():
        if not resume:
            raise FileExistsError(
                f"{folder} already holds a run; go on with it by --resume (in Python "
                "resume=True), or choose another --folder."
            )
        differences = config.differences(TrainConfig.load(path))
        if differences:
            raise ValueError(
                f"{folder} holds a run of another config:\n  "
                + "\n  ".join(differences)
            )
        return
    config.save(path)


def holds_run(folder: Path) -> bool:
    """Whether a run was begun there: its config is right, though no step may be made."""
    begun = (folder / "metrics.jsonl").exists() or _made_steps(folder)
    return begun and (folder / "config.json").exists()


def _made_steps(folder: Path) -> bool:
    """Whether there is something to lose."""
    saved = (folder / "checkpoints").rglob("*.safetensors")
    return any(saved) or bool(read_rows(folder / "metrics.jsonl"))


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
