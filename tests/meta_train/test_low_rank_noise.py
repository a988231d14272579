"""Perturbations of low rank: moments, unbiased estimates, and the same for all systems."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt.network import LowRank, Shifted, full, matmul, shifted
from meta_train import PES, Truncation
from meta_train.estimators import GPES, NRES, FullES, perturbations
from meta_train.estimators.perturbations import Factored, Perturbable

KEY = jax.random.key(11)
GPES2 = functools.partial(GPES, interval=2)


@pytest.fixture(autouse=True)
def _small_matrices_are_large(monkeypatch):
    monkeypatch.setattr(perturbations, "_LARGE", 10)
    jax.clear_caches()
    yield
    jax.clear_caches()


def theta_of(scale=0.1):
    draw = np.random.default_rng(0).normal
    return {
        "a": np.float32(scale * draw(size=2)),
        "w": np.float32(scale * draw(size=(4, 3))),
        "x": np.float32(scale * draw(size=(3, 2))),
    }


def draws(rank, count=20_000, sigma=2.0):
    noise = lambda key: Perturbable(theta_of(), None, rank).noise(key, sigma)
    return jax.vmap(noise)(jax.random.split(KEY, count))


@pytest.mark.parametrize("rank", [1, 3])
def test_entries_have_the_moments_of_independent_ones(rank):
    noise = draws(rank)
    assert isinstance(noise, Factored) and len(noise.large) == 1
    around = Perturbable(theta_of(), None, rank)
    vectors = np.asarray(jax.vmap(around.vector)(noise)) / 2.0
    assert vectors.shape == (20_000, 2 + 12 + 6)
    np.testing.assert_allclose(vectors.mean(axis=0), 0.0, atol=0.04)  # std .007
    # Products of entries in a row of rank 1 have a standard deviation of 3.
    np.testing.assert_allclose(np.cov(vectors.T), np.eye(20), atol=0.12)  # std .02


def test_large_matrices_have_the_rank_and_lie_where_they_belong():
    around, noise = Perturbable(theta_of(), None, 2), draws(2, count=1)
    first = jax.tree.map(lambda x: x[0], noise)
    vector = np.asarray(around.vector(first))
    assert np.linalg.matrix_rank(vector[2:14].reshape(4, 3)) == 2
    np.testing.assert_array_equal(vector[2:14].reshape(4, 3), full(first.large[0]))
    np.testing.assert_array_equal(vector[:2], first.rest[:2])
    np.testing.assert_array_equal(vector[14:], first.rest[2:])
    plus, minus = map(around.along(first, 1.0, -1.0).theta, (1.0, -1.0))
    flat = np.concatenate([x.ravel() for x in theta_of().values()])
    for tree, sign in ((plus, 1), (minus, -1)):
        moved = np.concatenate([np.ravel(x) for x in tree.values()])
        np.testing.assert_allclose(moved, flat + sign * vector, rtol=1e-6, atol=1e-6)


def test_without_large_matrices_nothing_changes():
    theta = {"a": np.zeros(20, np.float32), "w": np.zeros((5, 2), np.float32)}
    noise = [Perturbable(theta, None, rank).noise(KEY, 2.0) for rank in (None, 3)]
    np.testing.assert_array_equal(*noise)


def test_a_product_with_shifted_weights_is_that_with_their_sum():
    x, w, left, right = (
        jax.random.normal(key, shape)
        for key, shape in zip(
            jax.random.split(KEY, 4), [(5, 4), (4, 3), (4, 2), (3, 2)], strict=True
        )
    )
    for offset in (LowRank(left, right), full(LowRank(left, right))):
        np.testing.assert_allclose(
            matmul(x, Shifted(w, offset, -1.0)),
            x @ shifted(w, offset, -1.0),
            rtol=1e-4,
            atol=1e-4,
        )


class Bilinear:
    """s_t = s_{t-1} + f(theta), L_t = s_t + s_t^2 + (theta's own squares): quadratic."""

    def init(self, key):
        del key
        return jnp.zeros(())

    def step(self, theta, state, key):
        del key
        w = theta["w"]
        state = state + jnp.sum(jnp.sin(jnp.arange(12.0)).reshape(4, 3) * w)
        state += theta["a"] @ jnp.array([1.0, -2.0]) + jnp.sum(theta["x"])
        return state, state + state**2 + jnp.sum((w @ jnp.array([1.0, 2.0, -1.0])) ** 2)


def _truth(theta, num_steps=2):
    def mean_loss(theta):
        state, losses = jnp.zeros(()), []
        for _ in range(num_steps):
            state, loss = Bilinear().step(theta, state, KEY)
            losses.append(loss)
        return sum(losses) / num_steps

    return np.concatenate([np.ravel(x) for x in jax.grad(mean_loss)(theta).values()])


def _estimated(cls, rank, num_episodes=60):
    """Mean and standard error of the gradient of whole episodes of two windows."""
    theta = theta_of(1.0)
    truncation = Truncation.constant(2, 1, stagger=False)
    estimator = cls(Bilinear(), truncation, 2000, sigma=0.1, noise_rank=rank)

    @jax.jit
    def run(key):
        def body(state, key):
            estimate, state = estimator.estimate(theta, state, key)
            return state, estimate.grad

        keys = jax.random.split(key, num_episodes * (1 if cls is FullES else 2))
        return jax.lax.scan(body, estimator.init(theta, KEY), keys)[1]

    grads = run(KEY)
    flat = np.concatenate([g.reshape(len(g), -1) for g in grads.values()], axis=1)
    each = flat.reshape(num_episodes, -1, flat.shape[1]).mean(axis=1)
    return each.mean(axis=0), each.std(axis=0, ddof=1) / num_episodes**0.5


def _worst(mean, error, truth):
    return np.max(np.abs(mean - truth) / error)


@pytest.mark.parametrize(
    ("cls", "rank"), [*itertools.product((PES, NRES, FullES), (1, 3)), (GPES2, 2)]
)
def test_estimates_are_unbiased_where_losses_are_quadratic(cls, rank):
    mean, error = _estimated(cls, rank)
    truth = _truth(theta_of(1.0))
    assert _worst(mean, error, truth) < 4.5
    assert np.median(error) < 0.05 * np.median(np.abs(truth))  # or it would say nothing


def test_that_test_notices_a_scale_that_forgets_the_rank(monkeypatch):
    right = perturbations._low_rank

    def forgets(key, sigma, shape, rank):
        matrix = right(key, sigma, shape, rank)
        return matrix._replace(left=matrix.left * rank**0.5)

    monkeypatch.setattr(perturbations, "_low_rank", forgets)
    assert _worst(*_estimated(PES, 3), _truth(theta_of(1.0))) > 10


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_is_at_least_one(rank):
    with pytest.raises(ValueError, match=f"noise_rank is {rank}"):
        PES(Bilinear(), Truncation.constant(2, 1), 4, noise_rank=rank)
    with pytest.raises(ValueError, match=f"noise_rank is {rank}"):
        GPES(Bilinear(), Truncation.constant(2, 1), 4, noise_rank=rank)
