"""What the command `train` does: here, with other processes, or with workers.

Where a suite is named it evaluates what it trained, in the part of the time budget that
was kept for that, however far training came.
"""

import functools
import os
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from meta_train import display, elastic, evaluate_display, processes, run
from meta_train.config import TrainConfig
from meta_train.devices import compilation_cache_in
from meta_train.durations import budget
from meta_train.evaluate import OutOfTimeError, suites
from meta_train.ray_pool import RayPool
from tasksets import presence
from tasksets.data import DataNotFoundError
from tasksets.names import UnknownNameError

if TYPE_CHECKING:
    from meta_train.cli import Train

_EVALUATION_SHARE = 1 / 3  # of the time budget
_BEGIN_SHARE = 3 / 4  # of the time left, in which the evaluation may begin something

console = Console()


def train(command: "Train") -> None:
    """Meta-train as a command says, show how it ended, evaluate if that was asked."""
    started = time.monotonic()
    _check(command)
    if command.resume and not run.holds_run(command.folder):
        _refuse_nothing_said(command)
        console.print(
            f"{command.folder} holds no run to go on with; a new one begins.",
            soft_wrap=True,
        )
    whole = budget(command.time_budget)
    for_training = whole
    if command.then_evaluate and whole is not None:
        for_training = whole - _for_evaluation(command, whole)
    ends = None if for_training is None else started + for_training
    if command.elastic is None:
        result = _with_processes(command, ends)
    else:
        result = _with_workers(command, command.elastic, ends)
    if result is None:
        return  # another process speaks for all
    display.report_run(command.folder)
    if not result.finished:
        console.print(f"Stopped ({result.reason}); go on with --resume.")
    theta = str(command.folder / "theta")
    if result.outer_steps:
        console.print(f"Use it: pretrained.load({theta!r})")
    else:
        console.print(f"No outer step was done: what is in {theta} is untrained.")
    if command.then_evaluate and not result.told_to_stop:
        left = None if whole is None else whole - (time.monotonic() - started)
        _evaluate(command, left)


def _refuse_nothing_said(command: "Train") -> None:
    """Raise ValueError if a command means a run that is there, and none is."""
    bare = type(command)(TrainConfig(), folder=command.folder, resume=True)
    if command == bare:
        raise ValueError(
            f"{command.folder} holds no run to go on with. For a new one there, leave out "
            "--resume, or say what it is to be (--optimizer scale_free --time-budget 9m)."
        )


def _check(command: "Train") -> None:
    """Raise ValueError or LookupError for what cannot be meant, before anything runs."""
    several = command.distributed or bool(command.coordinator)
    if command.elastic is not None:
        if several:
            raise ValueError(
                "--elastic is for workers that come and go, --distributed and "
                "--coordinator for processes that stay; choose one."
            )
        elastic.contributions(command.config)
    _refuse_unused(
        command,
        ("num_processes", "process_id"),
        several,
        "--coordinator or --distributed",
    )
    workers = ("staleness", "ray_address", "worker_cpus", "worker_gpus")
    _refuse_unused(command, workers, command.elastic is not None, "--elastic")
    evaluation = ("evaluation_budget",)
    _refuse_unused(command, evaluation, bool(command.then_evaluate), "--then-evaluate")
    _refuse_unused(command, evaluation, bool(command.time_budget), "--time-budget")
    if command.then_evaluate:
        if several:
            raise ValueError(
                "one process evaluates: after the run, `learned-opt evaluate FOLDER`."
            )
        if command.then_evaluate not in suites.suite_names():
            raise UnknownNameError("suite", command.then_evaluate, suites.suite_names())
        for item in suites.items(command.then_evaluate):
            dataset = presence.dataset_of(item.name)
            if dataset is not None and not presence.data_present(dataset):
                raise DataNotFoundError(dataset, task=item.name)


def _refuse_unused(
    command: "Train", names: Sequence[str], used: bool, without: str
) -> None:
    """Raise ValueError for an option that does nothing without another one."""
    for name in names:
        if not used and getattr(command, name) != getattr(type(command), name):
            raise ValueError(
                f"--{name.replace('_', '-')} does nothing without {without}."
            )


def _with_processes(command: "Train", ends: float | None) -> run.Result | None:
    """In this process, or with others; None where another one speaks for all."""
    if command.distributed or command.coordinator:
        processes.connect(
            command.coordinator or None, command.num_processes, command.process_id
        )
    seconds = _left(ends)  # others may have been long in coming
    config, folder, resume = command.config, command.folder, command.resume
    try:
        if processes.is_first():
            return display.train(config, folder, resume, seconds)
        run.train(config, folder, resume=resume, time_budget=seconds)
        return None
    except processes.ProcessLostError as error:
        console.print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.stdout.flush()
        os._exit(1)  # jax would wait for the processes that are gone


def _left(ends: float | None) -> float | None:
    """Seconds until then."""
    return None if ends is None else max(ends - time.monotonic(), 0.0)


def _with_workers(command: "Train", count: int, ends: float | None) -> run.Result:
    pool = RayPool(
        command.config,
        count,
        address=command.ray_address,
        cpus=command.worker_cpus,
        gpus=command.worker_gpus,
    )
    with pool:
        lead = functools.partial(elastic.train, pool=pool, staleness=command.staleness)
        return display.train(
            command.config,
            command.folder,
            command.resume,
            _left(ends),
            train=lead,
            places=f"up to {count} workers",
        )


def _for_evaluation(command: "Train", whole: float) -> float:
    """Seconds of the time budget that are kept for the evaluation.

    Raises:
      ValueError: nothing would be left to train.
    """
    kept = budget(command.evaluation_budget)
    kept = _EVALUATION_SHARE * whole if kept is None else kept
    if not kept < whole:
        raise ValueError(
            f"--evaluation-budget {command.evaluation_budget} leaves nothing of "
            f"--time-budget {command.time_budget} to train."
        )
    return kept


def _evaluate(command: "Train", left: float | None) -> None:
    """Evaluate the run folder, in so many seconds."""
    from meta_train.cli import Evaluate

    # What has begun must end in time, too.
    begin = None if left is None else max(_BEGIN_SHARE * left, 0.0)
    evaluate = Evaluate(
        (str(command.folder),),
        suite=command.then_evaluate,
        folder=command.folder / "evaluation",
    )
    try:
        with compilation_cache_in(command.folder / "cache"):
            evaluate_display.run(evaluate, begin)
    except OutOfTimeError:
        console.print(
            "The evaluation had no time to finish a task; what it did is kept. The same "
            "command with --resume goes on, or `learned-opt evaluate "
            f"{command.folder} --suite {command.then_evaluate}`.",
            soft_wrap=True,
        )
