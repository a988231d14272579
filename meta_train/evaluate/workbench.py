"""Runs on tasks of one structure: from the cache where they are known, trained otherwise.

Everything that tasks of one structure share is made once and kept while it is in use:
their data on the device, the starts, the compiled program of each kind of optimizer.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

import tasksets
from meta_train.evaluate import cache as caching
from meta_train.evaluate import fingerprints
from meta_train.evaluate.cache import Cache, Stored
from meta_train.evaluate.contenders import Point
from meta_train.evaluate.settings import Device, Settings
from meta_train.evaluate.starts import Start, draw_starts
from meta_train.evaluate.training import Losses, Program, Run, lanes_at_once
from tasksets import Task

_SECONDS_BETWEEN_WRITES = 15.0


class Wanted(NamedTuple):
    """A run somebody asks for."""

    task: int  # index in the group
    point: Point
    seed: int

    @property
    def tag(self) -> tuple[int, str, int]:
        """Equal for equal runs."""
        return (
            self.task,
            self.point.content or f"only here: {id(self.point)}",
            self.seed,
        )


class Stop(Exception):
    """The time is up, or somebody asked to stop; everything finished is stored."""


class Workbench:
    """The runs of a group of tasks of equal structure and horizon.

    Args:
      tasks: of equal structure.
      num_steps: length of the runs, a multiple of ``settings.num_evals``.
      num_seeds: of the runs that will be asked for.
      settings: how to train and measure.
      cache: where results are kept.
      task_prints: the fingerprints of the tasks.
      point_prints: those of points, by `Point.content`; points without have none.
      warn: told where stored results are passed over.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        num_steps: int,
        num_seeds: int,
        settings: Settings,
        cache: Cache,
        task_prints: Sequence[Float[np.ndarray, "numbers"]],
        point_prints: Mapping[str, Float[np.ndarray, "numbers"]],
        warn: Callable[[str], None],
    ):
        self.tasks, self.num_steps = tasks, num_steps
        self._num_seeds, self._settings = num_seeds, settings
        self._cache, self._warn = cache, warn
        self._task_prints, self._point_prints = task_prints, point_prints
        self._stored = [cache.read(task.name) for task in tasks]
        self._results: dict[tuple[int, str, int], Losses] = {}
        self._ready: tuple[Task, Start] | None = None
        self._programs: dict[str, Program] = {}

    def result(self, wanted: Wanted) -> Losses | None:
        """What is known of a run, without training."""
        if wanted.tag not in self._results:
            mine = self._fingerprint(wanted)
            for other in self._stored_as(wanted):
                if fingerprints.agree(other.fingerprint, mine):
                    self._results[wanted.tag] = other.losses
        return self._results.get(wanted.tag)

    def missing(self, wanted: Sequence[Wanted]) -> list[Wanted]:
        """Those of which nothing is known, each once."""
        unique = {run.tag: run for run in wanted if self.result(run) is None}
        return list(unique.values())

    def train(
        self,
        wanted: Sequence[Wanted],
        device: Device,
        stopped: Callable[[], bool],
        on_trained: Callable[[int], None],
    ) -> None:
        """Train what is missing.

        Args:
          wanted: runs to have a `result` of.
          device: where to train; the same in every call.
          stopped: asked before every program that is run.
          on_trained: told how many runs were just finished.

        Raises:
          Stop: if ``stopped`` said so.
        """
        todo = self.missing(wanted)
        if not todo:
            return
        if stopped():
            raise Stop
        for task in {run.task for run in todo if self._stored_as(run)}:
            self._warn(
                f"results stored on {self.tasks[task].name} are of other data or other "
                "code, and are not used"
            )
        stack, starts = self._prepared(device)
        by_kind: dict[str, list[Wanted]] = {}
        for run in todo:
            by_kind.setdefault(run.point.kind.identity, []).append(run)
        unwritten: list[Wanted] = []
        written_at = time.monotonic()
        try:
            for runs in by_kind.values():
                program = self._program(runs, starts, device)
                for first in range(0, len(runs), program.lanes):
                    if stopped():
                        raise Stop
                    part = runs[first : first + program.lanes]
                    lanes = [Run(w.point, w.task, self._start(w)) for w in part]
                    trained = program.train(stack, starts, lanes)
                    self._results.update(
                        (run.tag, x) for run, x in zip(part, trained, strict=True)
                    )
                    unwritten += part
                    if time.monotonic() - written_at > _SECONDS_BETWEEN_WRITES:
                        self._write(unwritten)
                        unwritten, written_at = [], time.monotonic()
                    on_trained(len(part))
        finally:
            self._write(unwritten)

    def put_away(self) -> None:
        """Forget everything but the results; training on is possible, and begins anew."""
        self._ready = None
        self._programs.clear()

    def _prepared(self, device: Device) -> tuple[Task, Start]:
        if self._ready is None:
            stack = jax.device_put(tasksets.stack(self.tasks), device)
            pairs = [
                (task, seed)
                for task in range(len(self.tasks))
                for seed in range(self._num_seeds)
            ]
            starts = draw_starts(stack, pairs, self.num_steps, self._settings, device)
            self._ready = stack, starts
        return self._ready

    def _start(self, wanted: Wanted) -> int:
        return wanted.task * self._num_seeds + wanted.seed

    def _program(
        self, runs: Sequence[Wanted], starts: Start, device: Device
    ) -> Program:
        kind = runs[0].point.kind
        if kind.identity not in self._programs:
            shapes = [leaf.shape[1:] for leaf in jax.tree.leaves(starts.params)]
            most = lanes_at_once(sum(map(np.prod, shapes)), device.platform)
            # As few programs as that needs, all equally full.
            lanes = -(-len(runs) // -(-len(runs) // most))
            self._programs[kind.identity] = Program(
                kind, lanes, self.num_steps, self._settings, device
            )
        return self._programs[kind.identity]

    def _write(self, runs: Sequence[Wanted]) -> None:
        by_task: dict[int, dict[str, Stored]] = {}
        for run in runs:
            if (key := self._key(run)) is not None:
                stored = Stored(self._results[run.tag], self._fingerprint(run))
                by_task.setdefault(run.task, {})[key] = stored
        for task, results in by_task.items():
            self._cache.write(self.tasks[task].name, results)

    def _key(self, run: Wanted) -> str | None:
        name = self.tasks[run.task].name
        return caching.key(name, run.point, self.num_steps, run.seed, self._settings)

    def _stored_as(self, run: Wanted) -> Sequence[Stored]:
        """What was stored under the key of a run when the bench was set up."""
        return self._stored[run.task].get(self._key(run) or "", ())

    def _fingerprint(self, run: Wanted) -> Float[np.ndarray, "numbers"]:
        own = self._point_prints.get(run.point.content or "", np.zeros(0))
        return np.concatenate([self._task_prints[run.task], own])
