"""The outer loop on a clock that stands still unless something takes time."""

import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from meta_train import loop
from meta_train.engine import Step
from meta_train.processes import Processes
from meta_train.run import Result

DEADLINE = 100.0


class Engine:
    """A device with a queue, on which every step takes so many seconds."""

    def __init__(self, clock: types.SimpleNamespace, seconds: float):
        self._clock, self._seconds = clock, seconds
        self._free = 0.0  # when the device has done all that it was given
        self.state = types.SimpleNamespace(step=0, average=None)

    def step(self, wishes: Any) -> Any:
        self._free = max(self._free, self._clock.now) + self._seconds
        self.state.step += 1
        totals = np.array([*wishes, 10, 0, 0], np.float32)
        return _Pending(self._clock, self._free, Step({}, totals, ()))


class _Pending(types.SimpleNamespace):
    def __init__(self, clock: Any, ready: float, step: Step):
        super().__init__(clock=clock, ready=ready, step=step)

    def is_done(self) -> bool:
        return self.clock.now >= self.ready

    def read(self) -> Step:
        self.clock.now = max(self.clock.now, self.ready)
        return self.step


@pytest.fixture
def clock(monkeypatch):
    clock = types.SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr(loop, "time", clock)
    return clock


def _run(
    engine: Engine,
    begun: bool = True,
    selection: Any = None,
    save: Callable[[], None] = lambda: None,
) -> loop.Run:
    writer = types.SimpleNamespace(longest=0.0, failures=0, busy=False)
    checkpoints: Any = types.SimpleNamespace(
        writer=writer, save=lambda engine, totals: save()
    )
    groups: Any = types.SimpleNamespace(totals={})
    return loop.Run(
        engine,  # type: ignore[arg-type]
        checkpoints,
        groups,
        selection,
        Processes(),
        begun,
        outer_steps=1000,
        checkpoint_seconds=15.0,
    )


@pytest.mark.parametrize("seconds", [0.5, 3.0, 10.0])
def test_steps_that_are_in_flight_end_before_the_time_does(clock, seconds):
    engine = Engine(clock, seconds)
    reason = loop.outer_loop(_run(engine), lambda *step: None, DEADLINE, [])
    assert reason == "time budget"
    used = DEADLINE - loop.LAST_WORDS_SECONDS - clock.now
    assert 0 <= used < 5 * seconds  # and not much earlier


@pytest.mark.parametrize("every", [1, 2, 3])
def test_wishes_are_granted_however_often_theta_is_evaluated(clock, every):
    evaluate = lambda step, average, stop: True
    selection = types.SimpleNamespace(
        due=lambda done: done % every == 0, evaluate=evaluate
    )
    engine, saved = Engine(clock, 1.0), []
    run = _run(engine, selection=selection, save=lambda: saved.append(clock.now))
    reason = loop.outer_loop(run, lambda *step: None, DEADLINE, [])
    assert reason == "time budget" and clock.now <= DEADLINE
    assert 4 <= len(saved) <= 6  # every 15 seconds
    # Another process was told to stop: here that is known by the wishes alone.
    told = Engine(clock, 1.0)
    step = told.step
    told.step = lambda wishes: step([True, *wishes[1:]])
    run = _run(told, selection=selection)
    reason = loop.outer_loop(run, lambda *step: None, None, [])
    assert reason == "stopped by another process" and told.state.step <= 3


class Waiting(Engine):
    """A device without a queue, as a CPU is: a step is done when it has been asked for."""

    def step(self, wishes: Any) -> Any:
        pending = super().step(wishes)
        self._clock.now = self._free
        return pending


class Wavering(Waiting):
    """Every other step is waited for."""

    def step(self, wishes: Any) -> Any:
        kind = Waiting if self.state.step % 2 else Engine
        return kind.step(self, wishes)


def test_no_step_takes_less_than_nothing(clock):
    told = []
    report = lambda number, step, timing: told.append(timing.seconds)
    assert (
        loop.outer_loop(_run(Wavering(clock, 0.5)), report, DEADLINE, [])
        == "time budget"
    )
    assert min(told) >= 0.25 and max(told) <= 1.0
    assert sum(told) == pytest.approx(clock.now)


class Uneven(Waiting):
    """Every other step takes three times as long."""

    def step(self, wishes: Any) -> Any:
        self._seconds = 0.5 if self.state.step % 2 else 1.5
        return super().step(wishes)


def test_of_uneven_steps_each_takes_its_own_time(clock):
    told = []
    report = lambda number, step, timing: told.append(timing.seconds)
    loop.outer_loop(_run(Uneven(clock, 0.0)), report, DEADLINE, [])
    assert len(told) > 20
    assert set(told[::2]) == {1.5} and set(told[1::2]) == {0.5}


@pytest.mark.parametrize("kind", [Engine, Waiting])
def test_every_step_takes_as_long_as_it_does(clock, kind):
    told = []
    report = lambda number, step, timing: told.append((number, timing))
    assert (
        loop.outer_loop(_run(kind(clock, 0.5)), report, DEADLINE, []) == "time budget"
    )
    assert [number for number, _ in told] == list(range(1, len(told) + 1))
    assert {timing.seconds for _, timing in told} == {0.5}
    assert {timing.inner_steps_per_second for _, timing in told} == {20.0}
    assert sum(timing.seconds for _, timing in told) == clock.now


class _Array:
    """Of a device, computed or not."""

    def __init__(self, ready: bool):
        self.is_ready = lambda: ready


def test_a_step_is_done_when_all_of_it_is_computed():
    host: Any = np.zeros(4)
    done: Any = _Array(True)
    missing: Any = _Array(False)
    assert Step({"loss": done}, host, ()).is_done()
    assert not Step({"loss": missing}, done, ()).is_done()
    assert not Step({"loss": done}, missing, ()).is_done()


@pytest.mark.parametrize(
    ("stopped", "now", "reason"),
    [
        (["SIGTERM"], 0.0, "SIGTERM"),
        ([], 101.0, "time budget"),
        ([], 0.0, "stopped by another process"),
    ],
)
def test_a_run_whose_groups_are_not_all_in_flight_says_why_and_makes_no_step(
    clock, stopped, now, reason
):
    engine, clock.now = Engine(clock, 1.0), now
    run = _run(engine, begun=False)
    assert loop.outer_loop(run, lambda *step: None, DEADLINE, stopped) == reason
    assert engine.state.step == 0


@pytest.mark.parametrize(
    ("reason", "told"),
    [
        ("finished", False),
        ("time budget", False),
        ("SIGINT", True),
        ("stopped by another process", True),
    ],
)
def test_whoever_was_told_to_stop_is_not_out_of_time(tmp_path, reason, told):
    assert Result(None, 3, False, reason, tmp_path).told_to_stop == told
