"""Comparisons that really train: what all share, what is kept, what a kill leaves."""

import dataclasses
import gc

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bowls import Bowl, bowl

import learned_opt
import tasksets
from meta_train import evaluate
from meta_train.durations import over
from meta_train.evaluate import Cache, Entry, Settings, comparing, training
from meta_train.evaluate.contenders import Contender, Kind, Point, grid

SETTINGS = Settings(num_evals=4, eval_batches=2)
STEPS = 40
OPTIONS = "?hidden=20-20&activation=tanh"
MLPS = [tasksets.get(f"small_mlp/seed{i}@digits{OPTIONS}") for i in (1, 2)]
ADAMS = grid("adams", {f"{r}": learned_opt.Adam(r) for r in (1e-4, 1e-2, 1e3)})


def _compare(tasks, contenders, **options):
    entries = [Entry(task, STEPS) for task in tasks]
    defaults = {"num_seeds": 2, "settings": SETTINGS, "warn": pytest.fail}
    return evaluate.compare(entries, contenders, **(defaults | options))


def _losses(comparison, name, split="test"):
    return comparison.results[comparison.index(name)].losses["final"][split]


@pytest.fixture(scope="module")
def real():
    contenders = [
        ADAMS,
        dataclasses.replace(ADAMS, name="together", tuned="over the suite"),
        grid("alone", {"alone": learned_opt.Adam(1e-2)}),
        evaluate.fixed("optax", optax.adam(1e-2)),
    ]
    return _compare(MLPS, contenders)


def test_all_contenders_start_from_the_same_loss(real):
    starts = [_losses(real, name)[..., 0] for name in real.names]
    for start in starts[1:]:
        np.testing.assert_allclose(start, starts[0], rtol=1e-5)


def test_our_adam_trains_as_that_of_optax(real):
    np.testing.assert_allclose(
        _losses(real, "alone"), _losses(real, "optax"), rtol=2e-2
    )


def test_tuning_finds_the_rate_that_works(real):
    assert real.results[0].labels["final"] == ("0.01", "0.01")
    assert real.results[1].labels["final"] == ("0.01", "0.01")
    for name in ("adams", "together"):
        np.testing.assert_array_equal(_losses(real, name), _losses(real, "alone"))


def test_seeds_and_tasks_differ(real):
    last = _losses(real, "alone")[..., -1]
    assert len(np.unique(last)) == last.size == 4


def test_broken_optimizers_land_where_they_should():
    transforms = {
        "works": optax.sgd(0.3),
        "nan": optax.scale(float("nan")),
        "zero": optax.set_to_zero(),
        "explodes": optax.scale(1.0),
    }
    contenders = [evaluate.fixed(name, tx) for name, tx in transforms.items()]
    comparison = _compare([bowl("one", spread=0.0)], contenders)
    rows = evaluate.standings(comparison, reference="works")
    found = {row.competitor.name: row for row in rows}
    assert {name for name, row in found.items() if row.diverged} == {"nan"}
    assert {name for name, row in found.items() if row.above_start} == {"explodes"}
    assert found["works"].mean["final"].value < 1e-3 and found["works"].against is None
    for name in ("nan", "zero", "explodes"):
        assert found[name].mean["final"].value == 1
        against = found[name].against["final"]
        assert against.won == 0 and against.speedup_steps.value == 0
        assert [row[0] for row in against.losing] == ["one"]


def test_tasks_side_by_side_give_what_each_gives_by_itself():
    together = _compare(BOWLS, [SGDS])
    for i, task in enumerate(BOWLS):
        alone = _losses(_compare([task], [SGDS]), "sgd")[0]
        np.testing.assert_allclose(alone, _losses(together, "sgd")[i], rtol=1e-4)


def _counted(monkeypatch):
    """The runs that are really trained, as they are."""
    trained = []
    train = training.Program.train

    def counting(self, stack, starts, runs):
        trained.extend(runs)
        return train(self, stack, starts, runs)

    monkeypatch.setattr(training.Program, "train", counting)
    return trained


BOWLS = [bowl("one"), bowl("two", curvature=3.0), bowl("three", dims=3)]
SGDS = grid("sgd", {f"{r}": learned_opt.Sgd(r) for r in (0.01, 0.1, 0.3, 1.0)})


def _table(comparison):
    return [evaluate.table(comparison, figure) for figure in evaluate.FIGURES]


def test_a_second_time_nothing_is_trained_and_the_table_is_the_same(
    monkeypatch, tmp_path
):
    fresh = _compare(BOWLS, [SGDS])
    first = _compare(BOWLS, [SGDS], cache=Cache(tmp_path))
    trained = _counted(monkeypatch)
    again = _compare(BOWLS, [SGDS], cache=Cache(tmp_path))
    assert not trained
    for a, b, c in zip(_table(fresh), _table(first), _table(again), strict=True):
        assert a.equals(b) and b.equals(c)


def test_more_seeds_and_more_points_cost_only_themselves(monkeypatch, tmp_path):
    _compare(BOWLS[:1], [SGDS], cache=Cache(tmp_path))
    trained = _counted(monkeypatch)
    _compare(BOWLS[:1], [SGDS], cache=Cache(tmp_path), num_seeds=3)
    assert len(trained) == 1  # one chosen point with one more seed
    del trained[:]
    rates = {f"{r}": learned_opt.Sgd(r) for r in (0.1, 0.2)}
    _compare(BOWLS[:1], [grid("other name", rates)], cache=Cache(tmp_path))
    assert {run.point.label for run in trained} <= {"0.2", "0.1"}
    assert len(trained) == 2


def test_results_of_other_code_are_told_and_not_used(monkeypatch, tmp_path):
    _compare(BOWLS[:1], [SGDS], cache=Cache(tmp_path))
    monkeypatch.setattr(learned_opt.Sgd, "advance", _uphill(learned_opt.Sgd.advance))
    trained, told = _counted(monkeypatch), []
    found = _compare(BOWLS[:1], [SGDS], cache=Cache(tmp_path), warn=told.append)
    assert trained and "other data or other code" in told[0]
    assert (_losses(found, "sgd")[..., -1] > _losses(found, "sgd")[..., 0]).all()
    del trained[:]
    _compare(BOWLS[:1], [SGDS], cache=Cache(tmp_path))
    assert not trained  # results of both are stored now


def _uphill(advance):
    def other(*arguments):
        steps, state = advance(*arguments)
        return -steps, state

    return other


@pytest.mark.parametrize("programs", [1, 3])
def test_a_killed_comparison_goes_on_to_the_same_table(programs, monkeypatch, tmp_path):
    fresh = _compare(BOWLS, [SGDS])
    train, left = training.Program.train, iter(range(programs))

    def dies(self, stack, starts, runs):
        if next(left, None) is None:
            raise SystemExit("killed")
        return train(self, stack, starts, runs)

    monkeypatch.setattr(training.Program, "train", dies)
    with pytest.raises(SystemExit):
        _compare(BOWLS, [SGDS], cache=Cache(tmp_path))
    monkeypatch.setattr(training.Program, "train", train)
    trained = _counted(monkeypatch)
    resumed = _compare(BOWLS, [SGDS], cache=Cache(tmp_path))
    assert 0 < len(trained) < 3 * 4 + 3 * 2
    for a, b in zip(_table(fresh), _table(resumed), strict=True):
        assert a.equals(b)


def test_stopped_it_keeps_what_is_done_and_says_what_is_not(monkeypatch, tmp_path):
    told = []
    cache = Cache(tmp_path)
    with pytest.raises(ValueError, match="no task was done in time"):
        _compare(BOWLS, [SGDS], cache=cache, stop=over(0.0))
    _compare(BOWLS[2:], [SGDS], cache=cache)
    part = _compare(BOWLS, [SGDS], cache=cache, stop=over(0.0), warn=told.append)
    assert [entry.task.name for entry in part.entries] == ["three"]
    assert "1 of 3 tasks" in told[0]


def test_no_program_is_kept():
    def programs():
        gc.collect()
        every = jax.devices()[0].client.live_executables()
        names = [x.hlo_modules()[0].name for x in every]
        return sum("train_all" in name or "losses" in name for name in names)

    before = programs()
    _compare(BOWLS, [SGDS])
    assert programs() == before


def test_progress_counts_to_the_end(tmp_path):
    seen = []
    _compare(BOWLS, [SGDS], on_progress=seen.append, cache=Cache(tmp_path))
    assert seen[0].done == 0 and [p.done for p in seen] == sorted(p.done for p in seen)
    assert 0 < seen[-1].done <= seen[-1].total
    _compare(BOWLS, [SGDS], on_progress=seen.append, cache=Cache(tmp_path))
    assert tuple(seen[-1]) == (0, 0)


def test_descent_on_a_bowl_is_tuned_to_the_inverse_of_its_curvature():
    rates = {f"{r:g}": learned_opt.Sgd(r) for r in (0.01, 0.05, 0.25, 1.0, 1.9, 4.0)}
    tasks = [bowl(f"bowl{c}", curvature=c) for c in (1.0, 4.0, 20.0)]
    found = _compare(tasks, [grid("sgd", rates)])
    for figure in evaluate.FIGURES:
        assert found.results[0].labels[figure] == ("1", "0.25", "0.05")


def test_adam_on_a_bowl_is_tuned_to_the_rate_that_optax_does_best_with():
    rates = evaluate.LEARNING_RATES
    task = bowl(spread=0.0)

    def last(rate):
        tx, params = optax.adam(rate), jnp.ones(2)
        state = tx.init(params)
        for _ in range(STEPS):
            updates, state = tx.update(params, state, params)
            params = optax.apply_updates(params, updates)
        return jnp.sum(params**2)

    losses = np.array(jax.jit(jax.vmap(last))(jnp.array(rates)))
    found = _compare([task], [evaluate.contender("adam:tuned")])
    best = f"lr={rates[int(losses.argmin())]:.3g}"
    assert found.results[0].labels["final"] == (best,)


def test_what_is_tuned_is_chosen_by_validation_losses_though_test_losses_disagree():
    # After 40 steps the fast one is at the bottom of the training data, 0; the slow one
    # is at .67 where the test data have their bottom.
    rates = {"slow": learned_opt.Sgd(0.01), "fast": learned_opt.Sgd(0.5)}
    task = bowl(bottoms=(0.0, 0.0, 0.0, 0.67), spread=0.0)
    found = _compare([task], [grid("sgd", rates)])
    assert found.results[0].labels["final"] == ("fast",)
    slow = _compare([task], [grid("slow", {"slow": learned_opt.Sgd(0.01)})])
    ends = [_losses(c, c.names[0])[0, 0, -1] for c in (found, slow)]
    assert ends[0] > 10 * ends[1]


def test_optimizers_are_shown_a_validation_loss_every_tenth_step():
    def make(numbers, num_steps):
        def update(grads, state, params=None, *, value, valid_value, **extra):
            shown = jnp.isfinite(valid_value)
            same = jnp.where(
                shown, value == valid_value, True
            )  # the bottoms are the same
            step = jnp.where(shown & same, 1.0, 0.0)
            return jax.tree.map(lambda g: jnp.full_like(g, step), grads), state

        return optax.GradientTransformationExtraArgs(lambda params: (), update)

    point = Point(Kind("counts", make), (), "counts", None)
    found = _compare([bowl(spread=0.0)], [Contender("counts", (point,))])
    ends = np.sqrt(_losses(found, "counts")[0, 0])  # sqrt(x^2 + x^2) / sqrt(2)
    np.testing.assert_allclose(ends, 1 + np.arange(5))


def test_wrong_requests_are_refused_before_anything_runs():
    with pytest.raises(ValueError, match="41 steps are not a multiple of the 4"):
        evaluate.compare([Entry(BOWLS[0], 41)], [SGDS], settings=SETTINGS)
    with pytest.raises(ValueError, match="equal names"):
        _compare(BOWLS, [SGDS, SGDS])
    with pytest.raises(ValueError, match="tuning_seeds=3 is not in 1 to 2"):
        _compare(BOWLS, [SGDS], tuning_seeds=3)


def test_an_optimizer_that_raises_ends_the_comparison_with_its_error():
    def make(numbers, num_steps):
        raise ArithmeticError("cannot")

    broken = Contender("broken", (Point(Kind("broken", make), (), "broken", None),))
    with pytest.raises(ArithmeticError, match="cannot"):
        _compare(BOWLS, [SGDS, broken])


def test_large_groups_are_cut_and_horizons_are_kept_apart():
    entries = [Entry(bowl(f"{i}"), 40) for i in range(20)] + [Entry(bowl("long"), 80)]
    groups = comparing._groups(entries)
    assert sorted(i for group in groups for i in group) == list(range(21))
    assert [len(group) for group in groups] == [16, 4, 1]


class NoisyBowl(Bowl):
    """The batch and the loss each come with noise."""

    def take(self, numbers, data, split, drawn):
        return super().take(numbers, data, split, drawn) + jax.random.normal(drawn)

    def loss(self, numbers, params, batch, key):
        return 100 * batch + jax.random.normal(key)  # a digit for each


class OneSplit(NoisyBowl):
    """Serves all splits from the same data."""

    def one_split(self, data):
        return True


def test_splits_that_no_data_tell_apart_are_measured_on_draws_of_their_own():
    task = dataclasses.replace(bowl("noisy"), problem=NoisyBowl())
    losses = _compare([task], [SGDS]).results[0].losses["final"].values()
    assert len({float(of_split[0, 0, 0]) for of_split in losses}) == 4
    # Where there are data, it is these that differ: all else is alike.
    task = dataclasses.replace(task, data=jnp.zeros(3))
    losses = _compare([task], [SGDS]).results[0].losses["final"].values()
    assert len({float(of_split[0, 0, 0]) for of_split in losses}) == 1
    # Unless all splits are served from them.
    task = dataclasses.replace(task, problem=OneSplit())
    losses = _compare([task], [SGDS]).results[0].losses["final"].values()
    assert len({float(of_split[0, 0, 0]) for of_split in losses}) == 4
