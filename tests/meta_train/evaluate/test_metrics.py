"""Figures of merit on curves with known answers."""

import numpy as np
import pytest

from meta_train.evaluate import metrics

NAN, INF = np.nan, np.inf


def test_one_is_the_initial_loss_and_zero_the_best_known():
    u = np.array([[4.0, 3.0, 2.0, 5.0, 1.0]])
    found = metrics.normalise(u, np.array([4.0]), np.array([2.0]))
    np.testing.assert_allclose(found, [[1.0, 0.5, 0.0, 1.0, 0.0]])


def test_what_is_not_a_number_counts_as_one_as_does_infinity():
    u = np.array([[NAN, INF, -INF]])
    found = metrics.normalise(u, np.array([4.0]), np.array([2.0]))
    np.testing.assert_allclose(found, [[1.0, 1.0, 0.0]])


def test_where_nothing_got_better_than_the_start_every_loss_is_one():
    for best in (4.0, 5.0, NAN):
        found = metrics.normalise(
            np.array([[4.0, 3.0]]), np.array([4.0]), np.array([best])
        )
        np.testing.assert_allclose(found, 1.0)


def test_all_zero_losses_are_one_and_have_no_speedup():
    zero = np.zeros((1, 3))
    np.testing.assert_allclose(metrics.normalise(zero, zero[:, 0], zero[:, 0]), 1.0)
    assert np.isnan(metrics.speedup(zero, zero, np.array([10.0]))).all()


def test_tasks_are_normalised_each_by_its_own():
    u = np.array([[[4.0, 2.0]], [[8.0, 7.0]]])
    found = metrics.normalise(u, np.array([4.0, 8.0]), np.array([0.0, 6.0]))
    np.testing.assert_allclose(found, [[[1.0, 0.5]], [[1.0, 0.5]]])


def test_the_figures_are_the_end_and_the_mean():
    n = np.array([1.0, 0.5, 0.0])
    final, over_training = metrics.FIGURES.values()
    assert final(n) == 0.0 and over_training(n) == 0.5


def test_the_tuned_point_has_the_least_figure_and_the_first_of_equals_wins():
    final, over_training = metrics.FIGURES.values()
    u = np.array([[[4.0, 3.0, 3.0]], [[4.0, 3.5, 1.0]], [[4.0, 3.5, 1.0]]])
    assert metrics.tuned_point(u, final) == 1
    u[2] = [4.0, 1.0, 3.0]
    assert metrics.tuned_point(u, over_training) == 2


def test_a_point_that_diverges_with_one_seed_is_not_preferred_for_the_others():
    good, risky = [[4.0, 2.0], [4.0, 2.0]], [[4.0, 1.0], [4.0, NAN]]
    assert metrics.tuned_point(np.array([risky, good]), metrics.final) == 1


def test_a_spike_above_the_initial_loss_counts_as_the_initial_loss():
    spike, slow = [[1.0, 1e9, 0.0]], [[1.0, 0.9, 0.8]]
    assert metrics.tuned_point(np.array([slow, spike]), metrics.over_training) == 1


@pytest.mark.parametrize(
    ("curve", "target", "steps"),
    [
        ([4.0, 2.0, 0.0], 1.0, 75.0),  # linear between measurements
        ([4.0, 2.0, 0.0], 4.0, 0.0),  # at the start
        ([4.0, 2.0, 0.0], 2.0, 50.0),  # at a measurement
        ([4.0, 2.0, 0.0], -1.0, INF),  # never
        ([4.0, NAN, 0.0], 1.0, 100.0),  # nothing to interpolate from
        ([4.0, 0.0, 9.0], 1.0, 37.5),  # the first time counts
        ([NAN, NAN, NAN], 1.0, INF),
    ],
)
def test_steps_to_reach_a_loss(curve, target, steps):
    found = metrics.steps_to_reach(
        np.array([curve]), np.array([target]), np.array([100.0])
    )
    np.testing.assert_allclose(found, [steps])


def test_speedup_is_one_for_the_reference_two_for_twice_as_fast_and_zero_for_never():
    reference = np.array([[4.0, 3.0, 2.0, 1.0, 0.0]])
    num_steps = np.array([100.0])
    speed = lambda u: metrics.speedup(np.array([u]), reference, num_steps)[0]
    assert speed([4.0, 3.0, 2.0, 1.0, 0.0]) == 1
    assert speed([4.0, 2.0, 0.0, 0.0, 0.0]) == 2
    assert speed([4.0, 3.9, 3.8, 3.7, 3.6]) == 0


def test_a_reference_that_was_lower_before_its_end_is_measured_to_its_final_loss():
    overfits = np.array([[4.0, 1.0, 0.0, 1.0, 2.0]])  # first at 2 after a sixth
    found = metrics.speedup(overfits, overfits, np.array([12.0]))
    np.testing.assert_allclose(found, 1.0)


@pytest.mark.parametrize("end", [NAN, 4.0, 5.0])
def test_a_reference_that_got_nowhere_gives_no_speedup(end):
    reference, other = np.array([[4.0, end]]), np.array([[4.0, 4.0]])
    assert np.isnan(metrics.speedup(other, reference, np.array([10.0])))


@pytest.mark.parametrize(
    ("values", "mean"),
    [
        ([1.0], 1.0),
        ([0.0, 1.0, 2.0, 100.0], 1.5),
        ([0.0, 1.0, 2.0, 3.0, 100.0], 2.0),  # a quarter of five is one
        ([5.0, 5.0, 5.0], 5.0),
    ],
)
def test_the_interquartile_mean_is_that_of_the_middle_half(values, mean):
    assert metrics.interquartile_mean(np.array(values)) == mean


def test_equal_scores_share_a_task():
    scores = np.array([[0.1, 0.5, 0.3], [0.2, 0.5, 0.3], [0.3, 0.6, 0.3]])
    won = metrics.tasks_won(scores)
    np.testing.assert_allclose(won, [1 + 1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1 / 3])


def test_a_task_diverges_if_one_seed_ends_in_no_number():
    losses = np.array(
        [[[1.0, 0.5], [1.0, NAN]], [[NAN, 2.0], [1.0, 2.0]], [[1, 0], [1, 0]]]
    )
    np.testing.assert_array_equal(metrics.diverged(losses), [True, False, False])
    losses[1, 0, 1] = INF
    np.testing.assert_array_equal(metrics.diverged(losses), [True, True, False])


def test_ending_above_the_start_is_told_from_diverging_and_from_standing_still():
    losses = np.array([[[1.0, 1.5]], [[1.0, NAN]], [[1.0, 1.0]], [[1.0, INF]]])
    found = metrics.ended_above_start(losses)
    np.testing.assert_array_equal(found, [True, False, False, False])


def test_the_profile_is_the_share_of_tasks_at_or_below_a_level():
    scores = np.array([[0.0, 0.5, 1.0], [0.2, 0.2, 0.2]])
    levels = np.array([0.0, 0.2, 0.5, 1.0])
    found = metrics.profile(scores, levels)
    np.testing.assert_allclose(found, [[1 / 3, 1 / 3, 2 / 3, 1], [0, 1, 1, 1]])
