"""The log of groups: cut back and gone on with, whoever wrote it."""

import dataclasses
import math

import numpy as np
import pytest
import small_runs

from meta_train import TaskMix, group_log, run
from meta_train.engine import Part
from meta_train.group_log import GroupLog
from meta_train.groups import Group
from meta_train.run_log import read_rows


def _part(slot=0, born=0, ends=3, loss=1.0, counted=1.0, generation=0):
    windows = None if ends is None else ends - born
    group = Group(slot, generation, born, ends, windows)
    return Part(group, (f"task{slot}",), loss * counted, counted)


def test_the_mean_is_over_the_estimates_that_were_not_lost(tmp_path):
    with GroupLog(tmp_path, 0, 0, 99, {}) as log:
        log.add(1, [_part(loss=1.0), _part(1, ends=2, counted=0.0)])
        log.add(2, [_part(counted=0.0), _part(1, ends=2, counted=0.0)])
        log.add(3, [_part(loss=2.0)])
    all_lost, some_lost = group_log.read_groups(tmp_path)
    assert math.isnan(all_lost["loss"]) and all_lost["lost"] == 2
    assert some_lost["loss"] == 1.5 and some_lost["lost"] == 1


def test_a_group_that_stays_has_a_line_for_every_chapter_and_at_the_end(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(group_log, "CHAPTER", 4)
    with GroupLog(tmp_path, 0, 0, 10, {}) as log:
        for step in range(1, 11):
            log.add(step, [_part(ends=None, loss=float(step))])
    lines = group_log.read_groups(tmp_path)
    assert [(g["born"], g["step"], g["loss"]) for g in lines] == [
        (0, 4, 2.5),
        (4, 8, 6.5),
        (8, 10, 9.5),  # with which the run ended
    ]


@pytest.mark.parametrize("stop", [1, 2, 4, 5])
def test_a_log_that_is_gone_on_with_is_the_same(tmp_path, stop):
    def add(log, steps):
        for step in steps:
            born, ends = (0, 3) if step <= 3 else (3, 6)
            log.add(step, [_part(0, born, ends, loss=step / 7)])

    for folder in ("quiet", "stopped"):
        (tmp_path / folder).mkdir()
    with GroupLog(tmp_path / "quiet", 0, 0, 99, {}) as log:
        add(log, range(1, 7))
    with GroupLog(tmp_path / "stopped", 0, 0, 99, {}) as log:
        add(log, range(1, stop + 1))
        totals = dict(log.totals)
        add(log, range(stop + 1, 6))  # what a kill made happen in vain
    with GroupLog(tmp_path / "stopped", 0, stop, 99, totals) as log:
        add(log, range(stop + 1, 7))
    quiet, stopped = ((tmp_path / f / "groups.jsonl") for f in ("quiet", "stopped"))
    assert stopped.read_text() == quiet.read_text()


def test_each_process_writes_its_own_log_and_all_are_read(tmp_path):
    for process in range(3):
        with GroupLog(tmp_path, process, 0, 99, {}) as log:
            log.add(1, [_part(process, ends=1)])
            log.add(2, [_part(process, born=1, ends=2)])
    with GroupLog(tmp_path, 0, 1, 99, {}):
        group_log.forget_lost_processes(tmp_path, processes=2, keep_steps=1)
    kept = [(g["step"], g["slot"]) for g in group_log.read_groups(tmp_path)]
    assert kept == [(1, 0), (1, 1), (1, 2), (2, 1)]


def test_groups_of_a_run_count_by_their_tasks_and_are_logged_as_they_are(
    one_device, tmp_path
):
    dims = tuple(f"dims={n}{small_runs.ONE_STRUCTURE}" for n in (2, 2, 3))
    config = dataclasses.replace(
        small_runs.CONFIG,
        mix=TaskMix(suites=("quadratic",), task_options=dims),
        groups_in_flight=None,
        tasks_per_group=16,
        num_tasks=6,
        num_pairs=6,
        outer_steps=5,
    )
    run.train(config, tmp_path)
    groups = read_rows(tmp_path / "groups.jsonl")
    assert sorted(len(group["tasks"]) for group in groups) == [2, 4]
    expected = sum(len(group["tasks"]) * group["loss"] for group in groups) / 6
    loss = run.read_metrics(tmp_path)["loss"].mean()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
