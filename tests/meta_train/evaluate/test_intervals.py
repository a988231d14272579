"""Bootstrap intervals cover what they claim to."""

from functools import partial

import numpy as np
import pytest

from meta_train.evaluate.intervals import bootstrap

mean, median = partial(np.mean, axis=0), partial(np.median, axis=0)


def test_the_value_is_that_of_the_sample_and_lies_within():
    values = np.random.default_rng(0).exponential(size=40)
    found = bootstrap(values, median)
    assert found.value == np.median(values)
    assert found.low < found.value < found.high


@pytest.mark.parametrize(("statistic", "truth"), [(mean, 1.0), (median, np.log(2))])
def test_nineteen_of_twenty_intervals_cover_the_truth(statistic, truth):
    rng = np.random.default_rng(1)
    samples = rng.exponential(size=(200, 40))  # skewed, as losses are
    found = [bootstrap(values, statistic) for values in samples]
    covered = np.mean([x.low <= truth <= x.high for x in found])
    assert 0.87 < covered < 0.99  # four standard deviations are .06
    half = [bootstrap(values, statistic, level=0.5) for values in samples[:100]]
    assert 0.3 < np.mean([x.low <= truth <= x.high for x in half]) < 0.7


def test_equal_values_have_an_interval_of_no_width():
    assert tuple(bootstrap(np.full(10, 0.3), mean)) == pytest.approx((0.3, 0.3, 0.3))


def test_values_that_are_no_numbers_are_left_out():
    with_gaps = np.array([1.0, np.nan, 3.0, np.nan])
    assert bootstrap(with_gaps, mean) == bootstrap(np.array([1.0, 3.0]), mean)
    assert np.isnan(bootstrap(np.full(3, np.nan), mean).value)


def test_the_same_values_give_the_same_interval():
    values = np.arange(20.0)
    assert bootstrap(values, mean) == bootstrap(values, mean)
    assert bootstrap(values, mean) != bootstrap(values, mean, seed=1)
