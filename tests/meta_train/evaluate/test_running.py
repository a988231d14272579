"""Evaluating by name, what ships, and the command from end to end."""

import dataclasses
import functools
import itertools
from types import SimpleNamespace

import numpy as np
import optax
import pandas as pd
import pytest
from bowls import bowl, by_hand

import learned_opt
from meta_train import cli, evaluate
from meta_train.evaluate import Cache, Evaluation, running, shipped, timing, training
from meta_train.evaluate.comparison import Competitor, Entry

PROTOCOL = {"seeds": 1}
NAMES = ("sgd:lr=0.1", "adam:lr=0.001")
SHIPPED = [evaluate.contender(name) for name in NAMES]
LOSSES = {
    NAMES[0]: [[[4.0, 3.0, 1.0]], [[4.0, 3.0, 2.0]]],
    NAMES[1]: [[[4.0, 2.0, 0.5]], [[4.0, np.nan, 9.0]]],
}


def test_optimizers_come_first_and_nothing_twice():
    evaluation = Evaluation(("sgd:tuned", "adam:tuned"), ("adam:lr=1e-3", "adam:tuned"))
    names = [c.name for c in evaluation.contenders()]
    assert names == ["sgd:tuned", "adam:tuned", "adam:lr=0.001"]
    every = [c.name for c in Evaluation((), ("all",)).contenders()]
    assert every == list(evaluate.ALL)


def test_two_contenders_of_one_name_are_an_error_unless_they_are_one():
    make = lambda rate: evaluate.fixed("mine", optax.sgd(rate))
    with pytest.raises(ValueError, match="two contenders are named 'mine'"):
        Evaluation((make(0.1), make(0.2)), ()).contenders()
    mine = make(0.1)
    found = Evaluation((mine, mine, "adam:tuned"), ("adam:tuned",)).contenders()
    assert [one.name for one in found] == ["mine", "adam:tuned"] and found[0] is mine


def test_of_a_part_of_a_suite_ships_what_was_not_tuned_over_all_of_it(monkeypatch):
    asked = []

    def load(path, entries, contenders, protocol, cache):
        asked.append([contender.name for contender in contenders])
        raise ValueError

    monkeypatch.setattr(running.shipped, "load", load)
    whole = Evaluation(("adam:tuned",))
    for evaluation in (whole, dataclasses.replace(whole, num_tasks=3)):
        evaluation._shipped([], Cache(None), lambda text: None)
    assert set(asked[0]) - set(asked[1]) == {"adam:global"}


def _found(**options):
    """By those that ship."""
    comparison = by_hand(LOSSES, **options)
    competitors = [
        dataclasses.replace(competitor, content=one.content)
        for competitor, one in zip(comparison.competitors, SHIPPED, strict=True)
    ]
    return dataclasses.replace(comparison, competitors=tuple(competitors))


def test_what_ships_is_what_was_saved(tmp_path):
    comparison = _found(baselines=NAMES, trials={NAMES[1]: 7})
    path = tmp_path / "shipped.npz"
    shipped.save(path, comparison, SHIPPED, PROTOCOL)
    loaded = shipped.load(path, comparison.entries, SHIPPED, PROTOCOL)
    assert loaded.competitors == comparison.competitors
    assert "inner_valid" not in loaded.splits
    for figure in evaluate.FIGURES:
        for split in loaded.splits:
            mine, theirs = (c.scores(figure, split) for c in (comparison, loaded))
            np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    part = shipped.load(path, comparison.entries[1:], SHIPPED, PROTOCOL)
    np.testing.assert_array_equal(
        part.results[0].losses["final"]["test"], [[[4.0, 3.0, 2.0]]]
    )


@pytest.mark.parametrize(
    ("entries", "protocol", "complaint"),
    [
        ([Entry(bowl("task0"), 100)], {"seeds": 2}, "another protocol"),
        ([Entry(bowl("task9"), 100)], PROTOCOL, "does not have task9"),
        ([Entry(bowl("task0"), 200)], PROTOCOL, "does not have task0"),
        (
            [Entry(bowl("task0", curvature=2.0), 100)],
            PROTOCOL,
            "other data or code here",
        ),
    ],
)
def test_what_ships_is_refused_where_it_is_of_something_else(
    entries, protocol, complaint, tmp_path
):
    shipped.save(path := tmp_path / "s.npz", _found(), SHIPPED, PROTOCOL)
    with pytest.raises(ValueError, match=complaint):
        shipped.load(path, entries, SHIPPED, protocol)


def test_what_ships_of_optimizers_that_do_something_else_now_is_left_out(
    monkeypatch, tmp_path
):
    comparison = _found()
    shipped.save(path := tmp_path / "s.npz", comparison, SHIPPED, PROTOCOL)
    momentum = learned_opt.Momentum.advance

    def without_memory(self, theta, state, *rest):
        steps, _ = momentum(self, theta, state, *rest)
        return steps, state

    monkeypatch.setattr(learned_opt.Momentum, "advance", without_memory)
    loaded = shipped.load(path, comparison.entries, SHIPPED, PROTOCOL)
    assert loaded.names == ("adam:lr=0.001",)
    unknown = evaluate.fixed("adam:lr=0.001", optax.adam(1e-3))
    assert not shipped.load(path, comparison.entries, [unknown], PROTOCOL).names


BOWLS = Evaluation(("sgd:lr=0.1",), ("adam:lr=0.001",), horizon=25, seeds=1)


@pytest.fixture
def bowls(monkeypatch):
    """Every suite has two tasks that compile in no time."""
    entries = lambda items, num_steps, options: [
        Entry(bowl(f"bowl{i}", curvature=i + 1.0), num_steps) for i in range(2)
    ]
    monkeypatch.setattr(running.suites, "items", lambda suite, num_tasks: ())
    monkeypatch.setattr(running.suites, "entries", entries)


def test_baselines_that_ship_are_not_run_again(monkeypatch, bowls, tmp_path):
    path = tmp_path / "shipped.npz"
    monkeypatch.setattr(shipped, "path", lambda *of: path)
    fresh = BOWLS.run(cache=Cache(None))
    only = fresh.of_contenders(["adam:lr=0.001"])
    shipped.save(path, only, SHIPPED[1:], BOWLS.protocol())
    trained = []
    train = training.Program.train

    def counting(self, stack, starts, runs):
        trained.extend(run.point.label for run in runs)
        return train(self, stack, starts, runs)

    monkeypatch.setattr(training.Program, "train", counting)
    again = BOWLS.run(cache=Cache(None))
    assert set(trained) == {"sgd:lr=0.1"} and again.names == fresh.names
    np.testing.assert_allclose(
        again.scores("final", "test"), fresh.scores("final", "test"), rtol=1e-5
    )
    named = dataclasses.replace(BOWLS, optimizers=("adam", "sgd:lr=0.1"))
    assert named.run(cache=Cache(None)).names == ("adam", *fresh.names)
    told = []
    dataclasses.replace(BOWLS, seeds=2).run(cache=Cache(None), warn=told.append)
    assert "not used" in told[0] and "adam:lr=0.001" in trained


def test_of_what_is_in_both_of_two_comparisons_the_first_has_its_say():
    other = by_hand({name: np.array(x) + 1 for name, x in LOSSES.items()})
    joined = by_hand({NAMES[1]: LOSSES[NAMES[1]]}).joined(other)
    assert joined.names == NAMES[::-1]
    mine = joined.results[0].losses["final"]["test"]
    np.testing.assert_array_equal(mine, LOSSES[NAMES[1]])


def test_steps_are_timed_when_that_is_asked_for(bowls, monkeypatch):
    assert all(r.seconds is None for r in BOWLS.run(cache=Cache(None)).results)
    progress = []
    timed = dataclasses.replace(BOWLS, timed=True).run(
        cache=Cache(None), on_progress=progress.append
    )
    for result in timed.results:
        assert result.seconds.shape == (2,) and (result.seconds > 0).all()
    assert (1, 2) in progress
    clock = SimpleNamespace(perf_counter=itertools.count().__next__)
    monkeypatch.setattr(timing, "time", clock)  # 50 steps take a second
    timed = timing.timed(timed, BOWLS.contenders())
    np.testing.assert_allclose([r.seconds for r in timed.results], 1 / 50)
    (mine, _) = evaluate.standings(timed, reference="adam:lr=0.001")
    against = mine.against["final"]
    assert mine.milliseconds > 0 and against.speedup_seconds.value > 0


def test_run_gives_a_tidy_table(bowls, tmp_path):
    table = evaluate.run("sgd:lr=0.1", against=(), horizon=25, seeds=1, cache=tmp_path)
    assert set(table.optimizer) == {"sgd:lr=0.1"} and len(set(table.task)) == 2
    assert len(table) == 2 * 4 * 26 and list(tmp_path.iterdir())


def test_the_command_writes_tables_pictures_and_a_page(bowls, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    command = ["evaluate", "sgd:lr=0.1", "--against", "adam:lr=1e-3", "--horizon", "25"]
    command += ["--folder", str(tmp_path / "out"), "--cache", str(tmp_path / "cache")]
    cli.main(command)
    assert "2 tasks" in capsys.readouterr().out
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"index.html", "summary.csv", "curves.png", "profile.png"} < files
    assert any(name.startswith("losses-tuned-for-final") for name in files)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "sgd:lr=0.1" in page and page.count("data:image/png") == 4
    assert _splits_listed(tmp_path / "out") == {"train", "test"}
    summary = (tmp_path / "out" / "summary.csv").read_text()
    cli.main([*command, "--split", "outer_valid"])
    # The test data stay unseen.
    assert _splits_listed(tmp_path / "out") == {"train", "outer_valid"}
    cli.main(command)
    assert (tmp_path / "out" / "summary.csv").read_text() == summary


def _splits_listed(folder):
    (path,) = folder.glob("losses-tuned-for-final.*")
    read = pd.read_parquet if path.suffix == ".parquet" else pd.read_csv
    return set(read(path).split)


def test_competitors_say_what_their_tuning_costs():
    assert Competitor("adam:tuned", 14, True, None).title == "adam:tuned, 14 trials"
    assert Competitor("prodigy", 1, True, None).title == "prodigy"


def test_one_baseline_and_tasks_by_their_names_will_do(tmp_path):
    names = ["quadratic_family/seed1?dims=2", "quadratic_family/seed2?dims=2"]
    losses = evaluate.run(
        "sgd:lr=0.1",
        against="adam:lr=0.001",
        suite=names,
        horizon=25,
        seeds=1,
        cache=tmp_path,
    )
    assert set(losses.optimizer) == {"sgd:lr=0.1", "adam:lr=0.001"}
    assert {name.partition("?")[0] for name in losses.task} == {
        name.partition("?")[0] for name in names
    }


def test_what_cannot_be_compared_is_told_what_to_do():
    run = functools.partial(evaluate.run, suite="small_mlp", num_tasks=1)
    with pytest.raises(TypeError, match=r"evaluate\.fixed\(name, tx\)"):
        run(optax.adam(1e-3))
    with pytest.raises(ValueError, match="nothing to compare"):
        run(against=())
    with pytest.raises(TypeError, match=r"tasksets\.get\(name\)"):
        evaluate.Entry("small_mlp/seed0", 25)  # type: ignore[arg-type]
