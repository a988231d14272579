"""Checkpoints and logs while the disk is slow, or full, or one process's alone is."""

import dataclasses
import errno
import os
import signal
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

import pretrained
from meta_train import (
    CheckpointError,
    Proxy,
    run,
    run_log,
    stored_trees,
)
from meta_train.background_writer import BackgroundWriter
from meta_train.checkpoint import Checkpoints
from meta_train.tensorboard import Board

CONFIG = dataclasses.replace(small_runs.CONFIG, outer_steps=30)
pytestmark = pytest.mark.usefixtures("one_device")
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture(scope="module")
def unbroken(one_device, tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert run.train(CONFIG, folder).finished
    return folder


@pytest.fixture
def often(monkeypatch):
    """A checkpoint is due after every step."""
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)


def _lines(folder):
    return (folder / "metrics.jsonl").read_text().splitlines()


def _steps(folder):
    paths = (folder / "checkpoints").rglob("*.safetensors")
    return sorted(int(path.stem) for path in paths)


def _writing(monkeypatch, how):
    """Have ``how(number, write)`` called in place of each writing of a checkpoint."""
    write, begun = stored_trees.write, []

    def instead(path, arrays, facts):
        begun.append(int(path.stem))
        how(len(begun), lambda: write(path, arrays, facts))

    monkeypatch.setattr(stored_trees, "write", instead)
    return begun


def test_a_run_goes_on_while_a_checkpoint_is_written_and_none_queue_up(
    unbroken, tmp_path, monkeypatch, often
):
    at_the_disk = threading.Event()

    def slowly(number, write):
        if number == 1:
            assert at_the_disk.wait(timeout=60)
        write()

    begun = _writing(monkeypatch, slowly)

    def on_progress(progress):
        if progress.step == 25:
            at_the_disk.set()

    assert run.train(CONFIG, tmp_path, on_progress=on_progress).finished
    assert begun[0] < 5 and begun[1] > 25  # all turns between found it busy
    assert _lines(tmp_path) == _lines(unbroken)
    assert _steps(tmp_path)[-1] == 30


def test_a_checkpoint_is_of_the_step_at_which_it_was_asked_for(
    unbroken, tmp_path, monkeypatch, often
):
    def late(number, write):
        time.sleep(0.2)
        write()

    _writing(monkeypatch, late)
    killed = RuntimeError("killed")

    def on_progress(progress):
        time.sleep(0.02)
        if progress.step == 28:
            raise killed

    with pytest.raises(RuntimeError, match="killed"):
        run.train(CONFIG, tmp_path, on_progress=on_progress)
    assert 0 < _steps(tmp_path)[-1] < 28
    assert run.train(CONFIG, tmp_path, resume=True).finished
    assert _lines(tmp_path) == _lines(unbroken)


def test_a_full_disk_is_warned_about_and_the_next_turn_tries_again(
    unbroken, tmp_path, monkeypatch, often
):
    def full_for_a_while(number, write):
        if number in (3, 4, 5):
            raise FULL
        write()

    begun, warnings = _writing(monkeypatch, full_for_a_while), []
    assert run.train(CONFIG, tmp_path, warn=warnings.append).finished
    assert len(warnings) == 3 and len(begun) > 6
    for step, warning in zip(begun[2:5], warnings, strict=True):
        assert f"{step}.safetensors" in warning and "No space left" in warning
    failed = run.read_metrics(tmp_path, "timing.jsonl")["failed_writes"]
    assert failed[0] == 0 and failed[-1] == 3
    assert _lines(tmp_path) == _lines(unbroken) and len(_steps(tmp_path)) == 3


def test_checkpoints_are_kept_while_no_newer_one_can_be_written(
    unbroken, tmp_path, monkeypatch, often
):
    def full_from_then_on(number, write):
        if number > 2:
            raise FULL
        write()

    with monkeypatch.context() as patch:
        begun = _writing(patch, full_from_then_on)
        with pytest.raises(CheckpointError, match="make room") as error:
            run.train(CONFIG, tmp_path, warn=lambda text: None)
    assert f"goes on from step {begun[1]}" in str(error.value)
    assert _steps(tmp_path) == begun[:2]
    assert run.train(CONFIG, tmp_path, resume=True).finished
    assert _lines(tmp_path) == _lines(unbroken)


def test_a_last_checkpoint_that_is_damaged_is_written_anew(
    unbroken, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
        run.train(CONFIG, tmp_path)
    next((tmp_path / "checkpoints").rglob("30.safetensors")).write_bytes(b"")
    warnings = []
    for expected in (1, 0):
        warnings.clear()
        assert run.train(CONFIG, tmp_path, resume=True, warn=warnings.append).finished
        assert len(warnings) == expected
    assert _lines(tmp_path) == _lines(unbroken)


def test_an_outer_optimizer_that_has_changed_meanwhile_is_not_gone_on_with(tmp_path):
    outer, folder = tmp_path / "outer", tmp_path / "run"
    loaded = pretrained.load("scale_free")
    pretrained.save(outer, loaded.optimizer, loaded.theta, loaded.card)
    config = dataclasses.replace(CONFIG, outer_optimizer=str(outer))

    def stop(progress):
        if progress.step in (3, 13):
            os.kill(os.getpid(), signal.SIGTERM)

    for _ in range(2):  # the same one is fine
        assert not run.train(config, folder, resume=True, on_progress=stop).finished
    moved = jax.tree.map(lambda x: x + 0.1, loaded.theta)
    pretrained.save(outer, loaded.optimizer, moved, loaded.card, overwrite=True)
    with pytest.raises(CheckpointError, match="outer' has another theta now"):
        run.train(config, folder, resume=True)


def test_a_suite_to_evaluate_on_that_there_is_not_is_an_error_before_anything(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(run, "Preparation", None)  # nothing is compiled
    proxy = Proxy(proxy_every=10, proxy_suites=("quadratik",))
    with pytest.raises(LookupError, match="quadratik.*quadratic"):
        run.train(dataclasses.replace(CONFIG, proxy=proxy), tmp_path)


def test_a_clock_that_jumps_changes_nothing(unbroken, tmp_path, monkeypatch, often):
    wall = iter(range(10**9, 0, -(10**5)))
    monkeypatch.setattr(time, "time", lambda: float(next(wall)))
    result = run.train(CONFIG, tmp_path, time_budget=600.0)
    assert result.finished and len(_steps(tmp_path)) == 3
    assert _lines(tmp_path) == _lines(unbroken)
    assert np.all(run.read_metrics(tmp_path, "timing.jsonl")["seconds"] > 0)


def test_the_part_that_a_kill_cut_short_is_removed(tmp_path):
    part = tmp_path / "0of1"
    part.mkdir()
    (part / "7.tmp").write_bytes(b"half")
    Checkpoints(tmp_path, CONFIG, SimpleNamespace(index=0, count=1), print)
    assert not list(part.iterdir())


def test_what_all_processes_have_is_kept_while_one_of_them_cannot_write(
    tmp_path, monkeypatch
):
    parts = [
        Checkpoints(
            tmp_path, CONFIG, SimpleNamespace(index=i, count=2), lambda text: None
        )
        for i in range(2)
    ]
    write = stored_trees.write

    def full_for_one(path, arrays, facts):
        if path.parent.name == "1of2" and int(path.stem) > 4:
            raise FULL
        write(path, arrays, facts)

    monkeypatch.setattr(stored_trees, "write", full_for_one)
    (tmp_path / "0of1").mkdir()
    for step in range(1, 21):
        state = SimpleNamespace(step=jnp.int32(step))
        engine = SimpleNamespace(state=state, lanes={}, in_flight={})
        monkeypatch.setattr(Checkpoints, "_content", lambda *_: ({}, {}))
        for checkpoints in parts:
            checkpoints.save(engine, {})
            checkpoints.writer.wait()
    files = {
        i: sorted(int(p.stem) for p in (tmp_path / f"{i}of2").glob("*")) for i in (0, 1)
    }
    assert files == {0: [2, 3, 4, 18, 19, 20], 1: [2, 3, 4]}
    assert not (tmp_path / "0of1").exists()  # of another number of processes
    assert parts[1].writer.failures == 16 and parts[0].writer.failures == 0


def test_a_copy_does_not_change_with_what_it_is_of():
    tree = {"x": jnp.arange(4.0), "key": jax.random.key(3)}
    arrays = stored_trees.on_host({"tree": tree})
    jax.jit(lambda x: x + 1, donate_argnums=0)(tree["x"]).block_until_ready()
    np.testing.assert_array_equal(arrays["tree/x"], [0, 1, 2, 3])
    np.testing.assert_array_equal(arrays["tree/key"], [0, 3])
    assert all(x.flags.owndata for x in arrays.values())


def test_a_file_that_did_not_fit_leaves_nothing_and_the_one_before_it_whole(
    tmp_path, monkeypatch
):
    path, like = tmp_path / "1.safetensors", {"x": jnp.zeros(2)}
    stored_trees.write(path, stored_trees.on_host({"tree": {"x": jnp.ones(2)}}), {})

    def full(file):
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError):
            stored_trees.write(path, stored_trees.on_host({"tree": like}), {})
    assert [p.name for p in tmp_path.iterdir()] == ["1.safetensors"]
    with stored_trees.opened(path) as stored:
        stored.check()
        assert np.all(stored.load("tree", like)["x"] == 1)


def test_a_writer_tells_every_failure_once_and_takes_the_next_job():
    warnings, done = [], []
    writer = BackgroundWriter(warnings.append)

    def fail():
        raise ValueError

    for name, job in (("a", fail), ("b", lambda: done.append(1)), ("c", fail)):
        writer.write(name, job)
        while writer.busy:
            time.sleep(0.001)
    writer.close()
    assert writer.failures == 2 and done == [1]
    assert [w.split()[0] for w in warnings] == ["a", "c"]


class _Disk:
    """A raw file with room for so many bytes."""

    def __init__(self, room):
        self.room, self.content = room, b""

    def write(self, data):
        taken = data[: min(self.room, 7)]
        if not taken:
            raise FULL
        self.content += taken
        self.room -= len(taken)
        return len(taken)

    def close(self):
        pass


def test_lines_that_do_not_fit_are_written_when_there_is_room(tmp_path):
    warnings = []
    with run_log.Lines(tmp_path / "log", 0, warnings.append) as lines:
        lines._file.close()
        disk = lines._file = _Disk(30)
        for step in range(1, 6):
            lines.add({"step": step})
        assert len(warnings) == 1 and "No space left" in warnings[0]
        disk.room = 1000
        lines.add({"step": 6})
        disk.room = 5
        lines.add({"step": 7})
    whole = [f'{{"step": {step}}}' for step in range(1, 7)]
    assert disk.content.decode().splitlines()[:6] == whole
    assert "last 1 lines" in warnings[-1] and len(warnings) == 3


def test_tensorboard_ends_where_the_disk_is_full_and_the_run_goes_on(
    unbroken, tmp_path, monkeypatch
):
    pytest.importorskip("tensorboardX")

    def full(self, step, scalars):
        raise FULL

    monkeypatch.setattr(Board, "write", full)
    warnings = []
    assert run.train(CONFIG, tmp_path, warn=warnings.append).finished
    assert len(warnings) == 1 and "tensorboard" in warnings[0]
    assert _lines(tmp_path) == _lines(unbroken)


def test_tensorboard_reads_what_is_written(tmp_path):
    pytest.importorskip("tensorboardX")
    for first in (0, 2):
        board = Board(tmp_path, first)
        for step in range(first + 1, first + 3):
            board.write(step, {"loss": step / 2, "snr": float("nan")})
        board.close()
    content = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()))
    assert content.count(b"loss") == 4 and b"snr" not in content
    assert len(list(tmp_path.iterdir())) == 2
