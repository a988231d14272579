"""Comparisons on curves with known answers, and small real ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
import tasksets
from meta_train import evaluate
from meta_train.evaluate import Curves, final, normalised, over_run

SPLITS = ("train", "inner_valid", "outer_valid", "test")
OPTIONS = "?hidden=20-20&activation=tanh"
TASKS = [tasksets.get(f"small_mlp/seed{i}@digits{OPTIONS}") for i in (1, 2)]


def _curves(name, losses, valid=None):
    """Losses ``[tasks, points, seeds, evals]``, the same on every split but inner_valid."""
    losses = np.asarray(losses, np.float32)
    by_split = {split: losses for split in SPLITS}
    if valid is not None:
        by_split["inner_valid"] = np.asarray(valid, np.float32)
    tasks = tuple(f"task{i}" for i in range(len(losses)))
    return Curves(name, tasks, np.arange(losses.shape[-1]), by_split)


def test_one_is_the_initial_loss_and_zero_the_best_any_run_reached():
    a = _curves("a", [[[[4.0, 3.0, 2.0]]]])
    b = _curves("b", [[[[4.0, 5.0, 0.0]]]])
    first, second = normalised([a, b], "test", over_run)
    np.testing.assert_allclose(first[0, 0], [1.0, 0.75, 0.5])
    np.testing.assert_allclose(second[0, 0], [1.0, 1.0, 0.0])  # worse than initial: 1


def test_a_loss_that_is_not_a_number_counts_as_one():
    a = _curves("a", [[[[4.0, np.nan, np.inf]]]])
    b = _curves("b", [[[[4.0, 2.0, 2.0]]]])
    np.testing.assert_allclose(normalised([a, b], "test", over_run)[0][0, 0], [1, 1, 1])
    rows = evaluate.table([a, b])
    assert {row.diverged for row in rows if row.contender == "a"} == {1}
    assert {row.diverged for row in rows if row.contender == "b"} == {0}


def test_the_point_of_a_grid_is_chosen_on_inner_validation_for_each_figure():
    losses = [[[[4.0, 3.0, 3.0]], [[4.0, 3.5, 1.0]], [[4.0, 0.0, np.nan]]]]
    valid = [[[[4.0, 1.0, 2.0]], [[4.0, 4.0, 1.0]], [[4.0, 0.0, np.nan]]]]
    curves = _curves("grid", losses, valid)
    np.testing.assert_allclose(curves.best(over_run)["test"][0, 0], [4, 3, 3])
    np.testing.assert_allclose(curves.best(final)["test"][0, 0], [4, 3.5, 1])


def test_each_task_gets_its_own_point():
    losses = [[[[2.0, 1.0]], [[2.0, 0.0]]], [[[2.0, 0.5]], [[2.0, 1.5]]]]
    best = _curves("grid", losses).best(final)["test"]
    np.testing.assert_allclose(best[:, 0, 1], [0.0, 0.5])


def test_means_and_medians_are_over_tasks():
    losses = [[[[1.0, 0.0]]], [[[1.0, 0.5]]], [[[1.0, 1.0]]]]
    best = [[[[1.0, 0.0]]], [[[1.0, 0.0]]], [[[1.0, 0.0]]]]
    rows = evaluate.table([_curves("a", losses), _curves("b", best)], ["test"])
    row = next(r for r in rows if r.contender == "a" and r.figure == "final")
    assert row.mean == pytest.approx(0.5) and row.median == pytest.approx(0.5)


@pytest.fixture(scope="module")
def real():
    contenders = (
        evaluate.adam("best", 1e-4, 1e-2, 1e3),
        evaluate.adam("alone", 1e-2),
        evaluate.fixed("optax", optax.adam(1e-2)),
        evaluate.fixed("nan", optax.scale(float("nan"))),
        evaluate.learned(
            "learned",
            learned_opt.ScaleFree(),
            learned_opt.ScaleFree().init(jax.random.key(0)),
        ),
    )
    curves = evaluate.run(TASKS, contenders, num_steps=40, num_seeds=2, num_evals=4)
    return {c.contender: c for c in curves}


def test_all_contenders_start_from_the_same_loss(real):
    starts = [c.losses["test"][:, 0, :, 0] for c in real.values()]
    for start in starts[1:]:
        np.testing.assert_allclose(start, starts[0], rtol=1e-5)


def test_our_adam_trains_as_that_of_optax(real):
    np.testing.assert_allclose(
        real["alone"].losses["test"], real["optax"].losses["test"], rtol=2e-2
    )


def test_tuning_finds_the_rate_that_works(real):
    best, alone = real["best"].best(final)["test"], real["alone"].best(final)["test"]
    np.testing.assert_allclose(best, alone, rtol=1e-3)


def test_a_broken_optimizer_is_last_and_counted(real):
    rows = evaluate.table(list(real.values()), ["test"])
    broken = [row for row in rows if row.contender == "nan"]
    assert all(row.diverged == 4 for row in broken)
    for row in broken:
        others = [r for r in rows if r.figure == row.figure and r is not row]
        assert all(row.mean > other.mean for other in others)


def test_seeds_and_tasks_differ(real):
    losses = real["alone"].losses["test"][:, 0, :, -1]
    assert len(np.unique(losses)) == losses.size


def test_steps_that_do_not_divide_are_an_error():
    with pytest.raises(
        ValueError, match="num_steps=41 is not a multiple of num_evals=4"
    ):
        evaluate.run(TASKS, [], num_steps=41, num_evals=4)


def test_a_contender_may_be_any_function_of_a_grid_point():
    contender = evaluate.Contender(
        "sgd", lambda rate, num_steps: optax.sgd(rate), jnp.array([0.0, 0.1])
    )
    curves = evaluate.run(TASKS[:1], [contender], num_steps=4, num_seeds=1, num_evals=1)
    losses = curves[0].losses["train"]
    assert losses.shape == (1, 2, 1, 2)
    assert losses[0, 0, 0, 0] == losses[0, 0, 0, 1]  # a rate of zero learns nothing


def test_the_baselines_hold_a_tuned_and_a_default_adam():
    tuned, prodigy = evaluate.baselines()
    assert tuned.num_points == 14 and prodigy.num_points == 1
    (index,) = tuned.also.values()
    rate = jnp.exp(tuned.grid.log_learning_rate[index])
    np.testing.assert_allclose(rate, 1e-3, rtol=1e-5)


def test_a_point_of_a_grid_can_be_a_contender_of_its_own():
    grid = evaluate.adam("tuned", 1e-4, 1e-2, also={"small": 0})
    tuned, small = evaluate.run(
        TASKS[:1], [grid], num_steps=4, num_seeds=1, num_evals=1
    )
    assert (tuned.contender, small.contender) == ("tuned", "small")
    np.testing.assert_array_equal(small.losses["test"], tuned.losses["test"][:, :1])
