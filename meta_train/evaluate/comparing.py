"""Train contenders on tasks: what is tried, what is chosen, what is then run.

A contender of several points tries each with the first seeds, is given the point that is
best on inner validation (for each figure its own), and runs that with every seed. Groups
of equal structure are spread over the devices; what is known is not run again.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from queue import SimpleQueue
from typing import NamedTuple

import jax

from meta_train.evaluate import fingerprints
from meta_train.evaluate.cache import Cache
from meta_train.evaluate.comparison import Comparison, Entry
from meta_train.evaluate.contenders import Contender
from meta_train.evaluate.settings import Device, Settings
from meta_train.evaluate.study import Study
from meta_train.evaluate.workbench import Stop, Workbench
from tasksets.stacking import stackable

_LARGEST_GROUP = 16  # tasks; all their starts are on the device at once


class OutOfTimeError(ValueError):
    """Not a single task was done before it was stopped."""


class Progress(NamedTuple):
    """How far a comparison is, in training runs that were not known before."""

    done: int
    total: int


def compare(
    entries: Sequence[Entry],
    contenders: Sequence[Contender],
    *,
    num_seeds: int = 3,
    tuning_seeds: int = 1,
    settings: Settings = Settings(),
    cache: Cache = Cache(None),
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    warn: Callable[[str], None] = print,
) -> Comparison:
    """Every contender on every task.

    Args:
      entries: tasks and the lengths of their runs.
      contenders: of different names.
      num_seeds: independent initialisations and batch orders.
      tuning_seeds: how many of them choose among a contender's points, at most
        ``num_seeds``; a trial is one run, so this multiplies the trials.
      settings: how to train and measure.
      cache: where results are looked up and kept.
      stop: asked before every program, from any thread, whether to begin nothing more
        (`durations.over` says so after a time). Ctrl-C acts alike.
      on_progress: called from any thread, one at a time.
      warn: told where stored results are passed over, and what is left out.

    Returns:
      The tasks on which all is done; all of them, where nothing stopped it.

    Raises:
      ValueError: a length is not a multiple of ``settings.num_evals``, or names repeat.
      OutOfTimeError: nothing was done in time.
    """
    _check(entries, contenders, num_seeds, tuning_seeds, settings)
    study = Study(num_seeds, tuning_seeds)
    task_prints = fingerprints.of_tasks([entry.task for entry in entries], cache)
    point_prints = fingerprints.by_content(contenders)
    benches: list[Workbench] = []
    place: dict[int, tuple[Workbench, int]] = {}
    for group in _groups(entries):
        tasks = [entries[i].task for i in group]
        steps = entries[group[0]].num_steps
        bench = Workbench(
            tasks,
            steps,
            num_seeds,
            settings,
            cache,
            [task_prints[i] for i in group],
            point_prints,
            warn,
        )
        place |= {i: (bench, task) for task, i in enumerate(group)}
        benches.append(bench)
    counter = _Counter(
        sum(study.estimate(bench, contenders) for bench in benches), on_progress
    )
    crew = _Crew(stop)
    own = [c for c in contenders if c.tuned == "per task"]
    shared = [c for c in contenders if c.tuned == "over the suite"]

    def first_round(bench: Workbench, device: Device) -> None:
        train = lambda runs: bench.train(runs, device, crew.stopped, counter.add)
        train(study.trials(bench, contenders))
        train([run for c in own for run in study.finals(bench, c)])

    done = crew.work(first_round, benches)
    kept = [i for i in range(len(entries)) if place[i][0] in done]
    if not kept:
        raise OutOfTimeError(
            "no task was done in time; the same command goes on from here"
        )
    if len(kept) < len(entries):
        warn(f"{len(kept)} of {len(entries)} tasks are done; only these are compared")
    spots = [place[i] for i in kept]
    choices = {c.name: study.choose_for_all(spots, c) for c in shared}

    def second_round(bench: Workbench, device: Device) -> None:
        runs = [r for c in shared for r in study.finals(bench, c, choices[c.name])]
        bench.train(runs, device, crew.stopped, counter.add)

    ready = list(contenders)
    if crew.work(second_round, done) != done:
        warn(f"left out for lack of time: {', '.join(c.name for c in shared)}")
        ready = own
    return Comparison(
        tuple(entries[i] for i in kept),
        tuple(study.competitor(c) for c in ready),
        tuple(study.results(c, spots, choices.get(c.name)) for c in ready),
    )


class _Crew:
    """One worker per device, or two for a single one: one compiles, the other runs."""

    def __init__(self, stop: Callable[[], bool]):
        self._stop = stop
        self._halt = threading.Event()

    def stopped(self) -> bool:
        """Whether to begin nothing more."""
        return self._halt.is_set() or self._stop()

    def work(
        self, job: Callable[[Workbench, Device], None], benches: Sequence[Workbench]
    ) -> list[Workbench]:
        """Do a job on every bench; those on which it was done to the end."""
        devices = jax.local_devices()
        free: SimpleQueue[Device] = SimpleQueue()
        for device in devices * 2 if len(devices) == 1 else devices:
            free.put(device)

        def one(bench: Workbench) -> bool:
            device = free.get()
            try:
                job(bench, device)
            except Stop:
                return False
            except BaseException:
                self._halt.set()  # the others are not to work on for nothing
                raise
            finally:
                bench.put_away()
                free.put(device)
            return True

        with ThreadPoolExecutor(max(2, len(devices))) as pool:
            futures = [pool.submit(one, bench) for bench in benches]
            try:
                for future in as_completed(futures):
                    future.result()
            except KeyboardInterrupt:
                self._halt.set()
            except BaseException:
                self._halt.set()
                raise
        return [
            b for b, future in zip(benches, futures, strict=True) if future.result()
        ]


class _Counter:
    """Counts finished runs of all workers."""

    def __init__(self, total: int, tell: Callable[[Progress], None]):
        self._done, self._total = 0, total
        self._tell, self._lock = tell, threading.Lock()
        tell(Progress(0, total))

    def add(self, runs: int) -> None:
        with self._lock:
            self._done += runs
            self._total = max(self._total, self._done)
            self._tell(Progress(self._done, self._total))


def _groups(entries: Sequence[Entry]) -> list[list[int]]:
    """Entries that stack and have one horizon, by index; large groups are cut."""
    groups: dict[object, list[int]] = {}
    for index, entry in enumerate(entries):
        kind = stackable(entry.task), entry.num_steps
        groups.setdefault(kind, []).append(index)
    size = _LARGEST_GROUP
    return [g[i : i + size] for g in groups.values() for i in range(0, len(g), size)]


def _check(
    entries: Sequence[Entry],
    contenders: Sequence[Contender],
    num_seeds: int,
    tuning_seeds: int,
    settings: Settings,
) -> None:
    if not (entries and contenders):
        raise ValueError("nothing to compare: name a task and an optimizer at least.")
    names = [contender.name for contender in contenders]
    if len(set(names)) < len(names):
        raise ValueError(f"contenders of equal names: {', '.join(sorted(names))}")
    if not 1 <= tuning_seeds <= num_seeds:
        raise ValueError(f"tuning_seeds={tuning_seeds} is not in 1 to {num_seeds}")
    for steps in {entry.num_steps for entry in entries}:
        if steps % settings.num_evals or steps < settings.num_evals:
            raise ValueError(
                f"{steps} steps are not a multiple of the {settings.num_evals} "
                "measurements of a run"
            )
