"""Thetas so large that particles share them: the same estimates, less to read."""

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from meta_systems import Spy

import tasksets
from learned_opt import HyperV2, Rule
from meta_train import PES, InnerTraining, Truncation
from meta_train.estimators import (
    GPES,
    NRES,
    FullES,
    PESAnalytic,
    PESAnalyticPair,
    TruncatedES,
    perturbations,
)
from meta_train.estimators.perturbations import Perturbable
from meta_train.objectives import Capped

KEY = jax.random.key(5)
ESTIMATORS = (PES, NRES, GPES, TruncatedES, FullES, PESAnalytic, PESAnalyticPair)


class Apart(Spy):
    """Keeps theta and its perturbation apart until a step needs their sum."""

    def shift(self, theta, offset, sign):
        return theta, offset, sign

    def step(self, theta, state, key):
        if isinstance(theta, tuple):
            theta, offset, sign = theta
            theta = theta + sign * offset
        return super().step(theta, state, key)


def _estimates(estimator, theta, num_windows=4):
    def run(estimator):
        def body(state, key):
            estimate, state = estimator.estimate(theta, state, key)
            return state, estimate

        keys = jax.random.split(KEY, num_windows)
        return jax.lax.scan(body, estimator.init(theta, KEY), keys)[1]

    return jax.jit(run)(estimator)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_system_may_keep_perturbations_apart(cls, monkeypatch):
    def estimates(system):
        truncation = Truncation.constant(8, 2)
        return _estimates(cls(system, truncation, 5, sigma=0.3), theta)

    theta = jnp.array([0.3, -0.2, 0.5])
    small = estimates(Spy(2))
    monkeypatch.setattr(perturbations, "_LARGE", 2)
    jax.clear_caches()
    for system in (Spy(2), Apart(2), Capped(Apart(2), 1e6)):
        large = estimates(system)
        np.testing.assert_allclose(small.grad, large.grad, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(small.loss, large.loss, rtol=1e-5)


def test_noise_made_in_pieces_is_independent_and_standard_normal(monkeypatch):
    monkeypatch.setattr(perturbations, "_PIECE", 128)
    theta = Perturbable(jnp.zeros(100_000), None)
    noise = np.asarray(theta.noise(KEY, 2.0)) / 2.0
    assert noise.shape == (100_000,)
    np.testing.assert_allclose(noise.mean(), 0.0, atol=0.015)  # std .0032
    np.testing.assert_allclose(np.mean(noise**2), 1.0, atol=0.02)  # std .0045
    np.testing.assert_allclose(np.mean(noise**4), 3.0, atol=0.15)  # std .031
    for lag in (1, 127, 128, 256):
        correlation = np.mean(noise[lag:] * noise[:-lag])
        np.testing.assert_allclose(correlation, 0.0, atol=0.015)
    assert np.unique(noise).size > 99_000
    for window in range(16):  # whose inputs are drawn with keys of the same key
        inputs = jax.random.normal(jax.random.fold_in(KEY, window), (8,))
        assert not np.isin(inputs, noise).all()


def test_large_leaves_are_drawn_by_themselves_and_independent(monkeypatch):
    monkeypatch.setattr(perturbations, "_PIECE", 128)
    monkeypatch.setattr(perturbations, "_LARGE", 1000)
    sizes = (300, 200, 1500, 1001, 700)
    theta = [jnp.zeros(size) for size in sizes]
    assert perturbations._stretches(sizes) == [500, 1500, 1001, 700]
    noise = np.asarray(
        jax.vmap(lambda key: Perturbable(theta, None).noise(key, 2.0))(
            jax.random.split(KEY, 400)
        )
    )
    assert noise.shape == (400, sum(sizes))
    np.testing.assert_allclose(noise.std(axis=0), 2.0, atol=0.4)  # std .07
    np.testing.assert_allclose(noise.mean(axis=0), 0.0, atol=0.6)  # std .1
    for ends in (500, 2000, 3001):  # neighbours in different stretches, and far ones
        for lag in (1, 128, 500):
            after = noise[:, ends : ends + 200]
            before = noise[:, ends - lag : ends - lag + 200]
            np.testing.assert_allclose(np.mean(after * before), 0.0, atol=0.1)
    assert np.unique(noise[0]).size > 0.99 * sum(sizes)


class Summed(HyperV2):
    """Adds up theta and perturbation, as rules with small thetas do."""

    shift = Rule.shift


NUM_PAIRS = 3


@pytest.fixture(scope="module")
def hyper_v2():
    """By rule: its PES estimator, and a theta whose LSTM matters."""
    task = tasksets.get("small_mlp/seed3@digits?hidden=8&activation=relu")
    truncation = Truncation.constant(4, 2)

    def estimator(rule, rank=None):
        system = InnerTraining(task, rule, train_weight=0.5)
        return PES(system, truncation, NUM_PAIRS, sigma=0.03, noise_rank=rank)

    theta = jax.jit(HyperV2().init)(jax.random.key(0))
    return estimator, theta


@pytest.mark.parametrize("rank", [None, 2])
def test_what_particles_share_gives_the_losses_of_their_sums(hyper_v2, rank):
    estimator, theta = hyper_v2
    shared, summed = (
        _estimates(estimator(rule, rank), theta) for rule in (HyperV2(), Summed())
    )
    np.testing.assert_allclose(shared.loss, summed.loss, rtol=1e-4)
    scale = float(optax.tree.norm(summed.grad))
    difference = optax.tree.norm(optax.tree.sub(shared.grad, summed.grad))
    assert 0 < scale and float(difference) < 0.02 * scale


def test_no_particle_has_a_large_matrix_of_its_own(hyper_v2):
    estimator, theta = hyper_v2

    def largest(rule, rank=None):
        one = estimator(rule, rank)
        program = jax.make_jaxpr(lambda theta, key: _one(one, theta, key))
        jaxpr = program(theta, KEY)
        shapes = (v.aval.shape for eqn in _equations(jaxpr.jaxpr) for v in eqn.outvars)
        return max(int(np.prod(shape)) for shape in shapes)

    lstm = theta.lstm.w.size
    for rank in (None, 2):
        assert largest(HyperV2(), rank) < 1.2 * NUM_PAIRS * lstm  # the perturbations
    assert largest(Summed()) == 2 * NUM_PAIRS * lstm


def _one(estimator, theta, key):
    return estimator.estimate(theta, estimator.init(theta, key), key)[0]


def _equations(jaxpr):
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jax.extend.core.jaxprs_in_params(eqn.params):
            yield from _equations(inner)
