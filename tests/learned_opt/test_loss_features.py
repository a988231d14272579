import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import loss_features


def observe_all(pairs):
    statistics = loss_features.start()
    for value, valid in pairs:
        valid = None if valid is None else jnp.float32(valid)
        statistics = loss_features.observe(statistics, jnp.float32(value), valid)
    return statistics


def by_hand(pairs):
    """The same, with weights instead of recursions; finite losses only."""
    losses = np.array([v for v, _ in pairs])
    valids = np.array([v for _, v in pairs if v is not None])
    average = lambda x: np.average(x, weights=0.9 ** np.arange(len(x))[::-1])
    away = [(x - average(losses[: i + 1])) ** 2 for i, x in enumerate(losses)]
    mean, std = average(losses), np.sqrt(average(away) + 1e-8)
    valid = average(valids) if len(valids) else losses[-1]
    return np.clip([(losses[-1] - mean) / std, (valid - mean) / std], -5, 5)


@pytest.mark.parametrize(
    "pairs",
    [
        [(2.0, None)],
        [(2.0, None), (1.5, None), (1.7, None)],
        [(2.0, 2.5), (1.5, None), (1.7, 1.9), (1.2, None)],
    ],
)
def test_features_are_losses_in_units_of_their_own_spread(pairs):
    features = loss_features.features(observe_all(pairs), jnp.float32(pairs[-1][0]))
    np.testing.assert_allclose(features, by_hand(pairs), rtol=1e-3, atol=5e-3)


def test_before_a_validation_loss_the_training_loss_stands_in():
    features = loss_features.features(
        observe_all([(2.0, None), (1.0, None)]), jnp.float32(1.0)
    )
    assert features[0] == features[1] != 0


def test_a_loss_that_is_not_finite_changes_no_average():
    clean = observe_all([(2.0, 2.2), (1.5, 1.6)])
    for bad in (np.nan, np.inf, -np.inf):
        dirty = observe_all([(2.0, 2.2), (bad, bad), (1.5, 1.6)])
        assert all(a == b for a, b in zip(clean, dirty, strict=True))


def test_a_loss_that_is_not_finite_reads_as_the_worst():
    for bad in (np.nan, np.inf, -np.inf):
        statistics = observe_all([(2.0, None), (1.0, None), (bad, None)])
        features = loss_features.features(statistics, jnp.float32(bad))
        np.testing.assert_array_equal(features, [5.0, 5.0])


def test_a_large_constant_loss_is_no_news():
    statistics = observe_all([(12345.678, None)] * 40)
    features = loss_features.features(statistics, jnp.float32(12345.678))
    np.testing.assert_allclose(features, 0.0, atol=0.1)


def test_a_huge_loss_leaves_all_numbers_finite():
    statistics = observe_all([(1.0, 3e38), (3e38, None), (1.0, None)])
    assert all(np.isfinite(x) for x in statistics)
    features = loss_features.features(statistics, jnp.float32(1.0))
    assert np.isfinite(features).all()


def test_overfitting_shows_as_a_positive_validation_feature():
    rng = np.random.default_rng(0)
    pairs = [(1.0 + 0.1 * rng.normal(), 1.5) for _ in range(30)]
    features = loss_features.features(observe_all(pairs), jnp.float32(1.0))
    assert features[1] > 2.0
