"""Runs in folders: stopped anyhow, they go on to the same metrics."""

import dataclasses
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import pretrained
from meta_train import (
    CheckpointError,
    Horizons,
    TaskMix,
    TrainConfig,
    demo,
    group_log,
    loop,
    run,
)

CONFIG = TrainConfig(
    optimizer="adam",
    mix=TaskMix(task_options=("hidden=20-20&activation=tanh",)),
    horizons=Horizons(window=5, min_horizon=10, max_horizon=40),
    num_tasks=4,
    num_pairs=8,
    outer_steps=12,
    seed=3,
)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert run.train(CONFIG, folder).finished
    return folder


def _lines(folder: Path) -> list[str]:
    return (folder / "metrics.jsonl").read_text().splitlines()


def _stop_after(steps: int, number: int = signal.SIGTERM):
    """A progress callback that sends this process a signal."""

    def on_progress(progress):
        if progress.step == steps:
            os.kill(os.getpid(), number)

    return on_progress


def test_a_run_leaves_all_that_its_folder_should_hold(unbroken):
    metrics = run.read_metrics(unbroken)
    np.testing.assert_array_equal(metrics["step"], np.arange(1, 13))
    assert np.all(np.isfinite(metrics["loss"]))
    timing = run.read_metrics(unbroken, "timing.jsonl")
    assert np.all(timing["inner_steps_per_second"] > 0)
    assert TrainConfig.load(unbroken / "config.json") == CONFIG
    groups = group_log.read_groups(unbroken)
    names = [name for group in groups for name in group["tasks"]]
    assert sorted(names) == sorted(task.name for task in CONFIG.mix.sample(4, seed=3))
    loaded = pretrained.load(unbroken / "theta")
    assert "--optimizer adam" in loaded.card.command
    assert re.search(
        r"[1-9].* million inner steps; .* of kind cpu", loaded.card.compute
    )
    assert list((unbroken / "tensorboard").iterdir())


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_a_run_with_a_checkpoint_and_resuming_changes_nothing(
    unbroken, tmp_path, name
):
    stop = _stop_after(5, signal.Signals[name])
    stopped = run.train(CONFIG, tmp_path, on_progress=stop)
    assert stopped.reason == name and not stopped.finished
    assert 5 <= stopped.outer_steps < 12
    resumed = run.train(CONFIG, tmp_path, resume=True)
    assert resumed.finished
    assert _lines(tmp_path) == _lines(unbroken)
    mine, theirs = (pretrained.load(f / "theta").theta for f in (tmp_path, unbroken))
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)


def test_a_time_budget_ends_a_run_with_a_checkpoint(unbroken, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "LAST_WORDS_SECONDS", 600.0)  # all of it
    stopped = run.train(CONFIG, tmp_path, time_budget=600.0)
    assert stopped.reason == "time budget" and 0 < stopped.outer_steps < 12
    assert run.train(CONFIG, tmp_path, resume=True).finished
    assert _lines(tmp_path) == _lines(unbroken)


def test_resuming_an_empty_folder_starts_afresh(unbroken, tmp_path):
    assert run.train(CONFIG, tmp_path / "new", resume=True).finished
    assert _lines(tmp_path / "new") == _lines(unbroken)


def test_resuming_a_finished_run_does_nothing(unbroken):
    before = _lines(unbroken)
    assert run.train(CONFIG, unbroken, resume=True).finished
    assert _lines(unbroken) == before


def test_a_folder_that_holds_a_run_is_not_overwritten(unbroken):
    with pytest.raises(FileExistsError, match="--resume"):
        run.train(CONFIG, unbroken)


def test_a_start_that_failed_leaves_the_folder_to_the_next_command(tmp_path):
    wrong = dataclasses.replace(CONFIG, init_from="nothing_like_it")
    with pytest.raises(LookupError, match="nothing_like_it"):
        run.train(wrong, tmp_path)
    config = dataclasses.replace(CONFIG, outer_steps=2)
    assert run.train(config, tmp_path).finished
    assert TrainConfig.load(tmp_path / "config.json") == config


def test_a_damaged_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("")
    with pytest.raises(ValueError, match="config.json is damaged"):
        TrainConfig.load(tmp_path / "config.json")


def test_a_run_of_another_config_is_refused_by_the_names_of_the_fields(unbroken):
    other = dataclasses.replace(CONFIG, sigma=0.5)
    with pytest.raises(ValueError, match="sigma: 0.5, not 0.03"):
        run.train(other, unbroken, resume=True)


def _stopped_twice(folder: Path) -> list[Path]:
    """Checkpoints of two different steps; returns them, older first."""
    run.train(CONFIG, folder, on_progress=_stop_after(3))
    run.train(CONFIG, folder, resume=True, on_progress=_stop_after(7))
    paths = (folder / "checkpoints").rglob("*.safetensors")
    return sorted(paths, key=lambda path: int(path.stem))


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(
    unbroken, tmp_path, damage
):
    older, newer = _stopped_twice(tmp_path)
    data = newer.read_bytes()
    damaged = {
        "truncate": data[: len(data) // 2],
        "flip": data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
        "empty": b"",
    }
    newer.write_bytes(damaged[damage])
    warnings = []
    resumed = run.train(CONFIG, tmp_path, resume=True, warn=warnings.append)
    assert resumed.finished
    assert len(warnings) == 1 and str(newer) in warnings[0], (older, warnings)
    assert _lines(tmp_path) == _lines(unbroken)


def test_a_checkpoint_that_was_being_written_does_not_count(unbroken, tmp_path):
    _, newer = _stopped_twice(tmp_path)
    newer.rename(newer.with_suffix(".tmp"))
    warnings = []
    assert run.train(CONFIG, tmp_path, resume=True, warn=warnings.append).finished
    assert _lines(tmp_path) == _lines(unbroken) and not warnings


def test_the_last_few_checkpoints_are_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHECKPOINT_SECONDS", 0.0)
    run.train(CONFIG, tmp_path)
    steps = [int(path.stem) for path in (tmp_path / "checkpoints").rglob("*.*")]
    assert len(steps) == 3 and max(steps) == 12


def test_when_no_checkpoint_is_usable_the_error_names_each(tmp_path):
    paths = _stopped_twice(tmp_path)
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        run.train(CONFIG, tmp_path, resume=True, warn=lambda text: None)
    assert all(str(path) in str(error.value) for path in paths)


def test_a_checkpoint_of_another_config_is_refused_by_name(unbroken, tmp_path):
    other = dataclasses.replace(CONFIG, sigma=0.5)
    run.train(other, tmp_path, on_progress=_stop_after(3))
    CONFIG.save(tmp_path / "config.json")  # as if somebody had edited the folder
    with pytest.raises(CheckpointError, match="another config .sigma: 0.5, not 0.03"):
        run.train(CONFIG, tmp_path, resume=True, warn=lambda text: None)


_WORKER = """
import sys, jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", sys.argv[3])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
from pathlib import Path
from meta_train import TrainConfig, run
run.CHECKPOINT_SECONDS = 0.3
config = TrainConfig.load(Path(sys.argv[1]))
run.train(config, Path(sys.argv[2]), resume=True)
"""


def _kill_and_resume(
    tmp_path: Path, config: TrainConfig, kills: int, seed: int
) -> None:
    path = tmp_path / "given.json"
    config.save(path)
    repository = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(repository)}

    def start(folder: str) -> subprocess.Popen:
        arguments = [str(path), str(tmp_path / folder), str(tmp_path / "cache")]
        return subprocess.Popen(
            [sys.executable, "-c", _WORKER, *arguments], env=environment
        )

    assert start("quiet").wait(timeout=900) == 0
    chance, killed = random.Random(seed), 0
    while killed < kills:
        worker = start("killed")
        deadline = time.monotonic() + 300
        seen = _count(tmp_path / "killed")
        while _count(tmp_path / "killed") == seen and worker.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.8))
        if worker.poll() is not None:
            break  # it finished before it could be killed
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        killed += 1
    assert killed == kills, "the run must last long enough to be killed this often"
    assert start("killed").wait(timeout=300) == 0
    assert _lines(tmp_path / "killed") == _lines(tmp_path / "quiet")
    killed, quiet = (tmp_path / name / "groups.jsonl" for name in ("killed", "quiet"))
    assert killed.read_text() == quiet.read_text()
    steps = [json.loads(line)["step"] for line in _lines(tmp_path / "killed")]
    assert steps == list(range(1, 401))


def _count(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.stat().st_size if path.exists() else 0


def test_a_run_killed_twice_ends_as_if_nothing_had_happened(tmp_path):
    config = dataclasses.replace(CONFIG, outer_steps=400)
    _kill_and_resume(tmp_path, config, kills=2, seed=0)


@pytest.mark.slow
def test_the_demo_killed_ten_times_ends_as_if_nothing_had_happened(tmp_path):
    config = dataclasses.replace(demo.config(), outer_steps=400)
    _kill_and_resume(tmp_path, config, kills=10, seed=1)
