"""Runs of groups that come and go: nothing depends on how fast anything was."""

import dataclasses
import gc
import os
import signal
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from meta_systems import Linear

import pretrained
from meta_train import (
    PES,
    CheckpointError,
    TaskMix,
    Truncation,
    curriculum,
    devices,
    group_log,
    preparation,
    run,
)
from meta_train.config import ESTIMATORS
from meta_train.truncation import Episodes

CONFIG = dataclasses.replace(
    small_runs.CONFIG,
    mix=TaskMix(
        suites=("quadratic",),
        task_options=tuple(f"dims={n}{small_runs.ONE_STRUCTURE}" for n in (2, 3)),
    ),
    groups_in_flight=2,
    num_pairs=4,
    outer_steps=14,
)
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture(scope="module")
def unbroken(one_device, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert run.train(CONFIG, folder).finished
    return folder


def _lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def test_groups_are_replaced_and_theta_learns_from_all(unbroken):
    metrics = run.read_metrics(unbroken)
    timing = run.read_metrics(unbroken, "timing.jsonl")
    assert timing["replaced"].sum() >= 4
    assert np.all(np.isfinite(metrics["grad_norm"])) and metrics["skipped"][-1] == 0
    groups = CONFIG.groups()
    problems = {
        groups.tasks(groups.at(slot, step))[0].problem
        for slot in range(2)
        for step in range(14)
    }
    assert len(problems) >= 3


def test_lanes_begin_with_their_group_and_never_again(unbroken):
    resets = run.read_metrics(unbroken)["resets"]
    replaced = run.read_metrics(unbroken, "timing.jsonl")["replaced"]
    assert resets[0] == 1
    np.testing.assert_allclose(resets[1:], replaced[1:] / 2)


def test_lanes_begin_anew_where_they_must():
    episodes = Episodes(2, np.int32(5), np.int32(5), stagger=False)
    estimator = PES(Linear(), episodes, num_pairs=4)
    theta, key = jnp.float32(0.5), jax.random.key(0)
    lanes = estimator.init(theta, key)
    window, resets = jax.jit(preparation.window), []
    for step, restart in enumerate([False, False, True, False]):
        view = preparation.View(theta, key, jnp.int32(step), jnp.bool(restart))
        contribution, lanes = window(estimator, view, lanes, np.int32(0), np.float32(1))
        resets.append(float(contribution.metrics["resets"]))
    assert resets == [1, 0, 1, 0]
    assert np.all(lanes.window == 2)


def test_one_program_serves_every_horizon_and_truncation_draws_the_same():
    traced, system = [], Linear()

    @jax.jit
    def window(estimator, *arguments):
        traced.append(True)
        return estimator.estimate(*arguments)

    theta, key = jnp.float32(0.5), jax.random.key(0)
    for low, high in ((5, 5), (2, 9)):
        episodes = Episodes(2, np.int32(low), np.int32(high))
        estimator = PES(system, episodes, num_pairs=4)
        truncation = Truncation.log_uniform(2 * low, 2 * high, 2)
        fixed = dataclasses.replace(estimator, truncation=truncation)
        blank = estimator.init(theta, key)
        _, lanes = window(estimator, theta, blank, key)
        _, same = jax.jit(fixed.estimate)(theta, blank, key)
        np.testing.assert_array_equal(lanes.num_windows, same.num_windows)
    assert len(traced) == 1


def test_a_run_stopped_again_and_again_ends_as_if_it_had_not_been(unbroken, tmp_path):
    small_runs.train_in_pieces(tmp_path, CONFIG, every=3)
    assert _lines(tmp_path) == _lines(unbroken)
    assert group_log.read_groups(tmp_path) == group_log.read_groups(unbroken)


def test_the_log_of_groups_says_how_each_did_on_which_tasks(unbroken):
    logged, groups = group_log.read_groups(unbroken), CONFIG.groups()
    replaced = run.read_metrics(unbroken, "timing.jsonl")["replaced"].sum()
    assert len(logged) >= replaced >= 4
    for line in logged:
        group = groups.at(line["slot"], line["step"] - 1)
        assert (line["generation"], line["born"]) == (group.generation, group.born)
        assert line["step"] == min(group.ends, 14) and line["windows"] == group.windows
        assert line["tasks"] == [task.name for task in groups.tasks(group)]
    # Each step's loss is the mean over both slots, and every step is in one line of each.
    loss = sum(g["loss"] * (g["step"] - g["born"]) / 2 for g in logged)
    assert loss == pytest.approx(run.read_metrics(unbroken)["loss"].sum())


def test_slow_preparation_changes_nothing_but_the_waiting(
    unbroken, tmp_path, monkeypatch
):
    prepare = preparation.Preparation._prepare

    def slowly(self, group):
        time.sleep(0.05 if group.born == 0 else 0.3)
        return prepare(self, group)

    monkeypatch.setattr(preparation.Preparation, "_prepare", slowly)
    run.train(CONFIG, tmp_path)
    assert _lines(tmp_path) == _lines(unbroken)
    assert run.read_metrics(tmp_path, "timing.jsonl")["waited"].sum() > 0.2


def test_what_a_group_needed_is_dropped_when_it_ends(tmp_path, monkeypatch):
    prepare, alive = preparation.Preparation._prepare, []

    def watched(self, group):
        prepared = prepare(self, group)
        alive.append(weakref.ref(prepared.estimator.system.task.numbers.initial_loss))
        return prepared

    monkeypatch.setattr(preparation.Preparation, "_prepare", watched)
    counts = []
    on_progress = lambda progress: counts.append(sum(a() is not None for a in alive))
    run.train(CONFIG, tmp_path, on_progress=on_progress)
    # Two in flight, two to come, and at most one being made ready.
    assert len(alive) >= 8 and max(counts) <= 5


def test_programs_that_are_no_longer_needed_are_dropped(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "_SPARE_PROGRAMS", 0)
    options = tuple(f"dims={n}{small_runs.ONE_STRUCTURE}" for n in range(2, 9))
    mix = dataclasses.replace(CONFIG.mix, task_options=options)
    config = dataclasses.replace(CONFIG, mix=mix, groups_in_flight=1, outer_steps=24)

    compile_for, made = preparation.compile_for, set()

    def watched(*args, **of_jit):
        program = compile_for(*args, **of_jit)
        made.add(program.runtime_executable().fingerprint)
        return program

    def programs():
        gc.collect()
        every = jax.devices()[0].client.live_executables()
        return sum(x.fingerprint in made for x in every)

    monkeypatch.setattr(preparation, "compile_for", watched)
    counts = []
    run.train(config, tmp_path, on_progress=lambda _: counts.append(programs()))
    replaced = run.read_metrics(tmp_path, "timing.jsonl")["replaced"].sum()
    # Two are kept; one more may be in use or in the making.
    assert replaced >= 6 and len(made) >= 6 and 1 <= min(counts) <= max(counts) <= 4


@pytest.mark.parametrize("resumed", [False, True])
def test_a_signal_while_groups_are_made_ready_waits_for_one_of_them_at_most(
    unbroken, tmp_path, monkeypatch, resumed
):
    steps = 0
    if resumed:
        on_progress = lambda progress: os.kill(os.getpid(), signal.SIGTERM)
        one = lambda progress: on_progress(progress) if progress.step == 3 else None
        steps = run.train(CONFIG, tmp_path, on_progress=one).outer_steps
    get, made = preparation.Preparation.get, []

    def interrupted(self, group):
        made.append(group)
        os.kill(os.getpid(), signal.SIGTERM)
        return get(self, group)

    with monkeypatch.context() as patch:
        patch.setattr(preparation.Preparation, "get", interrupted)
        stopped = run.train(CONFIG, tmp_path, resume=resumed)
    assert stopped.reason == "SIGTERM" and not stopped.finished and len(made) == 1
    assert stopped.outer_steps == steps
    assert run.train(CONFIG, tmp_path, resume=True).finished
    assert _lines(tmp_path) == _lines(unbroken)


def test_no_group_is_made_ready_when_the_time_is_up(tmp_path):
    stopped = run.train(CONFIG, tmp_path, time_budget=0.0)
    assert stopped.reason == "time budget" and stopped.outer_steps == 0


def test_a_group_whose_tasks_changed_since_is_refused(tmp_path, monkeypatch):
    config = dataclasses.replace(CONFIG, outer_steps=3)
    run.train(config, tmp_path)
    monkeypatch.setattr(
        TaskMix,
        "sample_alike",
        lambda self, count, turn, seed: self.sample(1, 5) * count,
    )
    with pytest.raises(CheckpointError, match="have changed since"):
        run.train(config, tmp_path, resume=True)


def test_on_other_devices_a_run_goes_on_with_new_lanes_and_says_so(
    tmp_path, monkeypatch
):
    stop = lambda progress: (
        os.kill(os.getpid(), signal.SIGTERM) if progress.step == 3 else None
    )
    config = dataclasses.replace(CONFIG, num_pairs=6)
    notes, warnings = [], []
    tell = {"note": notes.append, "warn": warnings.append}
    stopped = run.train(config, tmp_path, on_progress=stop, **tell)
    assert notes == ["6 antithetic pairs: 2 groups of 3, on 1 devices"]
    assert not warnings
    monkeypatch.setattr(run, "lane_mesh", devices.lane_mesh)  # eight
    assert run.train(config, tmp_path, resume=True, **tell).finished
    assert notes[1] == "16 antithetic pairs: 2 groups of 8, on 8 devices"
    assert "not 6" in warnings[0]
    assert "begin anew: a group had 3 antithetic pairs" in warnings[1]
    assert f"step {stopped.outer_steps}" in warnings[1] and "has 8" in warnings[1]
    steps = run.read_metrics(tmp_path)["step"]
    np.testing.assert_array_equal(steps, np.arange(1, 15))


def test_an_error_in_the_background_ends_the_run_with_its_message(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(curriculum, "_MOST_DRAWS", 3)
    mix = dataclasses.replace(CONFIG.mix, max_megaflops=1e-6)
    with pytest.raises(ValueError, match="megaflops"):
        run.train(dataclasses.replace(CONFIG, mix=mix), tmp_path)


@pytest.mark.parametrize("which", [0, 1])
def test_where_a_group_cannot_follow_all_that_was_done_is_kept(
    unbroken, tmp_path, monkeypatch, which
):
    prepare, asked = preparation.Preparation._prepare, []

    def breaks(self, group):
        asked.append(group)
        if group.born > 3 and group.slot == which:
            raise LookupError("its data are gone")
        return prepare(self, group)

    warnings = []
    with monkeypatch.context() as patch:
        patch.setattr(preparation.Preparation, "_prepare", breaks)
        with pytest.raises(LookupError, match="its data are gone"):
            run.train(CONFIG, tmp_path, warn=warnings.append)
    steps = min(g.born for g in asked if g.born > 3 and g.slot == which)
    assert any(f"step {steps}" in told for told in warnings)
    assert _lines(tmp_path) == _lines(unbroken)[:steps] and 3 < steps < 14
    assert pretrained.load(str(tmp_path / "theta")).theta
    assert run.train(CONFIG, tmp_path, resume=True).finished
    assert _lines(tmp_path) == _lines(unbroken)


def test_a_group_far_dearer_than_the_others_is_told(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(run, "_DEAR", 10**4)
    options = tuple(f"dims={n}{small_runs.ONE_STRUCTURE}" for n in (2, 2, 200))
    mix = dataclasses.replace(CONFIG.mix, task_options=options)
    config = dataclasses.replace(CONFIG, mix=mix, groups_in_flight=3, outer_steps=1)
    run.train(config, tmp_path / "dear", warn=told.append)
    (warning,) = told
    assert "of all arithmetic" in warning and "dims=200" in warning
    run.train(CONFIG, tmp_path / "alike", warn=told.append)
    assert len(told) == 1


@pytest.mark.parametrize(
    ("megaflops", "told"),
    [
        ([1, 1, 1000], True),
        ([1] * 100 + [101], True),
        ([10] * 100 + [500], False),  # a third of all
        ([600, 400], False),  # not unusual
        ([0.1, 0.1, 90], False),  # not dear
        ([1000], False),
    ],
)
def test_of_a_dear_group_is_told_what_decides_the_time(monkeypatch, megaflops, told):
    monkeypatch.setattr(run, "_operations", lambda group: 1e6 * group.cost)
    group = lambda cost: SimpleNamespace(cost=cost, weight=1.0, tasks=("quadratic",))
    warnings = []
    run._tell_dearest([*map(group, megaflops)], warnings.append)  # type: ignore[arg-type]
    assert len(warnings) == told


def test_no_group_is_made_ready_that_would_never_run(tmp_path, monkeypatch):
    prepare, made = preparation.Preparation._prepare, []

    def watched(self, group):
        made.append(group)
        return prepare(self, group)

    monkeypatch.setattr(preparation.Preparation, "_prepare", watched)
    run.train(CONFIG, tmp_path)
    groups = CONFIG.groups()
    assert set(made) == {groups.at(slot, step) for slot in (0, 1) for step in range(14)}


_QUICKLY = ("pes", "gpes", "pes_analytic")  # of each kind of state


@pytest.mark.parametrize(
    "estimator",
    [
        pytest.param(name, marks=() if name in _QUICKLY else pytest.mark.slow)
        for name in ESTIMATORS
    ],
)
def test_every_estimator_trains_on_changing_groups_and_goes_on(tmp_path, estimator):
    interval = 2 if estimator == "gpes" else None
    config = dataclasses.replace(
        CONFIG, estimator=estimator, gpes_interval=interval, outer_steps=6
    )
    assert run.train(config, tmp_path / "unbroken").finished
    small_runs.train_in_pieces(tmp_path / "pieces", config, every=2)
    assert _lines(tmp_path / "pieces") == _lines(tmp_path / "unbroken")
    metrics = run.read_metrics(tmp_path / "unbroken")
    assert np.all(np.isfinite(metrics["grad_norm"])) and metrics["skipped"][-1] == 0


def test_groups_of_one_structure_share_a_program(tmp_path, monkeypatch):
    compiled = []
    lower = jax.stages.Lowered.compile

    def counted(self, *args, **kwargs):
        compiled.append(self)
        return lower(self, *args, **kwargs)

    monkeypatch.setattr(jax.stages.Lowered, "compile", counted)
    mix = TaskMix(task_options=("hidden=20-20&activation=tanh",))
    config = dataclasses.replace(CONFIG, mix=mix, outer_steps=10)
    run.train(config, tmp_path)
    assert run.read_metrics(tmp_path, "timing.jsonl")["replaced"].sum() >= 3
    assert len(compiled) == 1
