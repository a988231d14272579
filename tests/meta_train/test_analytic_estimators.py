"""Gradient-based estimators against exact answers, and the tests against broken ones."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meta_systems import Begun, Diverging, Linear, Multilinear, Spy

import tasksets
from learned_opt import Adam, NAdamW
from meta_train.devices import lane_mesh
from meta_train.estimators import PES, Estimator
from meta_train.estimators.analytic import (
    choose,
    merge,
    rough,
    smooth,
)
from meta_train.estimators.bptt import BPTT
from meta_train.estimators.dodge import DODGE
from meta_train.estimators.rtrl import RTRL
from meta_train.estimators.tbptt import TBPTT
from meta_train.estimators.uoro import UORO
from meta_train.inner_training import InnerTraining
from meta_train.truncation import Truncation

KEY = jax.random.key(7)
EXACT = (BPTT, RTRL)
UNBIASED = (BPTT, RTRL, UORO, DODGE)
ESTIMATORS = (TBPTT, *UNBIASED)
THETA = jnp.array([0.3, -0.2, 0.5])


class InfluenceBalancing:
    """s_t = A s_{t-1} + theta v: theta helps at first and harms in the long run.

    The stationary s[0] is -6 theta, so the long-run loss (s[0] - 1)^2 / 2 has the gradient
    36 theta + 6 and its minimum at -1/6 (Tallec & Ollivier 2017, section 5).
    """

    matrix = np.float32(0.5 * (np.eye(23) + np.eye(23, k=1)))
    drive = np.float32(np.where(np.arange(23) < 10, 1, -1))

    def init(self, key):
        del key
        return jnp.ones(23)

    def step(self, theta, state, key):
        del key
        state = jnp.asarray(self.matrix) @ state + theta * self.drive
        return state, 0.5 * (state[0] - 1) ** 2


class Recurrent:
    """A recurrent network of two units with a noisy input; theta is all its weights."""

    size = 2

    def init(self, key):
        return jax.random.normal(key, (self.size,)), jnp.zeros((), jnp.int32)

    def step(self, theta, state, key):
        hidden, t = state
        x = jax.random.normal(key, ())
        hidden = jnp.tanh(theta["recurrent"] @ hidden + theta["input"] * x)
        return (hidden, t + 1), (hidden @ theta["output"] - x + 0.1 * t) ** 2

    @staticmethod
    def theta():
        keys = jax.random.split(jax.random.key(3), 3)
        names = {"recurrent": (2, 2), "input": (2,), "output": (2,)}
        return {
            name: 0.7 * jax.random.normal(key, shape)
            for key, (name, shape) in zip(keys, names.items(), strict=True)
        }


class Trained(NamedTuple):
    weights: tuple
    momentum: tuple
    horizon: jax.Array


class TrainedNetwork:
    """Training a small network by SGD; theta is rate, decay, momentum, and its start."""

    def init(self, key):
        keys = jax.random.split(key)
        weights = (
            jax.random.normal(keys[0], (4, 8)) / 2,
            jax.random.normal(keys[1], (8, 1)) / 3,
        )
        return Trained(weights, jax.tree.map(jnp.zeros_like, weights), jnp.zeros(()))

    def begin(self, theta, state, num_steps):
        momentum = jax.tree.map(lambda w: theta["start"] * w, state.weights)
        return state._replace(momentum=momentum, horizon=num_steps)

    def step(self, theta, state, key):
        x = jax.random.normal(key, (16, 4))
        y = jnp.sin(x[:, :1]) + x[:, 1:2] * x[:, 2:3]

        def loss(weights):
            return jnp.mean((jax.nn.silu(x @ weights[0]) @ weights[1] - y) ** 2)

        value, grads = jax.value_and_grad(loss)(state.weights)
        rate, keep = jnp.exp(theta["rate"]), jax.nn.sigmoid(theta["momentum"])
        rate = rate / (1 + jnp.exp(theta["decay"]) / state.horizon)
        momentum = jax.tree.map(lambda m, g: keep * m + g, state.momentum, grads)
        weights = jax.tree.map(lambda w, m: w - rate * m, state.weights, momentum)
        return Trained(weights, momentum, state.horizon), value

    @staticmethod
    def theta():
        values = {"rate": -2.0, "decay": 0.5, "momentum": 0.2, "start": 0.1}
        return {name: jnp.float32(value) for name, value in values.items()}


class Chained:
    """A system whose chance comes from a random key in its state, none from outside.

    Whoever unrolls it in windows of whatever length sees the same episode.
    """

    def __init__(self, system):
        self.system = system

    def init(self, key):
        chain, init_key = jax.random.split(key)
        return chain, self.system.init(init_key)

    def begin(self, theta, state, num_steps):
        chain, inner = state
        if hasattr(self.system, "begin"):
            inner = self.system.begin(theta, inner, num_steps)
        return chain, inner

    def step(self, theta, state, key):
        del key
        chain, inner = state
        chain, now = jax.random.split(chain)
        inner, loss = self.system.step(theta, inner, now)
        return (chain, inner), loss


PROBLEMS = {
    "linear": (Linear(), jnp.float32(0.5)),
    "multilinear": (Multilinear(), jnp.float32(0.9)),
    "influence balancing": (InfluenceBalancing(), jnp.float32(0.5)),
    "spy": (Spy(2), THETA),
    "begun": (Begun(), jnp.float32(0.5)),
    "recurrent network": (Recurrent(), Recurrent.theta()),
    "trained network": (TrainedNetwork(), TrainedNetwork.theta()),
}


def _estimates(estimator, theta, num_windows, key=KEY):
    """The gradient and loss of consecutive windows, ``[windows, ...]``."""

    def run(estimator, theta, key):
        init_key, key = jax.random.split(key)

        def body(state, window_key):
            estimate, state = estimator.estimate(theta, state, window_key)
            return state, estimate

        keys = jax.random.split(key, num_windows)
        return jax.lax.scan(body, estimator.init(theta, init_key), keys)[1]

    return jax.jit(run)(estimator, theta, key)


def _vector(tree):
    """The trees ``[windows, ...]`` as vectors ``[windows, theta]``."""
    return jax.vmap(lambda x: jax.flatten_util.ravel_pytree(x)[0])(tree)


def _lockstep(horizon, window):
    return Truncation.constant(horizon, window, stagger=False)


# Identities, sample by sample.


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_each_is_an_estimator_whose_state_holds_arrays(cls):
    estimator = cls(Spy(2), Truncation.constant(6, 2), 4)
    assert isinstance(estimator, Estimator)
    state = estimator.init(THETA, KEY)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))
    _, after = estimator.estimate(THETA, state, KEY)
    same = lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype)
    assert jax.tree.all(jax.tree.map(same, state, after))


def _first_episode(cls, system, theta, truncation, num_keys=4):
    """Mean gradient over a lane's first episode, one per key, ``[keys, theta]``."""
    estimator = cls(Chained(system), truncation, 1)
    windows = 1 if issubclass(cls, BPTT) else truncation.max_windows

    def one(key):
        # The first key decides the episode; the others only pass the time.
        keys = jnp.stack(
            [key] + [jax.random.fold_in(key, w) for w in range(1, windows)]
        )

        def body(state, key):
            estimate, state = estimator.estimate(theta, state, key)
            flat, _ = jax.flatten_util.ravel_pytree(estimate.grad)
            return state, (flat, state.num_windows[0])

        _, (grads, counts) = jax.lax.scan(body, estimator.init(theta, key), keys)
        count = 1 if issubclass(cls, BPTT) else counts[0]
        return jnp.sum(grads * (jnp.arange(windows) < count)[:, None], axis=0) / count

    return jax.jit(jax.vmap(one))(jax.random.split(KEY, num_keys))


@pytest.mark.parametrize("name", PROBLEMS)
def test_rtrl_over_an_episode_is_backpropagation_through_it(name):
    system, theta = PROBLEMS[name]
    truncation = Truncation.log_uniform(2, 8, 2)  # episodes differ in length
    forwards = _first_episode(RTRL, system, theta, truncation)
    backwards = _first_episode(BPTT, system, theta, truncation)
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

        problem = Double(), theta, _lockstep(12, 3)
        forwards = _first_episode(RTRL, *problem)
        backwards = _first_episode(BPTT, *problem)
        assert forwards.dtype == jnp.float64
        np.testing.assert_allclose(forwards, backwards, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", PROBLEMS)
def test_tbptt_with_one_window_per_episode_is_backpropagation_through_it(name):
    system, theta = PROBLEMS[name]
    tbptt, bptt = (
        _estimates(cls(system, Truncation.constant(6, 6), 3), theta, 3)
        for cls in (TBPTT, BPTT)
    )
    np.testing.assert_allclose(tbptt.loss, bptt.loss, rtol=1e-6)
    np.testing.assert_allclose(
        _vector(tbptt.grad), _vector(bptt.grad), rtol=1e-5, atol=1e-6
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
        _estimates(cls(system, Truncation.constant(40, 4), 3), theta, 12)
        for cls in (RTRL, DODGE)
    )
    np.testing.assert_allclose(rtrl.grad, dodge.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_the_same_key_gives_the_episodes_that_evolution_strategies_see(cls):
    truncation = Truncation.log_uniform(2, 8, 2)
    losses = _estimates(cls(Spy(2), truncation, 4), THETA, 1).loss
    truth = _estimates(PES(Spy(2), truncation, 4, sigma=1e-5), THETA, 1).loss
    if cls is BPTT:  # which tells the loss of the whole episode, as full ES does
        truncation = _lockstep(2, 2)
        losses = _estimates(cls(Spy(2), truncation, 4), THETA, 1).loss
        truth = _estimates(PES(Spy(2), truncation, 4, sigma=1e-5), THETA, 1).loss
    np.testing.assert_allclose(losses, truth, rtol=1e-3)


# Closed forms.


@pytest.mark.parametrize("cls", [BPTT, RTRL, DODGE])
@pytest.mark.parametrize("window", [1, 2, 3, 6])
def test_the_gradient_of_a_linear_system(cls, window):
    """The mean over T steps of t theta has gradient (T + 1) / 2."""
    estimator = cls(Linear(), _lockstep(6, window), 2)
    windows = 1 if cls is BPTT else 6 // window
    grads = _estimates(estimator, jnp.float32(0.3), windows).grad
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
    estimator = cls(Multilinear(), _lockstep(4, window), 2)
    windows = 1 if cls is BPTT else 4 // window
    grads = _estimates(estimator, jnp.float32(0.9), windows).grad
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
    estimator = cls(InfluenceBalancing(), _lockstep(steps, window), 1)
    grads = _estimates(estimator, jnp.float32(0.5), steps // window).grad
    np.testing.assert_allclose(grads, truth, rtol=1e-4, atol=1e-4)


def test_influence_balancing_as_a_whole():
    truth = _influence_gradients(0.5, 200, 200).mean()
    estimator = BPTT(InfluenceBalancing(), _lockstep(200, 20), 1)
    grads = _estimates(estimator, jnp.float32(0.5), 1).grad
    np.testing.assert_allclose(grads, truth, rtol=1e-4)


@pytest.mark.parametrize("theta", [0.5, -1.0])
def test_short_windows_see_the_wrong_sign_of_the_long_run_gradient(theta):
    def last(cls, window):
        estimator = cls(InfluenceBalancing(), _lockstep(400, window), 1)
        return float(_estimates(estimator, jnp.float32(theta), 400 // window).grad[-1])

    truth = 36 * theta + 6
    np.testing.assert_allclose(last(RTRL, 1), truth, rtol=1e-5)
    # One step ahead s[0] grows by theta, not by -6 theta.
    np.testing.assert_allclose(last(TBPTT, 1), -truth / 6, rtol=1e-5)
    assert last(TBPTT, 10) * truth < 0
    assert last(TBPTT, 400) * truth > 0


def _descend(cls, num_lanes, rate, steps):
    estimator = cls(InfluenceBalancing(), _lockstep(10**6, 1), num_lanes)

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
    grads = _estimates(estimator, jnp.float32(0.5), 9).grad
    np.testing.assert_allclose(grads, 6.0, rtol=1e-4)


# Credit: what of the past each loss is told to depend on.


def _credit_error(cls, kind) -> float:
    """Largest error of an estimate against bookkeeping done from the outside.

    Lanes have different horizons and staggered starts, and theta moves between windows.
    Only the states of the system are read: a loss ``c_t . total_t^2`` of `Spy` at step t
    has the derivative ``2 c_t total_t t`` by a theta common to all t steps.
    """
    window, num_lanes = 3, 7
    estimator = cls(Spy(window), Truncation.log_uniform(3, 15, window), num_lanes)
    estimate_window = jax.jit(lambda e, th, lanes, key: e.estimate(th, lanes, key))
    lanes = estimator.init(THETA, KEY)
    worst, horizons = 0.0, set()
    for n, key in enumerate(jax.random.split(KEY, 12)):
        theta = THETA * (1 + 0.3 * np.cos(n)) if kind is not BPTT else THETA
        estimate, lanes = estimate_window(estimator, theta, lanes, key)
        spied = jax.tree.map(np.asarray, lanes.system)
        grads = []
        for lane in range(num_lanes):
            end = int(spied.step[lane])
            if kind is BPTT:
                end = int(lanes.num_windows[lane]) * window
            steps = np.arange(end if kind is BPTT else window)[::-1]
            t = (end - steps)[:, None]
            total = end * theta if kind is BPTT else spied.total[lane]
            totals = np.asarray(total) - steps[:, None] * np.asarray(theta)
            weights = np.sin(t + np.arange(3)) + spied.noise[lane]
            remembered = t - (end - window) if kind is TBPTT else t
            grad = np.mean(2 * weights * totals * remembered, axis=0)
            if kind is DODGE:
                v = np.asarray(lanes.carried.direction[lane])
                grad = v * (v @ grad)
            grads.append(grad)
            horizons.add(int(lanes.num_windows[lane]))
        expected = np.mean(grads, axis=0)
        error = np.abs(np.asarray(estimate.grad) - expected) / np.abs(expected).max()
        worst = max(worst, float(error.max()))
    assert len(horizons) >= 3, "the lanes must differ for this to mean anything"
    return worst


@pytest.mark.parametrize("cls", [TBPTT, BPTT, RTRL, DODGE])
def test_every_loss_is_credited_to_its_own_episode_and_no_other(cls):
    assert _credit_error(cls, cls) < 1e-4


class ForgetsThePast(RTRL):
    """Mutant: the dependence on theta is lost between windows (TBPTT)."""

    def _window(self, theta, episode, key):
        zero = jax.tree.map(jnp.zeros_like, episode.carried)
        return super()._window(theta, episode._replace(carried=zero), key)


class _NeverForgets:
    """Mutant: the dependence on theta survives the reset."""

    def _lane(self, theta, episode, key):
        fresh, begun = self._fresh, episode.num_windows > 0

        def keeping(*args):
            new = fresh(*args)
            return new._replace(carried=choose(begun, episode.carried, new.carried))

        object.__setattr__(self, "_fresh", keeping)
        try:
            return super()._lane(theta, episode, key)
        finally:
            object.__delattr__(self, "_fresh")


class RTRLNeverForgets(_NeverForgets, RTRL):
    pass


class DODGENeverForgets(_NeverForgets, DODGE):
    pass


class SumsTheLosses(BPTT):
    """Mutant: the sum over windows in place of the mean."""

    def _window(self, theta, episode, key):
        slope, episode = super()._window(theta, episode, key)
        return slope._replace(grad=slope.grad * episode.num_windows), episode


class NoticesNoEnd(BPTT):
    """Mutant: every episode is as long as the longest."""

    def _window(self, theta, episode, key):
        count = jnp.full_like(episode.num_windows, self.truncation.max_windows)
        slope, after = super()._window(theta, episode._replace(num_windows=count), key)
        return slope, after._replace(num_windows=episode.num_windows)


class LooksBack(TBPTT):
    """Mutant: credits the window's first state with half of the steps before it."""

    def _window(self, theta, episode, key):
        slope, after = super()._window(theta, episode, key)
        return slope._replace(grad=slope.grad * (1 + 0.5 * episode.window)), after


class TurnsAround(DODGE):
    """Mutant: a new direction in every window, the derivative along the old one."""

    def _window(self, theta, episode, key):
        slope, after = super()._window(theta, episode, key)
        new = jax.random.rademacher(key, theta.flat.shape, theta.flat.dtype)
        return slope, after._replace(carried=after.carried._replace(direction=new))


@pytest.mark.parametrize(
    ("mutant", "kind"),
    [
        (ForgetsThePast, RTRL),
        (RTRLNeverForgets, RTRL),
        (DODGENeverForgets, DODGE),
        (TurnsAround, DODGE),
        (LooksBack, TBPTT),
    ],
)
def test_the_credit_test_notices_a_broken_estimator(mutant, kind):
    assert _credit_error(mutant, kind) > 0.05


@pytest.mark.parametrize("mutant", [SumsTheLosses, NoticesNoEnd])
def test_the_credit_test_notices_an_episode_taken_wrongly(mutant):
    assert _credit_error(mutant, BPTT) > 0.05


def test_forwards_and_backwards_agree_only_where_nothing_is_forgotten():
    system, theta = PROBLEMS["recurrent network"]
    truncation = _lockstep(8, 2)
    forgetful = _first_episode(ForgetsThePast, system, theta, truncation)
    truth = _first_episode(BPTT, system, theta, truncation)
    assert np.abs(forgetful - truth).max() > 0.05 * np.abs(truth).max()


# Unbiasedness.


def test_the_mean_of_uoro_over_all_signs_is_rtrl(monkeypatch):
    """Four steps of two units: every choice of the signs that matter, no statistics."""
    with jax.enable_x64(True):
        system = Recurrent()
        theta = jax.tree.map(lambda x: x.astype(jnp.float64), Recurrent.theta())
        keys = [jax.random.fold_in(KEY, t) for t in range(4)]
        nu = []
        monkeypatch.setattr(jax.random, "rademacher", lambda *_: nu[-1])

        def episode(cls, signs):
            estimator = cls(system, _lockstep(4, 1), 1)
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
    estimator = cls(_Fixed(system), _lockstep(6, 2), num_lanes // batches)

    def one(key):
        return _vector(_estimates(estimator, theta, 3, key).grad).mean(axis=0)

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
        grads = np.asarray(_estimates(estimator, jnp.float32(0.5), 400).grad)[40:]
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
    estimator = DODGE(_Fixed(Recurrent()), _lockstep(6, 6), 4000)
    metrics = _estimates(estimator, Recurrent.theta(), 1).metrics
    truth = _truth(name)
    expected = np.sqrt(truth.size - 1) * np.linalg.norm(truth)
    np.testing.assert_allclose(metrics["grad_std"], expected, rtol=0.05)


# States that are more than numbers, and numbers that are none.


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_state_may_hold_random_keys_counters_and_flags(cls):
    class Keyed:
        def init(self, key):
            return {"chain": key, "total": jnp.zeros(()), "t": jnp.int32(0), "on": True}

        def begin(self, theta, state, num_steps):
            return state | {"on": num_steps > 0}

        def step(self, theta, state, key):
            chain, now = jax.random.split(state["chain"])
            total = state["total"] + theta * state["on"]
            new = {"chain": chain, "total": total, "t": state["t"] + 1, "on": True}
            return new | {"on": state["on"]}, total + jax.random.normal(now)

    class Arrays(Keyed):
        def init(self, key):
            return jax.tree.map(jnp.asarray, super().init(key))

    truncation = Truncation.constant(4, 2)
    plain, keyed = (
        _estimates(cls(system, truncation, 6), jnp.float32(0.1), 6)
        for system in (Linear(), Arrays())
    )
    if cls is UORO:  # has its own chance in `begin`
        assert np.all(np.isfinite(keyed.grad))
        return
    np.testing.assert_allclose(plain.grad, keyed.grad, rtol=1e-5)


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("cap", [None, 5.0])
def test_diverged_losses_are_contained_and_counted(cls, cap):
    estimator = cls(Diverging(), Truncation.constant(8, 4), 16, loss_cap=cap)
    estimate = _estimates(estimator, jnp.float32(1.0), 8)
    assert np.all(np.isfinite(estimate.grad)) and np.all(np.isfinite(estimate.loss))
    # Half of the episodes are non-finite from their fourth step of eight on.
    assert 0.1 < np.asarray(estimate.metrics["guarded"]).mean() < 0.6
    assert np.all(estimate.grad <= 1.0) and np.mean(estimate.grad) > 0.3


class Exploding:
    """Some episodes square their state until it overflows, its derivatives with it."""

    def init(self, key):
        bad = jax.random.bernoulli(key)
        return bad, jnp.where(bad, 1e10, 0.5)

    def step(self, theta, state, key):
        bad, x = state
        x = jnp.where(bad, (x * theta) ** 2, x * theta)
        return (bad, x), x


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_lanes_whose_derivatives_overflow_contribute_nothing(cls):
    lanes = 16
    estimator = cls(Exploding(), _lockstep(6, 6), lanes, loss_cap=1e4)
    state = estimator.init(jnp.float32(1.0), KEY)
    estimate, state = jax.jit(estimator.estimate)(jnp.float32(1.0), state, KEY)
    bad = int(state.system[0].sum())
    assert 0 < bad < lanes
    assert float(estimate.metrics["guarded"]) == pytest.approx(bad / lanes)
    if cls is not UORO:  # a healthy lane's loss is theta^t / 2
        truth = (lanes - bad) / lanes * 3.5 / 2
        np.testing.assert_allclose(estimate.grad, truth, rtol=1e-5)
    assert np.isfinite(estimate.grad)


def test_the_steps_after_a_planned_end_do_no_harm():
    class Ends(Linear):
        """Loses its derivative for good as soon as an episode is over."""

        def init(self, key):
            return jnp.zeros(()), jnp.zeros(()), jnp.ones(())

        def begin(self, theta, state, num_steps):
            return state[0], state[1], num_steps

        def step(self, theta, state, key):
            x, t, end = state
            x = x + theta * jnp.sqrt(end - t) / jax.lax.stop_gradient(jnp.sqrt(end - t))
            return (x, t + 1, end), x + 0 * jnp.sqrt(end - t - 1 + theta)

    truncation = Truncation.log_uniform(2, 8, 2, stagger=False)
    estimate = _estimates(BPTT(Ends(), truncation, 16), jnp.float32(0.5), 3)
    assert np.all(estimate.metrics["guarded"] == 0)
    assert np.all(estimate.grad > 1)


# Memory.


def _temporary_bytes(cls, window, horizon):
    class Wide:
        def init(self, key):
            return jax.random.normal(key, (256,))

        def step(self, theta, state, key):
            state = jnp.tanh(theta * state + jnp.sin(state))
            return state, jnp.mean(state**2)

    estimator = cls(Wide(), _lockstep(horizon, window), 1)
    theta = jnp.float32(0.5)
    state = estimator.init(theta, KEY)
    compiled = jax.jit(estimator.estimate).lower(theta, state, KEY).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_running_windows_again_saves_memory(monkeypatch):
    again = [_temporary_bytes(BPTT, 32, 32 * n) for n in (8, 32)]
    monkeypatch.setattr(jax, "checkpoint", lambda f, **_: f)
    stored = [_temporary_bytes(BPTT, 32, 32 * n) for n in (8, 32)]
    assert again[1] < stored[1] / 4
    assert again[1] - again[0] < (stored[1] - stored[0]) / 8


@pytest.mark.parametrize("cls", [RTRL, UORO, DODGE])
def test_forward_estimators_need_no_memory_for_the_past(cls):
    short, long = (_temporary_bytes(cls, window, 256) for window in (8, 256))
    # Keys and losses of the steps, but not their states of 1 KB.
    assert long - short < 256 * 64


# Devices.


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_lanes_on_eight_devices_give_what_one_device_gives(cls):
    mesh = lane_mesh()
    assert mesh is not None and mesh.size == 8
    truncation = Truncation.log_uniform(2, 8, 2)
    one, eight = (
        _estimates(cls(Spy(2), truncation, 16, mesh=m), THETA, 6) for m in (None, mesh)
    )
    np.testing.assert_allclose(one.grad, eight.grad, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(one.loss, eight.loss, rtol=1e-5)
    assert set(one.metrics) == set(eight.metrics)


@pytest.mark.parametrize("cls", [BPTT, UORO])
def test_lanes_that_take_turns_give_what_all_at_once_give(cls):
    truncation = Truncation.log_uniform(2, 8, 2)
    at_once, turns = (
        _estimates(cls(Spy(2), truncation, 6, lane_batch=b), THETA, 6)
        for b in (None, 2)
    )
    np.testing.assert_allclose(at_once.grad, turns.grad, rtol=2e-4, atol=1e-4)


def test_lanes_that_do_not_divide_over_the_devices_are_an_error():
    estimator = TBPTT(Linear(), Truncation.constant(4, 2), 9, mesh=lane_mesh())
    with pytest.raises(ValueError, match="9 lanes or antithetic pairs do not divide"):
        estimator.init(jnp.float32(0.0), KEY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lane_batch": 0}, r"lane_batch is 0, and must be in \[1, inf\)"),
        ({"loss_cap": np.inf}, "loss_cap is inf"),
        ({"num_lanes": 0}, r"num_lanes is 0, and must be in \[1, inf\)"),
    ],
)
@pytest.mark.parametrize("cls", [TBPTT, BPTT, UORO])
def test_numbers_that_make_no_estimate_are_errors(cls, wrong, message):
    with pytest.raises(ValueError, match=message):
        cls(Linear(), Truncation.constant(4, 2), **{"num_lanes": 4} | wrong)


@pytest.mark.parametrize("optimizer", [Adam, NAdamW])
def test_entries_without_a_gradient_do_not_spoil_adams_meta_gradient(optimizer):
    # The corners of the digits are always blank, so their weights never move.
    task = tasksets.get("small_mlp/seed0@digits?hidden=4")
    system = InnerTraining(task, optimizer())
    theta = optimizer().init(jax.random.key(0))
    estimator = BPTT(system, Truncation.constant(4, 2), num_lanes=1)
    key = jax.random.key(1)
    estimate, _ = jax.jit(estimator.estimate)(theta, estimator.init(theta, key), key)
    assert estimate.metrics["guarded"] == 0
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(estimate.grad)]
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert any(np.any(leaf != 0) for leaf in leaves)
