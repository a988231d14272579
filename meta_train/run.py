"""One meta-training run in one folder, which can be stopped at any instant and resumed.

folder/config.json       the config
folder/metrics.jsonl     one line per outer step; the same with and without a stop
folder/timing.jsonl      seconds and inner steps per second, which never are the same
folder/tensorboard/      both, for those who have it open anyway
folder/checkpoints/      the last few states
folder/theta/            the result, loadable with `pretrained.load`
folder/*.png             plots
"""

import dataclasses
import json
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

import pretrained
from meta_train import outer
from meta_train.checkpoint import Checkpoints
from meta_train.config import TrainConfig
from meta_train.estimators import EvolutionStrategy
from meta_train.outer import OuterState

CHECKPOINT_SECONDS = 15.0
_LAST_WORDS_SECONDS = 5.0  # kept back from a time budget for the final checkpoint


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
    loss: float
    inner_steps_per_second: float
    seconds: float
    metrics: dict[str, float]


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
    """
    started = time.monotonic()
    deadline = None if time_budget is None else started + time_budget
    _claim(config, folder, resume)
    estimators = config.estimators()
    optimizer = config.outer()
    key = jax.random.key(config.seed)
    state = outer.start(estimators, config.initial_theta(), optimizer, key)
    checkpoints = Checkpoints(folder / "checkpoints", config, warn)
    if resume:
        state = checkpoints.restore(state) or state
    log = _Log(folder, keep_steps=int(state.step))
    step = outer.make_step(optimizer, clip=config.clip)
    with _stop_signals() as stopped:
        state, reason = _loop(
            config,
            step,
            estimators,
            state,
            checkpoints,
            log,
            deadline,
            stopped,
            on_progress,
        )
    checkpoints.save(state)
    checkpoints.close()
    log.close()
    result = Result(
        state.average, int(state.step), reason == "finished", reason, folder
    )
    save_theta(config, result)
    return result


def save_theta(config: TrainConfig, result: Result) -> Path:
    """Write the result as a pretrained folder, with a card that says how it was made."""
    path = result.folder / "theta"
    options = " or ".join(config.task_options)
    card = pretrained.Card(
        summary=f"{config.optimizer} after {result.outer_steps} outer steps.",
        trained_on=(
            f"{config.num_tasks} tasks of the suite {config.suite}"
            f"{' with ' + options if options else ''}, horizons "
            f"{config.min_horizon} to {config.max_horizon}, seed {config.seed}."
        ),
        command=config.command(),
        compute="not recorded",
        results="not evaluated yet: `learned-opt evaluate` does it.",
        failures="unknown until evaluated.",
    )
    pretrained.save(
        path, config.learned_optimizer(), result.theta, card, overwrite=True
    )
    return path


def read_metrics(folder: Path, name: str = "metrics.jsonl") -> dict[str, np.ndarray]:
    """The columns of a run's log, each ``[steps]``."""
    rows = [json.loads(line) for line in (folder / name).read_text().splitlines()]
    return {
        key: np.array([row[key] for row in rows]) for key in (rows[0] if rows else {})
    }


def _loop(
    config: TrainConfig,
    step: Callable[..., tuple[OuterState, outer.Metrics]],
    estimators: Sequence[EvolutionStrategy],
    state: OuterState,
    checkpoints: Checkpoints,
    log: "_Log",
    deadline: float | None,
    stopped: list[str],
    on_progress: Callable[[Progress], None],
) -> tuple[OuterState, str]:
    """Outer steps, one in flight: the metrics of step n are read while n + 1 runs.

    More in flight would be no faster, and XLA's CPU collectives can deadlock on a queue.
    """
    inner_steps = sum(_inner_steps(estimator) for estimator in estimators)
    done, reason = int(state.step), "finished"
    saved_at = mark = time.monotonic()
    pending: outer.Metrics | None = None

    def report(metrics: outer.Metrics, number: int) -> None:
        nonlocal mark
        values = {name: float(x) for name, x in metrics.items()}
        now = time.monotonic()
        seconds, mark = now - mark, now
        log.write(number, values, seconds, inner_steps / seconds)
        on_progress(
            Progress(
                number,
                config.outer_steps,
                values["loss"],
                inner_steps / seconds,
                seconds,
                values,
            )
        )

    while done < config.outer_steps:
        state, metrics = step(estimators, state)
        done += 1
        if pending is not None:
            report(pending, done - 1)
        pending = metrics
        now = time.monotonic()
        if stopped or (deadline is not None and now > deadline - _LAST_WORDS_SECONDS):
            reason = stopped[0] if stopped else "time budget"
            reason = "finished" if done == config.outer_steps else reason
            break
        if now - saved_at > CHECKPOINT_SECONDS:
            report(pending, done)
            pending = None
            log.flush()
            checkpoints.save(state)
            saved_at = mark = time.monotonic()
    if pending is not None:
        report(pending, done)
    return state, reason


def _inner_steps(estimator: EvolutionStrategy) -> int:
    """Inner optimizer steps per estimate."""
    return estimator.num_pairs * 2 * estimator.truncation.window


def _claim(config: TrainConfig, folder: Path, resume: bool) -> None:
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


class _Log:
    """Appends to metrics.jsonl and timing.jsonl, and to tensorboard if installed."""

    def __init__(self, folder: Path, keep_steps: int):
        for name in ("metrics.jsonl", "timing.jsonl"):
            _truncate(folder / name, keep_steps)
        self._metrics = (folder / "metrics.jsonl").open("a")
        self._timing = (folder / "timing.jsonl").open("a")
        self._board = None
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            return  # part of the extra "plot"
        self._board = SummaryWriter(
            str(folder / "tensorboard"), purge_step=keep_steps + 1, flush_secs=30
        )

    def write(
        self, step: int, values: dict[str, float], seconds: float, rate: float
    ) -> None:
        self._metrics.write(json.dumps({"step": step, **values}) + "\n")
        timing = {"seconds": seconds, "inner_steps_per_second": rate}
        self._timing.write(json.dumps({"step": step, **timing}) + "\n")
        if self._board is not None:
            for name, value in {**values, **timing}.items():
                self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        for file in (self._metrics, self._timing):
            file.flush()

    def close(self) -> None:
        for file in (self._metrics, self._timing, self._board):
            if file is not None:
                file.close()


def _truncate(path: Path, keep_steps: int) -> None:
    """Drop what was logged after the checkpoint: it will happen, and be logged, again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= keep_steps:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            break  # the line a kill cut short
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(kept))
    temporary.replace(path)


@contextmanager
def _stop_signals() -> Iterator[list[str]]:
    """A list that receives the name of a signal that asked us to stop.

    A second signal acts as if we were not here, so a hanging run can still be ended.
    """
    stopped: list[str] = []
    previous = {}

    def handle(number: int, frame: Any) -> None:
        del frame
        stopped.append(signal.Signals(number).name)
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.getsignal(number)
            signal.signal(number, handle)
    except ValueError:
        pass  # not in the main thread: whoever owns it handles signals
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)
