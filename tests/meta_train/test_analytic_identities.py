"""Estimators that differentiate equal exact answers, and each other, sample by sample."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analytic_systems import (
    ESTIMATORS,
    KEY,
    PROBLEMS,
    THETA,
    UNBIASED,
    InfluenceBalancing,
    estimates,
    first_episode,
    lockstep,
    vector,
)
from meta_systems import Begun, Linear, Multilinear, Spy

from meta_train.estimators import PES, Estimator
from meta_train.estimators.analytic import merge, rough, smooth
from meta_train.estimators.bptt import BPTT
from meta_train.estimators.dodge import DODGE
from meta_train.estimators.rtrl import RTRL
from meta_train.estimators.tbptt import TBPTT
from meta_train.estimators.uoro import UORO
from meta_train.truncation import Truncation


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_each_is_an_estimator_whose_state_holds_arrays(cls):
    estimator = cls(Spy(2), Truncation.constant(6, 2), 4)
    assert isinstance(estimator, Estimator)
    state = estimator.init(THETA, KEY)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    _, after = estimator.estimate(THETA, state, KEY)
    same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
    assert jax.tree.all(jax.tree.map(same, state, after))


@pytest.mark.parametrize("name", PROBLEMS)
def test_rtrl_over_an_episode_is_backpropagation_through_it(name):
    system, theta = PROBLEMS[name]
    truncation = Truncation.log_uniform(2, 8, 2)  # episodes differ in length
    forwards = first_episode(RTRL, system, theta, truncation)
    backwards = first_episode(BPTT, system, theta, truncation)
    assert len(np.unique(np.round(backwards, 6))) > 1 or name == "multilinear"
    np.testing.assert_allclose(forwards, backwards, rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["recurrent network", "trained network"])
def test_forwards_and_backwards_agree_to_ten_digits(name):
    with jax.enable_x64(True):
        system, theta = PROBLEMS[name]
        theta = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), theta)

        class Double(type(system)):
            def init(self, key):
                double = lambda x: x.astype(jnp.float64)
                state = super().init(key)
                return merge(jax.tree.map(double, smooth(state)), rough(state))

        problem = Double(), theta, lockstep(12, 3)
        forwards = first_episode(RTRL, *problem)
        backwards = first_episode(BPTT, *problem)
        assert forwards.dtype == jnp.float64
        np.testing.assert_allclose(forwards, backwards, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", PROBLEMS)
def test_tbptt_with_one_window_per_episode_is_backpropagation_through_it(name):
    system, theta = PROBLEMS[name]
    tbptt, bptt = (
        estimates(cls(system, Truncation.constant(6, 6), 3), theta, 3)
        for cls in (TBPTT, BPTT)
    )
    np.testing.assert_allclose(tbptt.loss, bptt.loss, rtol=1e-6)
    np.testing.assert_allclose(
        vector(tbptt.grad), vector(bptt.grad), rtol=1e-5, atol=1e-6
    )


def test_dodge_is_rtrl_seen_along_its_direction():
    system, theta = PROBLEMS["trained network"]
    rtrl, dodge = (cls(system, Truncation.constant(6, 2), 1) for cls in (RTRL, DODGE))
    exact, state = rtrl.init(theta, KEY), dodge.init(theta, KEY)
    directions = set()
    for key in jax.random.split(KEY, 7):
        truth, exact = jax.jit(rtrl.estimate)(theta, exact, key)
        estimate, state = jax.jit(dodge.estimate)(theta, state, key)
        v = np.asarray(state.carried.direction[0])
        directions.add(tuple(v))
        g = jax.flatten_util.ravel_pytree(truth.grad)[0]
        got = jax.flatten_util.ravel_pytree(estimate.grad)[0]
        np.testing.assert_allclose(got, v * (v @ g), rtol=1e-4, atol=1e-5)
    assert 1 < len(directions) <= 4, "a direction lasts for an episode, and no longer"


def test_of_a_single_meta_parameter_one_direction_tells_all():
    system, theta = PROBLEMS["influence balancing"]
    rtrl, dodge = (
        estimates(cls(system, Truncation.constant(40, 4), 3), theta, 12)
        for cls in (RTRL, DODGE)
    )
    np.testing.assert_allclose(rtrl.grad, dodge.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_the_same_key_gives_the_episodes_that_evolution_strategies_see(cls):
    truncation = Truncation.log_uniform(2, 8, 2)
    losses = estimates(cls(Spy(2), truncation, 4), THETA, 1).loss
    truth = estimates(PES(Spy(2), truncation, 4, sigma=1e-5), THETA, 1).loss
    if cls is BPTT:  # which tells the loss of the whole episode, as full ES does
        truncation = lockstep(2, 2)
        losses = estimates(cls(Spy(2), truncation, 4), THETA, 1).loss
        truth = estimates(PES(Spy(2), truncation, 4, sigma=1e-5), THETA, 1).loss
    np.testing.assert_allclose(losses, truth, rtol=1e-3)


# Closed forms.


@pytest.mark.parametrize("cls", [BPTT, RTRL, DODGE])
@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_the_gradient_of_a_linear_system(cls, window):
    """The mean over T steps of t theta has gradient (T + 1) / 2."""
    estimator = cls(Linear(), lockstep(6, window), 2)
    windows = 1 if cls is BPTT else 6 // window
    grads = estimates(estimator, jnp.float32(0.3), windows).grad
    np.testing.assert_allclose(grads.mean(), 3.5, rtol=1e-6)


@pytest.mark.parametrize(
    ("cls", "window", "truth"),
    [
        (BPTT, 2, 4 * 0.9**3),
        (RTRL, 1, 4 * 0.9**3),
        (RTRL, 2, 4 * 0.9**3),
        (DODGE, 1, 4 * 0.9**3),
        (TBPTT, 4, 4 * 0.9**3),
        (TBPTT, 2, 2 * 0.9**3),  # only the last two thetas are seen
        (TBPTT, 1, 0.9**3),
    ],
)
def test_the_gradient_of_a_product_of_thetas(cls, window, truth):
    estimator = cls(Multilinear(), lockstep(4, window), 2)
    windows = 1 if cls is BPTT else 4 // window
    grads = estimates(estimator, jnp.float32(0.9), windows).grad
    np.testing.assert_allclose(4 * grads.mean(), truth, rtol=1e-6)


def _influence_gradients(theta, num_steps, window):
    """Exact gradient of each step's loss, with the state's history cut at windows."""
    A, v = (
        np.float64(x) for x in (InfluenceBalancing.matrix, InfluenceBalancing.drive)
    )
    s, j, grads = np.ones(23), np.zeros(23), []
    for t in range(num_steps):
        j = j * (t % window > 0)
        s, j = A @ s + theta * v, A @ j + v
        grads.append((s[0] - 1) * j[0])
    return np.array(grads)


@pytest.mark.parametrize(
    ("cls", "window"), [(RTRL, 1), (RTRL, 10), (DODGE, 10), (TBPTT, 1), (TBPTT, 10)]
)
def test_influence_balancing_step_by_step(cls, window):
    steps = 200
    remembers = steps if cls in UNBIASED else window
    truth = _influence_gradients(0.5, steps, remembers).reshape(-1, window).mean(axis=1)
    estimator = cls(InfluenceBalancing(), lockstep(steps, window), 1)
    grads = estimates(estimator, jnp.float32(0.5), steps // window).grad
    np.testing.assert_allclose(grads, truth, rtol=1e-4, atol=1e-4)


def test_influence_balancing_as_a_whole():
    truth = _influence_gradients(0.5, 200, 200).mean()
    estimator = BPTT(InfluenceBalancing(), lockstep(200, 20), 1)
    grads = estimates(estimator, jnp.float32(0.5), 1).grad
    np.testing.assert_allclose(grads, truth, rtol=1e-4)


@pytest.mark.parametrize("theta", [0.5, -1.0])
def test_short_windows_see_the_wrong_sign_of_the_long_run_gradient(theta):
    def last(cls, window):
        estimator = cls(InfluenceBalancing(), lockstep(400, window), 1)
        return float(estimates(estimator, jnp.float32(theta), 400 // window).grad[-1])

    truth = 36 * theta + 6
    np.testing.assert_allclose(last(RTRL, 1), truth, rtol=1e-5)
    # One step ahead s[0] grows by theta, not by -6 theta.
    np.testing.assert_allclose(last(TBPTT, 1), -truth / 6, rtol=1e-5)
    assert last(TBPTT, 10) * truth < 0
    assert last(TBPTT, 400) * truth > 0


def _descend(cls, num_lanes, rate, steps):
    estimator = cls(InfluenceBalancing(), lockstep(10**6, 1), num_lanes)

    def body(carry, key):
        theta, state = carry
        estimate, state = estimator.estimate(theta, state, key)
        return (theta - rate * estimate.grad, state), ()

    def run(theta):
        start = theta, estimator.init(theta, KEY)
        return jax.lax.scan(body, start, jax.random.split(KEY, steps))[0][0]

    return float(jax.jit(run)(jnp.float32(0.5)))


def test_online_descent_on_influence_balancing():
    assert abs(_descend(RTRL, 1, 1e-4, 3000) + 1 / 6) < 1e-5
    assert abs(_descend(UORO, 100, 1e-4, 3000) + 1 / 6) < 1e-2
    assert _descend(TBPTT, 1, 1e-4, 3000) > 3


@pytest.mark.parametrize("cls", UNBIASED)
def test_the_start_of_an_episode_gets_its_gradient(cls):
    """With s_0 = T theta made by `begin`, the mean loss has gradient T."""
    estimator = cls(Begun(), Truncation.constant(6, 2), 3)
    grads = estimates(estimator, jnp.float32(0.5), 9).grad
    np.testing.assert_allclose(grads, 6.0, rtol=1e-4)


# Credit: what of the past each loss is told to depend on.
