"""Runs of several real processes: one theta, and none outlives the others."""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from meta_train import (
    Horizons,
    Proxy,
    TaskMix,
    TrainConfig,
    cli,
    engine,
    group_log,
    processes,
    run,
    selection,
)

CONFIG = TrainConfig(
    optimizer="sgd",
    mix=TaskMix(
        suites=("quadratic",), task_options=("dims=2&output=identity&noise=none",)
    ),
    horizons=Horizons(window=2, min_horizon=20, max_horizon=60),
    groups_in_flight=3,
    tasks_per_group=2,
    num_pairs=12,
    outer_steps=20,
    seed=1,
)

_WORKER = """
import hashlib, os, sys
from pathlib import Path
import jax
jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_compilation_cache_dir", sys.argv[3])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
from meta_train import TrainConfig, processes, run
run.CHECKPOINT_SECONDS = 0.2
index, count = int(sys.argv[5]), int(sys.argv[6])
if count > 1:
    processes.connect("127.0.0.1:" + sys.argv[4], count, index)
config = TrainConfig.load(Path(sys.argv[1]))
try:
    result = run.train(config, Path(sys.argv[2]), resume=True)
except processes.ProcessLostError as error:
    print("lost:", error, flush=True)
    os._exit(1)
theta = b"".join(bytes(x) for x in jax.tree.leaves(jax.device_get(result.theta)))
print("theta", hashlib.sha256(theta).hexdigest(), flush=True)
"""


def _start(
    tmp_path: Path,
    config: TrainConfig,
    folder: str,
    count: int,
    last: TrainConfig | None = None,
):
    """Processes that train in a folder; the last one by a config of its own, if given."""
    paths = [tmp_path / f"given{index}.json" for index in range(count)]
    for path in paths:
        config.save(path)
    if last is not None:
        last.save(paths[-1])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = [tmp_path / folder, tmp_path / "cache", port]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    return [
        subprocess.Popen(
            [sys.executable, "-c", _WORKER, *map(str, [path, *common, index, count])],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index, path in enumerate(paths)
    ]


def _finish(workers) -> list[str]:
    """The hash of theta that each process ends with."""
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert all(worker.returncode == 0 for worker in workers), outputs
    return [output.split("theta ")[1].strip() for output in outputs]


def _assert_alike(folder: Path, quiet: Path) -> None:
    """The same run up to the order of summation."""
    mine, theirs = run.read_metrics(folder), run.read_metrics(quiet)
    np.testing.assert_array_equal(mine["step"], theirs["step"])
    for name in ("loss", "inner_step", "resets"):
        np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-3, atol=1e-5)
    groups = group_log.read_groups(folder), group_log.read_groups(quiet)
    for mine, theirs in zip(*groups, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-3)
        assert mine | {"loss": None} == theirs | {"loss": None}


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_have_one_theta_that_of_a_run_of_one(tmp_path, count):
    proxy = Proxy(proxy_every=10, proxy_tasks=2, proxy_horizon=25, proxy_seeds=1)
    config = dataclasses.replace(
        CONFIG, groups_in_flight=count + 1, num_pairs=20, proxy=proxy
    )
    hashes = _finish(_start(tmp_path, config, "several", count))
    assert len(hashes) == count and len(set(hashes)) == 1
    _finish(_start(tmp_path, config, "one", 1))
    several, one = tmp_path / "several", tmp_path / "one"
    _assert_alike(several, one)
    pairs = zip(*map(selection.read_evaluations, (several, one)), strict=True)
    for mine, theirs in pairs:
        assert mine["step"] == theirs["step"]
        assert mine["score"] == pytest.approx(theirs["score"], rel=1e-3)
    assert [row["step"] for row in selection.read_evaluations(one)] == [0, 10, 20]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_run_and_another_number_of_them_goes_on(
    tmp_path, victim
):
    config = dataclasses.replace(CONFIG, outer_steps=150)
    workers = _start(tmp_path, config, "killed", 2)
    state = tmp_path / "killed" / "checkpoints" / "0of2"
    deadline = time.monotonic() + 200
    while not list(state.glob("*.safetensors")):
        assert time.monotonic() < deadline and workers[0].poll() is None
        time.sleep(0.05)
    workers[victim].send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    other = workers[1 - victim]
    output, _ = other.communicate(timeout=60)
    assert time.monotonic() - killed_at < 30
    assert other.returncode != 0
    if victim == 1:  # without process 0 jax itself ends the others
        assert "cannot reach the others" in output and "--resume" in output, output
    workers[victim].communicate()
    at = max(int(path.stem) for path in state.glob("*.safetensors"))
    assert len(set(_finish(_start(tmp_path, config, "killed", 3)))) == 1
    _finish(_start(tmp_path, config, "quiet", 1))
    assert 0 < at < 150
    _assert_alike(tmp_path / "killed", tmp_path / "quiet")


@pytest.mark.slow
def test_a_process_of_another_config_ends_the_run_before_it_began(tmp_path):
    other = dataclasses.replace(CONFIG, sigma=0.5)
    workers = _start(tmp_path, CONFIG, "run", 2, last=other)
    outputs = [worker.communicate(timeout=300)[0] for worker in workers]
    assert all("disagree about the config" in output for output in outputs), outputs
    assert all(worker.returncode == 1 for worker in workers)
    assert not (tmp_path / "run").exists()


def test_the_command_line_says_in_one_sentence_that_configs_differ(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(
        processes.Processes, "_gathered", lambda self, n: np.array([n, n, n + 1])
    )
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--folder", str(tmp_path / "new")])
    out = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 1 and "Traceback" not in out
    assert "disagree about the config (2 alike, 1 alike): start all" in out
    assert not (tmp_path / "new").exists()


def test_a_process_lost_while_groups_are_made_ready_is_named(tmp_path, monkeypatch):
    def lost(self, stop):
        monkeypatch.setattr(self._processes, "count", 2)
        raise jax.errors.JaxRuntimeError("connection reset by peer")

    monkeypatch.setattr(engine.Engine, "begin", lost)
    with pytest.raises(processes.ProcessLostError, match="process 0 of 2"):
        run.train(CONFIG, tmp_path)


def test_more_processes_than_groups_is_an_error(monkeypatch):
    them = processes.Processes()
    monkeypatch.setattr(them, "count", 4)
    with pytest.raises(ValueError, match="structures among the tasks.*at least 4"):
        them.share(range(3))
    monkeypatch.setattr(them, "index", 1)
    assert them.share(range(7)) == [1, 5]
