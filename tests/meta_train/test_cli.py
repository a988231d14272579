"""The command line: help, errors in one sentence, durations."""

import inspect
import re

import pytest

import learned_opt
import pretrained
import tasksets
from meta_train import cli, durations, evaluate, reproduce
from meta_train.task_display import read_checked


@pytest.mark.parametrize(
    "command",
    [
        "train",
        "report",
        "evaluate",
        "tasks",
        "data",
        "optimizers",
        "pretrained",
        "reproduce",
        "demo",
    ],
)
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert "Example: learned-opt" in capsys.readouterr().out


_COMMANDS = [
    command
    for command in vars(cli).values()
    if inspect.isclass(command) and command.__module__ == cli.__name__
]


@pytest.mark.parametrize(
    "example",
    re.findall(
        r"Example: learned-opt (.+)",
        "\n".join(map(str, map(inspect.getdoc, _COMMANDS))),
    ),
)
def test_the_example_in_a_help_text_means_what_there_is(example, monkeypatch):
    monkeypatch.setattr(cli, "use_all_cores", lambda: None)
    monkeypatch.setattr(cli, "use_compilation_cache", lambda folder: None)
    given = []
    for command in _COMMANDS:
        monkeypatch.setattr(command, "__call__", lambda self: given.append(self))
    cli.main(example.split())
    (command,) = given
    if isinstance(command, cli.Train):
        learned_opt.get(command.config.optimizer)
    if isinstance(command, cli.Evaluate):
        pretrained.load(command.optimizers[0])
        assert command.suite in evaluate.suites.suite_names()
    if isinstance(command, cli.Reproduce):
        assert set(command.names) <= set(reproduce.EXPERIMENTS)


def test_every_optimizer_that_can_be_trained_is_listed(capsys):
    cli.main(["optimizers"])
    out = capsys.readouterr().out
    assert all(name in out for name in learned_opt.names()) and "1,762" in out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tasks", "show", "small_mpl/seed3"], "small_mlp"),
        (["tasks", "list", "--suite", "digit"], "digits"),
        (["evaluate", "scale_fre"], "scale_fre"),
        (["evaluate", "adam:lr=0.1", "--num-tasks", "0"], "at least 1, not 0"),
        (["evaluate", "adam:lr=0.1", "--num-tasks", "-3"], "at least 1, not -3"),
        (["train", "--optimizer", "hierarchica"], "hierarchical"),
        (["train", "--time-budget", "nine"], "is no duration"),
        (["train", "--elastic", "2"], "--groups-in-flight"),
        (["train", "--elastic", "2", "--distributed"], "processes that stay"),
        (["pretrained", "show", "nothing_like_it"], "nothing_like_it"),
        (["reproduce", "influence-balance"], "influence-balancing"),
    ],
)
def test_a_wrong_name_is_one_sentence_with_the_nearest_right_one(
    arguments, sentence, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 1
    out = capsys.readouterr().out
    assert out.startswith("error:") and sentence in out
    assert "Traceback" not in out


def test_what_stands_in_brackets_in_an_error_is_shown(capsys, monkeypatch):
    def missing(self):
        raise ImportError("pip install 'learned-opt[ray]'")

    monkeypatch.setattr(cli.Optimizers, "__call__", missing)
    with pytest.raises(SystemExit):
        cli.main(["optimizers"])
    assert "learned-opt[ray]" in capsys.readouterr().out


def test_a_horizon_of_part_windows_is_refused_before_anything_runs(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--window", "30", "--min-horizon", "100"])
    assert stop.value.code != 0
    captured = capsys.readouterr()
    words = (captured.out + captured.err).replace("│", " ").split()
    assert "whole number of windows" in " ".join(words)


def test_tasks_are_listed_shown_and_sampled(capsys):
    cli.main(["tasks", "list"])
    cli.main(["tasks", "list", "--suite", "small_mlp", "--limit", "3"])
    cli.main(["tasks", "show", "small_mlp/seed7"])
    cli.main(["tasks", "sample", "3", "--suite", "quadratic"])
    out = capsys.readouterr().out
    assert "quadratic" in out and "small_mlp/seed2" in out and "1,930" in out
    assert "loss_scale=" in out and "(measured)" in out
    cli.main(["tasks", "show", "small_mlp/seed7?hidden=4"])
    assert "(closed form)" in capsys.readouterr().out


def test_a_suite_is_checked_and_a_second_check_goes_on_from_the_table(
    capsys, tmp_path, monkeypatch
):
    checked = ["mlp_family/seed7@digits", "quadratic_family/seed1", "mlp_family/seed6"]
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))  # where nothing is prepared
    monkeypatch.setattr(tasksets, "names", lambda suite: checked)
    table = tmp_path / "checked.csv"
    command = [
        "tasks",
        "check",
        "--suite",
        "digits",
        "--jobs",
        "1",
        "--out",
        str(table),
    ]
    cli.main(command)
    first = table.read_text()
    statuses = {found.name: found.status for found in read_checked(table)}
    assert statuses == dict(zip(checked, ["ok", "ok", "data absent"], strict=True))
    cli.main(command)
    assert table.read_text() == first
    assert "digits: 3 tasks" in capsys.readouterr().out


def test_the_losses_of_a_task_are_plotted(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "task.png"
    cli.main(
        ["tasks", "plot", "quadratic_family/seed3?dims=3", "--out", str(path)]
        + ["--num-steps", "25", "--num-seeds", "1"]
    )
    assert path.read_bytes().startswith(b"\x89PNG")


def test_data_sets_are_listed(capsys):
    cli.main(["data", "list"])
    out = capsys.readouterr().out
    assert "digits" in out and "bundled" in out and "lm1b" in out


@pytest.mark.parametrize(
    ("text", "value"), [("90", 90), ("90s", 90), ("9m", 540), ("1.5h", 5400)]
)
def test_durations_are_read_in_seconds_minutes_and_hours(text, value):
    assert durations.seconds(text) == value
