"""Episode lengths: whole windows, the right distribution, staggered starts."""

import jax
import numpy as np
import pytest

from meta_train.truncation import Episodes, Truncation

KEYS = jax.random.split(jax.random.key(0), 20_000)


def test_a_constant_horizon_is_always_the_same():
    lengths = jax.vmap(Truncation.constant(100, 20).draw)(KEYS[:100])
    assert set(np.asarray(lengths).tolist()) == {5}


def test_log_uniform_horizons_have_log_uniform_mass():
    truncation = Truncation.log_uniform(10, 80, 10)
    lengths = np.asarray(jax.vmap(truncation.draw)(KEYS))
    assert lengths.min() == 1 and lengths.max() == 8
    share = np.bincount(lengths, minlength=9)[1:] / len(lengths)
    n = np.arange(1, 9)
    np.testing.assert_allclose(share, np.log1p(1 / n) / np.log(9), atol=0.012)
    assert truncation.mean_windows == pytest.approx(lengths.mean(), rel=0.01)
    assert Episodes(10, 1, 8).mean_windows == truncation.mean_windows
    assert Truncation.constant(100, 20).mean_windows == pytest.approx(5)


def test_the_first_episode_is_cut_uniformly():
    truncation = Truncation.constant(40, 10)
    cuts = np.asarray(jax.vmap(lambda k: truncation.first_cut(k, 4))(KEYS))
    np.testing.assert_allclose(np.bincount(cuts)[1:] / len(cuts), 0.25, atol=0.012)


def test_without_stagger_nothing_is_cut():
    truncation = Truncation.constant(40, 10, stagger=False)
    assert truncation.first_cut(KEYS[0], 4) == 4


@pytest.mark.parametrize("horizon", [25, 101])
def test_a_horizon_that_is_not_whole_windows_is_an_error_with_the_nearest(horizon):
    with pytest.raises(ValueError, match="not a whole number of windows of 10") as e:
        Truncation.constant(horizon, 10)
    below = horizon // 10 * 10
    assert f"{below} or {below + 10}" in str(e.value)


@pytest.mark.parametrize(
    ("window", "low", "high"), [(0, 10, 10), (5, 20, 10), (5, 0, 10)]
)
def test_impossible_lengths_are_errors(window, low, high):
    with pytest.raises(ValueError):
        Truncation.log_uniform(low, high, window)
