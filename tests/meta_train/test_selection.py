"""Theta on held-out tasks during a run: which, when, the same after any stop."""

import dataclasses
import errno
import os
import signal
import time

import jax
import numpy as np
import pytest
import small_runs

import pretrained
import tasksets
from meta_train import Proxy, evaluate, loop, run, selection
from meta_train.evaluate.training import Program
from meta_train.evaluate.workbench import Stop, Workbench

PROXY = Proxy(proxy_every=4, proxy_tasks=2, proxy_horizon=25, proxy_seeds=1)
CONFIG = dataclasses.replace(
    small_runs.CONFIG, outer_steps=10, outer_learning_rate=0.2, proxy=PROXY
)


@pytest.fixture(scope="module", autouse=True)
def one_device(one_device):
    """Evaluations compile for one device, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
        yield


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    assert run.train(CONFIG, folder).finished
    return folder


def _text(folder):
    return (folder / "evaluations.jsonl").read_text()


def _thetas(*folders):
    return [jax.tree.leaves(pretrained.load(str(f)).theta) for f in folders]


def test_theta_is_evaluated_at_the_start_every_few_steps_and_at_the_end(unbroken):
    rows = selection.read_evaluations(unbroken)
    assert [row["step"] for row in rows] == [0, 4, 8, 10]
    assert all(0 <= row["score"] <= 1 and 0 <= row["adam_final"] <= 1 for row in rows)
    assert len({row["score"] for row in rows}) > 1
    assert len({row["adam_score"] for row in rows}) == 1


def test_the_tasks_are_never_trained_on_and_the_same_for_every_seed():
    names = [entry.task.name for entry in PROXY.entries(CONFIG.mix)]
    assert {tasksets.split_of(name) for name in names} == {"test"}
    assert len(set(names)) == 2 and all("dims=2" in name for name in names)
    other = dataclasses.replace(CONFIG.mix, augmentation=1.0)
    assert [entry.task.name for entry in PROXY.entries(other)] == names
    elsewhere = dataclasses.replace(PROXY, proxy_suites=("small_mlp",))
    names = [entry.task.name for entry in elsewhere.entries(CONFIG.mix)]
    # What is fixed in the tasks of the mix, other families may not have.
    assert CONFIG.mix.task_options and all(n.startswith("small_mlp") for n in names)


def test_a_score_is_what_a_comparison_finds(unbroken):
    last = selection.read_evaluations(unbroken)[-1]
    theta = pretrained.load(str(unbroken / "theta")).theta
    found = evaluate.compare(
        PROXY.entries(CONFIG.mix),
        [
            evaluate.learned("theta", CONFIG.learned_optimizer(), theta),
            evaluate.contender("adam:tuned"),
        ],
        num_seeds=1,
    )
    over = found.scores("mean over training", "outer_valid")
    final = found.scores("final", "outer_valid")
    assert last["score"] == pytest.approx(over[0].mean(), rel=1e-5)
    assert last["adam_score"] == pytest.approx(over[1].mean(), rel=1e-5)
    assert last["final"] == pytest.approx(final[0].mean(), rel=1e-5)
    np.testing.assert_allclose([*last["tasks"].values()], over[0].mean(-1), rtol=1e-5)


def test_the_best_theta_is_kept_with_a_card(tmp_path, monkeypatch):
    scores = {0: 0.9, 4: 0.5, 8: 0.7, 10: 0.5}
    make_row, thetas, evaluate_theta = selection._row, {}, selection.Selection.evaluate

    def row(step, comparison):
        return make_row(step, comparison) | {"score": scores[step]}

    def watched(self, step, theta, stop):
        thetas[step] = jax.device_get(theta)
        return evaluate_theta(self, step, theta, stop)

    monkeypatch.setattr(selection, "_row", row)
    monkeypatch.setattr(selection.Selection, "evaluate", watched)
    run.train(CONFIG, tmp_path)
    kept = pretrained.load(str(tmp_path / "best"))
    assert "after 4 outer steps" in kept.card.summary
    assert "0.5000" in kept.card.results
    same = {
        step: jax.tree.all(jax.tree.map(np.array_equal, theta, kept.theta))
        for step, theta in thetas.items()
    }
    assert same == {0: False, 4: True, 8: False, 10: False}


@pytest.mark.parametrize("every", [3, 4])
def test_a_run_that_is_stopped_makes_the_same_evaluations(unbroken, tmp_path, every):
    small_runs.train_in_pieces(tmp_path, CONFIG, every)
    assert _text(tmp_path) == _text(unbroken)
    mine, theirs = _thetas(tmp_path / "best", unbroken / "best")
    np.testing.assert_array_equal(mine, theirs)


def test_evaluating_changes_nothing_in_the_run(unbroken, tmp_path):
    run.train(dataclasses.replace(CONFIG, proxy=Proxy()), tmp_path)
    lines = [(f / "metrics.jsonl").read_text() for f in (tmp_path, unbroken)]
    assert lines[0] == lines[1]
    assert not (tmp_path / "evaluations.jsonl").exists()


def test_an_evaluation_that_the_budget_has_no_time_for_is_made_later(
    unbroken, tmp_path, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(loop, "LAST_WORDS_SECONDS", 600.0)  # all of it
        stopped = run.train(CONFIG, tmp_path, time_budget=600.0)
    assert stopped.reason == "time budget" and stopped.outer_steps == 0
    assert run.train(CONFIG, tmp_path, resume=True).finished
    assert _text(tmp_path) == _text(unbroken)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_an_evaluation_after_the_program_that_runs(
    unbroken, tmp_path, monkeypatch, name
):
    train, ran = Program.train, []

    def interrupted(self, *arguments):
        ran.append(self)
        if len(ran) == 1:
            os.kill(os.getpid(), signal.Signals[name])
        return train(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Program, "train", interrupted)
        stopped = run.train(CONFIG, tmp_path)
    assert stopped.reason == name and stopped.outer_steps == 0
    assert len(ran) <= 2  # two tasks may be at work
    assert run.train(CONFIG, tmp_path, resume=True).finished
    assert _text(tmp_path) == _text(unbroken)


def test_a_second_interrupt_ends_an_evaluation_by_the_name_of_the_signal(
    tmp_path, monkeypatch
):
    left = [1, 2]

    def interrupted(self, *arguments):
        while left:
            left.pop()
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)  # until it is handled, in the main thread
        raise Stop

    monkeypatch.setattr(Workbench, "train", interrupted)
    assert run.train(CONFIG, tmp_path).reason == "SIGINT"


def test_a_baseline_runs_once(unbroken, tmp_path, monkeypatch):
    compared, compare = [], evaluate.compare

    def counted(entries, contenders, **options):
        compared.extend(contender.name for contender in contenders)
        return compare(entries, contenders, **options)

    monkeypatch.setattr(evaluate, "compare", counted)
    run.train(CONFIG, tmp_path)
    assert compared.count("adam:tuned") == 1 and compared.count("theta") == 4


def test_a_full_disk_costs_the_evaluation_not_the_run(tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(selection, "save_theta", full)
    warnings = []
    config = dataclasses.replace(CONFIG, outer_steps=2)
    assert run.train(config, tmp_path, warn=warnings.append).finished
    assert warnings and all("No space left" in warning for warning in warnings)
    assert len(selection.read_evaluations(tmp_path)) == 2


def test_a_score_that_could_not_be_kept_is_none_to_beat(tmp_path, monkeypatch):
    kept, scores = [], iter([0.3, 0.5, 0.4, 0.45])
    monkeypatch.setattr(selection, "_row", lambda step, _: {"score": next(scores)})
    monkeypatch.setattr(selection.Selection, "_compare", lambda *args: True)

    def keep(self, row, theta):
        if row["score"] == 0.3:
            raise OSError(errno.ENOSPC, "No space left on device")
        kept.append(row["score"])

    monkeypatch.setattr(selection.Selection, "_keep", keep)
    with selection.Selection(CONFIG, tmp_path, 0, True, lambda text: None) as found:
        for step in range(4):
            found.evaluate(step, {}, lambda: False)
    assert kept == [0.5, 0.4]


@pytest.mark.parametrize(
    "wrong", [{"proxy_every": 0}, {"proxy_horizon": 30}, {"proxy_tasks": 0}]
)
def test_impossible_proxies_are_errors(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Proxy(**wrong)
