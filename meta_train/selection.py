"""Checkpoint selection: theta on held-out tasks, every so many outer steps.

evaluations.jsonl    one line per evaluation; depends on the seed alone
evaluations/         the runs of the baseline, made once
best/                the theta of least score, loadable with `pretrained.load`

What is evaluated is the running average of theta, on the tasks of `Proxy`, beside Adam
with the best of 14 learning rates for each task. The *score* is the mean over tasks, seeds
and training of the normalised validation loss: 1 at the initial loss, 0 at the lowest that
any of Adam's runs reached. A line has ``step`` (outer steps done), ``score``, ``final``
(the same at the end of training), ``adam_score``, ``adam_final``, and ``tasks`` (the score
on each).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from meta_train import evaluate
from meta_train.config import TrainConfig
from meta_train.evaluate import Cache, Comparison, Contender
from meta_train.run_log import Lines, read_rows
from meta_train.theta_folder import save_theta

BASELINE = "adam:tuned"
_FINAL, _OVER = evaluate.FIGURES
_SPLIT = "outer_valid"


Row = Mapping[str, Any]  # a line of the log


class Selection:
    """The evaluations of a run; a context, which closes their log.

    Args:
      config: of the run; its proxy says when and on what.
      folder: the run folder.
      keep_steps: outer steps done; evaluations after them will happen again.
      first: whether this process writes; the others only take as long as it does.
      warn: told what could not be written.

    Raises:
      ValueError: there are too few held-out tasks.
      LookupError: an unknown suite, or data that are not on this machine.
    """

    def __init__(
        self,
        config: TrainConfig,
        folder: Path,
        keep_steps: int,
        first: bool,
        warn: Callable[[str], None],
    ):
        self._config, self._folder, self._warn = config, folder, warn
        self._entries = config.proxy.entries(config.mix)
        self._baseline: Comparison | None = None
        self._lines = None
        if first:
            self._lines = Lines(folder / _LOG, keep_steps, warn)
        self._scores = {
            row["step"]: row["score"]
            for row in read_evaluations(folder)
            if row["step"] <= keep_steps
        }
        self._kept = min(self._scores.values(), default=float("inf"))

    def due(self, step: int) -> bool:
        """Whether theta is to be evaluated after so many outer steps."""
        every, last = self._config.proxy.proxy_every, self._config.outer_steps
        turn = every is not None and (step % every == 0 or step == last)
        return turn and step not in self._scores

    def evaluate(self, step: int, theta: Any, stop: Callable[[], bool]) -> bool:
        """Evaluate, log, and keep theta where it is the best so far.

        Args:
          step: outer steps done.
          theta: the average after them.
          stop: asked now and then, from any thread, whether to give up.

        Returns:
          Whether it was done.
        """
        theta = jax.device_get(theta)
        try:
            comparison = self._compare(theta, stop)
            if comparison is None:
                return False
            row = _row(step, comparison)
            self._scores[step] = row["score"]
            if self._lines is not None:
                self._lines.add(row)
                if row["score"] < self._kept:
                    self._keep(row, theta)
                    self._kept = row["score"]
        except OSError as error:  # the disk is full, say; the run is worth more
            self._warn(f"the evaluation after {step} outer steps failed: {error}")
        return True

    def __enter__(self) -> "Selection":
        return self

    def __exit__(self, *error: object) -> None:
        if self._lines is not None:
            self._lines.__exit__(*error)

    def _compare(self, theta: Any, stop: Callable[[], bool]) -> Comparison | None:
        """Theta and the baseline on all tasks; None where it was to give up."""
        if self._baseline is None:
            self._baseline = self._run(evaluate.contender(BASELINE), stop)
        learned = evaluate.learned("theta", *self._config.whole(theta))
        mine = self._run(learned, stop)
        if mine is None or self._baseline is None:
            return None
        return mine.joined(self._baseline)

    def _run(self, contender: Contender, stop: Callable[[], bool]) -> Comparison | None:
        """A contender on all tasks; thetas come once, so only baselines are kept."""
        kept = self._folder / "evaluations" if contender.baseline else None
        try:
            found = evaluate.compare(
                self._entries,
                [contender],
                num_seeds=self._config.proxy.proxy_seeds,
                cache=Cache(kept, self._warn),
                stop=stop,
                warn=self._warn,
            )
        except evaluate.OutOfTimeError:
            return None
        return found if len(found.entries) == len(self._entries) else None

    def _keep(self, row: Row, theta: Any) -> None:
        save_theta(
            self._config,
            self._folder / "best",
            theta,
            row["step"],
            results=(
                f"On {len(row['tasks'])} held-out tasks, chosen for it: normalised "
                f"validation loss over training {row['score']:.4f}, at its end "
                f"{row['final']:.4f}; {BASELINE} {row['adam_score']:.4f} and "
                f"{row['adam_final']:.4f}."
            ),
        )


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's log of evaluations; none where there were none."""
    path = folder / _LOG
    return read_rows(path) if path.exists() else []


def best(rows: Sequence[Row]) -> Row:
    """The evaluation of least score, the first of equals."""
    return min(rows, key=lambda row: row["score"])


def _row(step: int, comparison: Comparison) -> dict[str, Any]:
    over, final = (comparison.scores(figure, _SPLIT) for figure in (_OVER, _FINAL))
    names = [entry.task.name for entry in comparison.entries]
    by_task = zip(names, over[0].mean(axis=-1).tolist(), strict=True)
    return {
        "step": step,
        "score": float(over[0].mean()),
        "final": float(final[0].mean()),
        "adam_score": float(over[1].mean()),
        "adam_final": float(final[1].mean()),
        "tasks": dict(by_task),
    }


_LOG = "evaluations.jsonl"
