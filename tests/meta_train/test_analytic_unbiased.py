"""Estimators that differentiate, on average: their means, variances, and broken ones."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analytic_systems import (
    KEY,
    PROBLEMS,
    Chained,
    Recurrent,
    estimates,
    lockstep,
    vector,
)
from meta_systems import Linear

from meta_train.estimators.dodge import DODGE
from meta_train.estimators.rtrl import RTRL
from meta_train.estimators.tbptt import TBPTT
from meta_train.estimators.uoro import UORO
from meta_train.truncation import Truncation


def test_the_mean_of_uoro_over_all_signs_is_rtrl(monkeypatch):
    """Four steps of two units: every choice of the signs that matter, no statistics."""
    with jax.enable_x64(True):
        system = Recurrent()
        theta = jax.tree.map(lambda x: x.astype(jnp.float64), Recurrent.theta())
        keys = [jax.random.fold_in(KEY, t) for t in range(4)]
        nu = []
        monkeypatch.setattr(jax.random, "rademacher", lambda *_: nu[-1])

        def episode(cls, signs):
            estimator = cls(system, lockstep(4, 1), 1)
            state, grads = estimator.init(theta, KEY), []
            for key, now in zip(keys, signs, strict=True):
                nu.append(now)
                estimate, state = estimator.estimate(theta, state, key)
                grads.append(jax.flatten_util.ravel_pytree(estimate.grad)[0])
            return jnp.stack(grads)

        signs = np.array(list(itertools.product([-1.0, 1.0], repeat=6)))
        signs = np.concatenate([signs, signs[:, :2]], axis=1).reshape(-1, 4, 2)
        samples = jax.jit(jax.vmap(lambda s: episode(UORO, s)))(signs)
        truth = jax.jit(lambda: episode(RTRL, signs[0]))()
        assert samples.std(axis=0)[2:].max() > 0.1, "the signs must matter"
        np.testing.assert_allclose(samples.mean(axis=0), truth, rtol=1e-9, atol=1e-10)


class _Fixed(Chained):
    """The same episode every time, so that an estimate's own chance is all there is."""

    def init(self, key):
        del key
        return super().init(jax.random.key(5))


@functools.cache
def _episode_gradient(cls, name, num_lanes):
    """Mean, its standard error, and total variance of a lane, for 6 steps in 3 windows."""
    system, theta = PROBLEMS[name]
    batches = 40
    estimator = cls(_Fixed(system), lockstep(6, 2), num_lanes // batches)

    def one(key):
        return vector(estimates(estimator, theta, 3, key).grad).mean(axis=0)

    keys = jax.random.split(KEY, batches)
    samples = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys), np.float64)
    variance = samples.var(axis=0, ddof=1)
    error = np.sqrt(variance / batches)
    return samples.mean(axis=0), error, variance.sum() * estimator.num_lanes


def _truth(name):
    return np.asarray(_episode_gradient(RTRL, name, 40)[0])


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        (UORO, "recurrent network"),
        (DODGE, "recurrent network"),
        (DODGE, "trained network"),
    ],
)
def test_the_mean_estimate_is_the_gradient(cls, name):
    mean, error, _ = _episode_gradient(cls, name, 40_000)
    truth, size = _truth(name), np.linalg.norm(_truth(name))
    assert np.all(error < 0.02 * size), "too noisy to tell anything"
    # UORO knows some entries exactly, up to rounding.
    error = np.maximum(error, 1e-5 * size)
    assert np.all(np.abs(mean - truth) < 4 * error)
    # What truncation would leave out could not hide in the noise.
    truncated = _episode_gradient(TBPTT, name, 40)[0]
    assert np.max(np.abs(truncated - truth) / error) > 10


class ScalesAmiss(UORO):
    """Mutant: the two vectors are scaled apart and not back."""

    def _window(self, theta, episode, key):
        s, th = episode.carried
        grown = episode._replace(carried=type(episode.carried)(1.5 * s, th))
        return super()._window(theta, grown, key)


class SameSigns(UORO):
    """Mutant: the signs are the same in every window."""

    def _window(self, theta, episode, key):
        return super()._window(theta, episode, jax.random.key(0))


class PlainDirections(DODGE):
    """Mutant: directions whose squares have mean 1/3 and not 1."""

    def _carried(self, flat, state, key):
        carried = super()._carried(flat, state, key)
        return carried._replace(
            direction=jax.random.uniform(key, flat.shape, minval=-1.0)
        )


@pytest.mark.parametrize("mutant", [ScalesAmiss, SameSigns, PlainDirections])
def test_the_z_test_notices_a_broken_estimator(mutant):
    mean, error, _ = _episode_gradient(mutant, "recurrent network", 40_000)
    truth = _truth("recurrent network")
    deviation = np.abs(mean - truth) / np.maximum(error, 1e-3 * np.linalg.norm(truth))
    assert deviation.max() > 6


def test_staggered_lanes_of_different_horizons_average_to_the_true_gradient():
    """Per step, an episode of T steps of `Linear` has mean gradient (T + 1) / 2."""
    truncation = Truncation.log_uniform(2, 8, 2)
    lengths = np.arange(1, 5)
    chance = np.log1p(1 / lengths) / np.log(5)
    # Lanes spend time in proportion to length, and weigh every window alike.
    truth = np.sum(chance * lengths * (2 * lengths + 1) / 2) / np.sum(chance * lengths)
    for cls in (RTRL, UORO):
        estimator = cls(Linear(), truncation, 2000)
        grads = np.asarray(estimates(estimator, jnp.float32(0.5), 400).grad)[40:]
        blocks = grads.reshape(36, 10).mean(axis=1)
        error = blocks.std(ddof=1) / np.sqrt(36)
        assert error < 0.01 * truth
        assert abs(blocks.mean() - truth) < 4 * error


# Variance.


@pytest.mark.parametrize("name", ["recurrent network", "trained network"])
def test_the_variance_of_dodge_follows_its_formula(name):
    truth = _truth(name)
    _, _, variance = _episode_gradient(DODGE, name, 40_000)
    expected = (truth.size - 1) * np.sum(truth**2)
    # A variance of 40 batches has a relative standard error of .22 at most.
    np.testing.assert_allclose(variance, expected, rtol=0.6)


def test_uoro_has_more_variance_than_dodge_where_the_state_is_large():
    truth = np.sum(_truth("trained network") ** 2)
    uoro, dodge = (
        _episode_gradient(cls, "trained network", lanes)[2] / truth
        for cls, lanes in ((UORO, 4_000), (DODGE, 40_000))
    )
    assert uoro > 50 * dodge


def test_lanes_tell_how_far_apart_they_are():
    name = "recurrent network"
    estimator = DODGE(_Fixed(Recurrent()), lockstep(6, 6), 4000)
    metrics = estimates(estimator, Recurrent.theta(), 1).metrics
    truth = _truth(name)
    expected = np.sqrt(truth.size - 1) * np.linalg.norm(truth)
    np.testing.assert_allclose(metrics["grad_std"], expected, rtol=0.05)
