"""Objectives wrap a system and change what is made small, and nothing else."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meta_systems import Begun, Diverging, Linear, Spy

import learned_opt
import tasksets
from meta_train.estimators.full_es import FullES
from meta_train.estimators.gpes import GPES
from meta_train.estimators.nres import NRES
from meta_train.estimators.pes import PES
from meta_train.estimators.pes_analytic import PESAnalytic, PESAnalyticPair
from meta_train.estimators.truncated_es import TruncatedES
from meta_train.inner_training import InnerTraining
from meta_train.objectives import Capped, Last, Measured, Scored, Sum
from meta_train.system import Driven, Episodic, System, begin, inputs, unroll
from meta_train.truncation import Truncation

KEY = jax.random.key(11)
THETA3 = jnp.array([0.3, -0.2, 0.5])
GPES2 = functools.partial(GPES, interval=2)
ESTIMATORS = [PES, NRES, GPES2, FullES, TruncatedES, PESAnalytic, PESAnalyticPair]
IDS = ["PES", "NRES", "GPES", "FullES", "TruncatedES", "PESAnalytic", "PESAnalyticPair"]


def _estimates(estimator, theta, num_windows, key=KEY):
    """The estimates of consecutive windows, ``[windows, ...]``, and the last state."""

    def run(estimator, key):
        init_key, key = jax.random.split(key)

        def body(state, window_key):
            estimate, state = estimator.estimate(theta, state, window_key)
            return state, (estimate, state)

        keys = jax.random.split(key, num_windows)
        return jax.lax.scan(body, estimator.init(theta, init_key), keys)[1]

    return jax.jit(run)(estimator, key)


def _losses(system, theta, num_steps):
    """The losses of one episode under ``theta``."""
    state = begin(system, theta, system.init(KEY), jnp.float32(num_steps))
    return unroll(system, theta, state, inputs(system, state, KEY, num_steps))[1]


class Powers:
    """s_t = theta s_{t-1}, s_0 = 1, L_t = s_t: the loss of step t is theta^t."""

    def init(self, key):
        del key
        return jnp.ones(())

    def step(self, theta, state, key):
        del key
        return theta * state, theta * state


class Drawn(NamedTuple):
    total: jax.Array


class Bulk:
    """A `Driven` system: L_t = theta . (x_1 + ... + x_t) with inputs drawn in bulk."""

    def init(self, key):
        del key
        return Drawn(jnp.zeros(3))

    def inputs(self, state, key, num_steps):
        del state
        return jax.random.normal(key, (num_steps, 3))

    def step(self, theta, state, key):
        return self.advance(theta, state, self.inputs(state, key, 1)[0])

    def advance(self, theta, state, x):
        total = state.total + x
        return Drawn(total), jnp.sum(theta * total)


# What an episode's losses become.


@pytest.mark.parametrize("system", [Spy(4), Bulk()])
def test_objectives_keep_the_randomness_and_the_steps(system):
    plain = np.asarray(_losses(system, THETA3, 6))
    np.testing.assert_allclose(_losses(Sum(system), THETA3, 6), 6 * plain, rtol=1e-6)
    last = np.asarray(_losses(Last(system), THETA3, 6))
    np.testing.assert_allclose(last, 6 * np.diff(plain, prepend=0), rtol=1e-4)
    np.testing.assert_allclose(last.mean(), plain[-1], rtol=1e-4)
    cap = float(np.median(plain))
    capped = _losses(Capped(system, cap), THETA3, 6)
    np.testing.assert_allclose(capped, np.minimum(plain, cap), rtol=1e-6)


def test_an_objective_is_a_system_that_begins_and_draws():
    for wrapped in (Linear(), Begun(), Bulk()):
        system = Last(wrapped)
        assert isinstance(system, System)
        assert isinstance(system, Episodic) and isinstance(system, Driven)


@pytest.mark.parametrize("system", [Linear(), Bulk()])
def test_one_step_is_the_advance_on_its_single_input(system):
    objective = Sum(Capped(system, 10.0))
    theta = THETA3 if isinstance(system, Bulk) else jnp.float32(0.5)
    state = objective.begin(theta, objective.init(KEY), jnp.float32(5))
    stepped = objective.step(theta, state, KEY)
    x = jax.tree.map(lambda x: x[0], objective.inputs(state, KEY, 1))
    advanced = objective.advance(theta, state, x)
    jax.tree.map(np.testing.assert_array_equal, stepped, advanced)


def test_the_wrapped_system_begins_with_the_length_of_the_episode():
    np.testing.assert_allclose(_losses(Sum(Begun()), jnp.float32(0.5), 6), 6 * 3.0)


def test_objectives_compose():
    system = Last(Capped(Powers(), 3.0))
    np.testing.assert_allclose(_losses(system, jnp.float32(2.0), 4).mean(), 3.0)
    np.testing.assert_allclose(
        _losses(Sum(system), jnp.float32(1.2), 4), 4 * _losses(system, 1.2, 4)
    )


def test_the_arrays_of_a_wrapped_pytree_are_arguments_of_compiled_code():
    task = tasksets.get("small_mlp/seed0@digits?hidden=20-20&activation=tanh")
    training = InnerTraining(task, learned_opt.Adam())
    objective = Last(Capped(training, 2.0))
    ours, theirs = jax.tree.leaves(objective), jax.tree.leaves(training)
    assert len(ours) == len(theirs) > 0
    assert all(one is other for one, other in zip(ours, theirs, strict=True))
    assert jax.tree.leaves(PES(objective, Truncation.constant(4, 2), 1)) == ours
    assert not jax.tree.leaves(Last(Capped(Linear(), 2.0)))


# Estimates under every estimator.


@pytest.mark.parametrize("make", ESTIMATORS, ids=IDS)
def test_the_sum_is_the_mean_times_the_length(make):
    truncation = Truncation.constant(6, 2)
    plain, summed = (
        _estimates(make(system, truncation, 4, 0.3), THETA3, 6)[0]
        for system in (Spy(2), Sum(Spy(2)))
    )
    scale = np.abs(np.asarray(plain.grad)).max()
    np.testing.assert_allclose(
        summed.grad, 6 * plain.grad, rtol=1e-4, atol=1e-4 * scale
    )
    np.testing.assert_allclose(summed.loss, 6 * plain.loss, rtol=1e-5)


@pytest.mark.parametrize("make", ESTIMATORS, ids=IDS)
def test_capped_losses_are_those_of_the_estimators_own_cap(make):
    def run(system, cap):
        truncation = Truncation.constant(8, 4)
        estimator = make(system, truncation, 8, 0.1, loss_cap=cap)
        return _estimates(estimator, jnp.float32(1.0), 8)[0]

    inside, outside = run(Capped(Diverging(), 5.0), None), run(Diverging(), 5.0)
    np.testing.assert_allclose(inside.grad, outside.grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(inside.loss, outside.loss, rtol=1e-6)


# The last loss, by telescoping.


@pytest.mark.parametrize("make", [NRES, GPES2], ids=["NRES", "GPES"])
def test_a_reused_perturbation_telescopes_to_full_es_on_the_last_loss(make):
    """Sample by sample: eps (p_1 + ... + p_W) = eps L_W."""
    windows = 2 if make is GPES2 else 4
    truncation = Truncation.constant(3 * windows, 3, stagger=False)
    online = make(Last(Powers()), truncation, 5, 0.3)
    full = FullES(Last(Powers()), truncation, 5, 0.3)
    online, full = (
        _estimates(estimator, jnp.float32(0.9), windows)[0]
        for estimator in (online, full)
    )
    np.testing.assert_allclose(online.grad.mean(), full.grad[0], rtol=1e-4)
    np.testing.assert_allclose(online.loss.mean(), full.loss[0], rtol=1e-4)


def test_an_episode_of_pes_is_the_last_loss_less_a_term_of_mean_zero():
    """sum_w xi_w p_w = xi_W L_W - sum_w eps_w L_{w-1}, from the states alone."""
    windows, size, sigma = 4, 3, 0.4
    truncation = Truncation.constant(windows * size, size, stagger=False)
    estimator = PES(Last(Spy(size)), truncation, 1, sigma)
    estimates, lanes = _estimates(estimator, THETA3, 2 * windows)
    first_lane = lambda x: x[:, 0]
    for episode in range(2):
        rows = slice(episode * windows, (episode + 1) * windows)
        spied = jax.tree.map(np.asarray, jax.tree.map(first_lane, lanes.system.system))
        thetas = np.diff(spied.total[rows], axis=0, prepend=np.zeros((1, 2, 3))) / size
        eps = (thetas[:, 0] - thetas[:, 1]) / 2
        difference = spied.losses[rows, 0, -1] - spied.losses[rows, 1, -1]
        expected = eps.sum(axis=0) * difference[-1]
        expected = expected - (eps[1:] * difference[:-1, None]).sum(axis=0)
        measured = estimates.grad[rows].mean(axis=0)
        np.testing.assert_allclose(measured, expected / (2 * sigma**2), rtol=2e-4)


SIGMA, THETA = 0.2, 0.9
INDEPENDENT = 4 * THETA**3
SHARED = 4 * THETA**3 + 12 * THETA * SIGMA**2


@functools.cache
def _gradient(make, system, window, windows=4, num_pairs=400_000, theta=THETA):
    """Mean estimate over an episode of ``windows`` windows, and its standard error."""
    truncation = Truncation.constant(window * windows, window, stagger=False)
    batches = 40
    count = 1 if make is FullES else windows

    def one(key):
        estimator = make(system, truncation, num_pairs // batches, SIGMA)
        return _estimates(estimator, jnp.float32(theta), count, key)[0].grad.mean()

    samples = np.asarray(jax.lax.map(one, jax.random.split(KEY, batches)), np.float64)
    return samples.mean(), samples.std(ddof=1) / np.sqrt(batches)


@pytest.mark.parametrize(
    ("make", "truth"),
    [(PES, INDEPENDENT), (NRES, SHARED), (FullES, SHARED), (PESAnalytic, INDEPENDENT)],
    ids=["PES", "NRES", "FullES", "PESAnalytic"],
)
def test_the_last_loss_has_the_gradient_of_its_smoothing(make, truth):
    """theta^4 in windows of one step; the truths are >= 8 errors from each other and the
    gradient of the mean loss, 1.93 to 2.08, and that of the last step alone, .73, further."""
    mean, error = _gradient(make, Last(Powers()), 1)
    assert 8 * error < SHARED - INDEPENDENT, "no power"
    assert abs(mean - truth) < 4 * error


class _NeverForgets(Last):
    """Mutant: a new episode starts from the last loss of the one before."""

    def begin(self, theta, state, num_steps):
        return super().begin(theta, state, num_steps)._replace(previous=jnp.ones(()))


class _WithinWindows(Last):
    """Mutant: the difference across the border of two windows is dropped."""

    def _score(self, before: Scored, system, loss, x):
        score = super()._score(before, system, loss, x)
        return jnp.where(before.previous == 0, 0.0, score)


@pytest.mark.parametrize("mutant", [_NeverForgets, _WithinWindows])
def test_the_tests_of_the_last_loss_notice_a_broken_one(mutant):
    losses = np.asarray(_losses(mutant(Powers()), jnp.float32(0.9), 4))
    assert abs(losses.mean() - 0.9**4) > 0.1


def test_the_last_loss_of_a_diverged_episode_is_the_cap():
    system = Last(Capped(Diverging(), 5.0))
    estimates, _ = _estimates(
        FullES(system, Truncation.constant(8, 4, stagger=False), 512, 0.1),
        jnp.float32(1.0),
        1,
    )
    # Half of the episodes end at 5, half at theta = 1; one error is .09.
    assert abs(estimates.loss[0] - 3.0) < 0.4
    assert np.isfinite(estimates.grad[0])


def test_an_episode_cut_short_weighs_as_much_as_a_whole_one():
    """Cut after C of T = 4 steps, its windows sum to T theta^C as those of others do."""
    truncation = Truncation.constant(4, 1, stagger=True)
    _, lanes = _estimates(NRES(Last(Powers()), truncation, 64, 1e-3), 0.9, 4)
    first = np.asarray(lanes.num_windows[0])
    assert set(first) == {1, 2, 3, 4}
    assert set(np.asarray(lanes.horizon).ravel()) == {4.0}
    losses = _losses(Last(Powers()), jnp.float32(0.9), 4)
    np.testing.assert_allclose(np.cumsum(losses), 4 * 0.9 ** np.arange(1, 5), rtol=1e-5)


# Numbers without a derivative.


def _positive(system, state, x):
    del system, x
    return jnp.where(state > 0, 1.0, 0.0)


class Still:
    """The state is theta."""

    def init(self, key):
        del key
        return jnp.zeros(())

    def step(self, theta, state, key):
        del state, key
        return theta, jnp.zeros(())


@pytest.mark.parametrize("make", [PES, NRES, GPES2, FullES, TruncatedES], ids=IDS[:5])
def test_a_step_function_has_the_gradient_of_its_smoothing(make):
    """P(theta + eps > 0) has derivative phi(theta / sigma) / sigma; to 1 %, 4 errors."""
    theta = 0.1
    mean, error = _gradient(
        make, Measured(Still(), _positive), 1, windows=2, theta=theta
    )
    truth = math.exp(-0.5 * (theta / SIGMA) ** 2) / (SIGMA * math.sqrt(2 * math.pi))
    assert error < 0.01 * truth
    assert abs(mean - truth) < 4 * error


def test_the_share_of_wrong_answers_can_be_made_small():
    """The metric of a real task, on the batch that the loss would have seen."""
    task = tasksets.get("small_mlp/seed0@digits?hidden=20-20&activation=tanh")

    def wrong(training, state, x):
        drawn, key = x.outer_valid
        batch = training.task.take("outer_valid", drawn)
        params = state.params
        return 1.0 - training.task.metrics(params, batch, key)["accuracy"]

    training = InnerTraining(task, _Transform(learned_opt.Adam()))
    theta = training.optimizer.init(KEY)
    estimator = PES(Measured(training, wrong), Truncation.constant(20, 5), 2, 0.1)
    estimates, _ = _estimates(estimator, theta, 4)
    assert np.all((np.asarray(estimates.loss) >= 0) & (np.asarray(estimates.loss) <= 1))
    grads = np.concatenate([np.ravel(g) for g in jax.tree.leaves(estimates.grad)])
    assert np.all(np.isfinite(grads)) and np.any(grads != 0)


class _Transform(NamedTuple):
    """An optimizer known by its transform alone: the model keeps its tree."""

    rule: learned_opt.LearnedOptimizer

    def init(self, key):
        return self.rule.init(key)

    def transform(self, theta, *, num_steps=None):
        return self.rule.transform(theta, num_steps=num_steps)
