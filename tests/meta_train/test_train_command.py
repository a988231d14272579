"""The command train: its time goes into training and then into evaluating."""

import math
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

from meta_train import cli, evaluate, evaluate_display, run, train_command

_WORDS = ["train", "--optimizer", "adam", "--num-tasks", "2", "--num-pairs", "2"]
_WORDS += ["--task-options", "hidden=4&activation=tanh"]
_WORDS += ["--window", "2", "--min-horizon", "2", "--max-horizon", "8"]
_THEN = ["--then-evaluate", "small_mlp"]
pytestmark = pytest.mark.usefixtures("one_device")


@pytest.fixture
def evaluations(monkeypatch):
    """Evaluations as they were asked for; none takes place."""
    asked = []
    record = lambda command, seconds: asked.append((command, seconds))
    monkeypatch.setattr(evaluate_display, "run", record)
    return asked


def _train(folder: Path, *words: str) -> None:
    cli.main([*_WORDS, "--folder", str(folder), *words])


def test_a_third_of_the_time_is_kept_to_evaluate_and_ends_before_the_last_quarter(
    tmp_path, evaluations, monkeypatch
):
    clock, given = (
        iter([100.0, 100.0, 109.0]),
        [],
    )  # training and its report take 9 seconds

    def train(config, folder, resume, seconds):
        given.append(seconds)
        return run.Result(None, 3, False, "time budget", folder)

    monkeypatch.setattr(train_command.display, "train", train)
    monkeypatch.setattr(train_command.display, "report_run", lambda folder: None)
    stopwatch = types.SimpleNamespace(monotonic=lambda: next(clock))
    monkeypatch.setattr(train_command, "time", stopwatch)
    _train(tmp_path, "--time-budget", "12s", *_THEN)
    ((command, seconds),) = evaluations
    assert given == [pytest.approx(8.0)] and seconds == pytest.approx(0.75 * 3)
    assert command.optimizers == (str(tmp_path),) and command.suite == "small_mlp"


def test_a_budget_too_short_for_a_step_leaves_no_theta_to_use(tmp_path, capsys):
    _train(tmp_path, "--outer-steps", "3", "--time-budget", "0.001s")
    said = " ".join(capsys.readouterr().out.split())
    assert "No outer step was done" in said and "untrained" in said
    assert "Use it" not in said
    _train(tmp_path, "--outer-steps", "3", "--resume")
    said = capsys.readouterr().out
    assert "Use it" in said and "untrained" not in said


def test_where_no_step_was_made_another_command_may_begin(tmp_path, capsys):
    _train(tmp_path, "--outer-steps", "3", "--time-budget", "0.001s")
    capsys.readouterr()
    _train(tmp_path, "--outer-steps", "2")
    assert "Use it" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        _train(tmp_path, "--outer-steps", "2")
    assert "already holds a run" in capsys.readouterr().out


def test_a_run_goes_on_with_its_own_config_and_refuses_another(tmp_path, capsys):
    _train(tmp_path, "--outer-steps", "3", "--seed", "1", "--resume")
    assert "holds no run to go on with" in capsys.readouterr().out
    again = ["train", "--folder", str(tmp_path), "--resume"]
    cli.main(again)
    out = " ".join(capsys.readouterr().out.split())
    assert "3 outer steps" in out and "holds no run" not in out
    with pytest.raises(SystemExit):
        cli.main([*again, "--seed", "0"])  # the default, but it was asked for
    assert "seed: 0, not 1" in capsys.readouterr().out


def test_to_go_on_where_no_run_is_with_nothing_said_about_one_is_an_error(
    tmp_path, capsys
):
    with pytest.raises(SystemExit):
        cli.main(["train", "--folder", str(tmp_path / "mistyped"), "--resume"])
    out = " ".join(capsys.readouterr().out.split())
    assert "holds no run to go on with" in out and "leave out --resume" in out
    assert not (tmp_path / "mistyped").exists()


def test_without_a_budget_or_with_one_of_its_own_the_evaluation_has_that(
    tmp_path, evaluations
):
    _train(tmp_path, "--outer-steps", "2", *_THEN)
    words = ["--resume", "--time-budget", "9m", "--evaluation-budget", "2m"]
    _train(tmp_path, "--outer-steps", "2", *_THEN, *words)
    # Training had ended before, so all is left.
    assert evaluations[0][1] is None and 0.7 * 540 < evaluations[1][1] < 0.75 * 540


def test_a_run_that_is_told_to_stop_does_not_begin_to_evaluate(
    tmp_path, evaluations, monkeypatch
):
    write = run.RunLog.write

    def stop(log, step, metrics, timing):
        write(log, step, metrics, timing)
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run.RunLog, "write", stop)
    _train(tmp_path, "--outer-steps", "1000000", *_THEN)
    assert not evaluations


def test_an_evaluation_that_had_no_time_says_how_to_go_on(
    tmp_path, monkeypatch, capsys
):
    def late(command, seconds):
        raise evaluate.OutOfTimeError("no task was done in time")

    monkeypatch.setattr(evaluate_display, "run", late)
    _train(tmp_path, "--outer-steps", "2", *_THEN)
    out = " ".join(capsys.readouterr().out.split())
    assert "The same command with --resume goes on" in out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--then-evaluate", "eval-smal"], "eval-small"),
        ([*_THEN, "--distributed"], "one process evaluates"),
        (
            [*_THEN, "--time-budget", "1m", "--evaluation-budget", "60s"],
            "leaves nothing",
        ),
        (["--num-processes", "2"], "--num-processes does nothing without --coord"),
        (["--process-id", "0"], "--process-id does nothing without --coordinator"),
        ([*_THEN, "--evaluation-budget", "1m"], "does nothing without --time-budget"),
        (
            ["--time-budget", "9m", "--evaluation-budget", "1m"],
            "--evaluation-budget does nothing without --then-evaluate",
        ),
        (["--staleness", "2"], "--staleness does nothing without --elastic"),
        (["--ray-address", "auto"], "--ray-address does nothing without --elastic"),
        (["--worker-cpus", "2"], "--worker-cpus does nothing without --elastic"),
        (["--worker-gpus", "0.5"], "--worker-gpus does nothing without --elastic"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(
    tmp_path, capsys, words, sentence
):
    with pytest.raises(SystemExit):
        _train(tmp_path / "new", *words)
    assert sentence in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "new").exists()


def test_data_that_an_evaluation_lacks_are_missed_before_training(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "nothing"))
    with pytest.raises(SystemExit):
        _train(tmp_path / "new", "--then-evaluate", "eval-small")
    assert "learned-opt data prepare" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "new").exists()


def test_workers_with_evaluations_are_refused_before_there_are_any(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(train_command, "RayPool", None)
    words = ["--elastic", "2", "--groups-in-flight", "2", "--proxy-every", "5"]
    with pytest.raises(SystemExit):
        cli.main(["train", "--folder", str(tmp_path / "new"), *words])
    assert "leave out --proxy-every" in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
def test_a_real_evaluation_ends_within_the_budget_and_goes_on_next_time(tmp_path):
    words = [*_WORDS, "--folder", str(tmp_path / "run"), "--then-evaluate", "horizon"]
    words += ["--time-budget", "60s", "--outer-steps", "200", "--resume"]
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    stored = []
    for _ in range(2):
        started = time.monotonic()
        ended = subprocess.run(
            [sys.executable, "-m", "meta_train.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert time.monotonic() - started < 75  # importing is not in the budget
        files = (tmp_path / "cache" / "learned-opt" / "evaluations").rglob("*")
        stored.append(sum(path.stat().st_size for path in files if path.is_file()))
    assert 0 < stored[0] < stored[1]


def test_the_loss_that_is_shown_is_smoothed_over_steps_that_have_one(
    tmp_path, monkeypatch
):
    shown, update = [], train_command.display.Progress.update

    def watched(bar, line, **fields):
        shown.append(fields["loss"])
        update(bar, line, **fields)

    def train(config, folder, on_progress, **options):
        for step, loss in enumerate((math.nan, 0.5, math.nan, 1.5), start=1):
            timing = run.Timing(1.0, 1.0, 0.0, 0, 0)
            on_progress(run.Progress(step, 4, {"loss": loss}, timing))
        return run.Result(None, 4, True, "finished", folder)

    monkeypatch.setattr(train_command.display.Progress, "update", watched)
    monkeypatch.setattr(run, "read_metrics", lambda folder: {})
    config = run.TrainConfig(optimizer="adam")
    train_command.display.train(config, tmp_path, False, None, train)
    assert shown == ["-", "0.5000", "0.5000", "0.5200"]
