"""Evolution strategies against exact answers, and the tests against broken estimators."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meta_systems import (
    Begun,
    Diverging,
    Linear,
    Multilinear,
    Quadrant,
    Spy,
)

from meta_train.devices import lane_mesh
from meta_train.estimators import (
    PES,
    FullES,
    TruncatedES,
    guard,
    lanes,
)
from meta_train.estimators.evolution import WindowResult
from meta_train.estimators.perturbations import Perturbable
from meta_train.truncation import Truncation

KEY = jax.random.key(7)
ESTIMATORS = (PES, TruncatedES, FullES)


def _estimates(estimator, theta, num_windows, key=KEY):
    """The gradient and loss of consecutive windows, ``[windows, ...]``."""

    def run(estimator, key):
        init_key, key = jax.random.split(key)

        def body(state, window_key):
            estimate, state = estimator.estimate(theta, state, window_key)
            return state, estimate

        keys = jax.random.split(key, num_windows)
        return jax.lax.scan(body, estimator.init(theta, init_key), keys)[1]

    return jax.jit(run)(estimator, key)


def test_a_number_of_steps_is_no_truncation():
    with pytest.raises(TypeError, match=r"Truncation\.constant"):
        PES(Linear(), 100, num_pairs=2).init(jnp.float32(0.0), KEY)  # type: ignore[arg-type]


# Identities, sample by sample.


def test_pes_with_one_window_per_episode_is_full_es():
    theta = jnp.array([0.3, -0.2, 0.5])
    results = []
    for cls in (PES, FullES):
        truncation = Truncation.constant(6, 6)
        estimator = cls(Spy(6), truncation, num_pairs=5, sigma=0.3)
        results.append(_estimates(estimator, theta, 4))
    np.testing.assert_allclose(results[0].grad, results[1].grad, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(results[0].loss, results[1].loss, rtol=1e-6)


def test_truncated_es_with_one_window_per_episode_is_full_es():
    theta = jnp.array([0.3, -0.2, 0.5])
    truncation = Truncation.constant(6, 6)
    full = _estimates(FullES(Spy(6), truncation, 5, sigma=0.3), theta, 4)
    truncated = _estimates(TruncatedES(Spy(6), truncation, 5, sigma=0.3), theta, 4)
    np.testing.assert_allclose(full.grad, truncated.grad, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_adding_a_constant_to_the_loss_changes_no_estimate(cls):
    class Shifted(Linear):
        def step(self, theta, state, key):
            state, loss = super().step(theta, state, key)
            return state, loss + 8.0

    truncation = Truncation.constant(6, 2)
    plain, shifted = (
        _estimates(cls(system, truncation, 4, sigma=0.5), jnp.float32(0.0), 6)
        for system in (Linear(), Shifted())
    )
    np.testing.assert_allclose(plain.grad, shifted.grad, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plain.loss + 8.0, shifted.loss, rtol=1e-5)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_loss_even_in_theta_has_no_gradient_at_zero(cls):
    class Even(Linear):
        def step(self, theta, state, key):
            state, loss = super().step(theta, state, key)
            return state, loss**2

    estimator = cls(Even(), Truncation.constant(6, 2), 4, sigma=0.5)
    grads = _estimates(estimator, jnp.float32(0.0), 6).grad
    np.testing.assert_allclose(grads, 0.0, atol=1e-6)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_swapping_the_members_of_a_pair_changes_nothing(cls, monkeypatch):
    estimator = cls(Spy(2), Truncation.constant(6, 2), 4, sigma=0.5)
    theta = jnp.array([0.3, -0.2, 0.5])
    plain = _estimates(estimator, theta, 6)
    noise = Perturbable.noise
    monkeypatch.setattr(Perturbable, "noise", lambda *args: -noise(*args))
    jax.clear_caches()
    swapped = _estimates(estimator, theta, 6)
    np.testing.assert_allclose(plain.grad, swapped.grad, rtol=1e-4, atol=1e-5)


# Credit: which perturbations weigh which loss.


def _credit_error(cls) -> float:
    """Largest error of an estimate against bookkeeping done from the outside.

    Lanes have different horizons and staggered starts. Only the states of the system
    are read: they tell the perturbation of each window and when an episode began.
    """
    window, num_pairs, sigma = 3, 7, 0.4
    estimator = cls(
        Spy(window), Truncation.log_uniform(3, 15, window), num_pairs, sigma=sigma
    )
    theta = jnp.array([0.3, -0.2, 0.5])
    lanes = estimator.init(theta, KEY)
    estimate_window = jax.jit(lambda e, lanes, key: e.estimate(theta, lanes, key))
    xi, totals = np.zeros((num_pairs, 3)), np.zeros((num_pairs, 2, 3))
    worst, horizons = 0.0, set()
    for key in jax.random.split(KEY, 14):
        estimate, lanes = estimate_window(estimator, lanes, key)
        spied = jax.tree.map(np.asarray, lanes.system)
        grads = []
        for lane in range(num_pairs):
            if spied.step[lane, 0] == window:  # an episode began with this window
                xi[lane], totals[lane] = 0.0, 0.0
            thetas = (spied.total[lane] - totals[lane]) / window
            totals[lane] = spied.total[lane]
            xi[lane] += (thetas[0] - thetas[1]) / 2
            difference = np.mean(spied.losses[lane, 0] - spied.losses[lane, 1])
            grads.append(xi[lane] * difference / (2 * sigma**2))
            horizons.add(int(lanes.num_windows[lane]))
        expected = np.mean(grads, axis=0)
        error = np.abs(np.asarray(estimate.grad) - expected) / np.abs(expected).max()
        worst = max(worst, float(error.max()))
    assert len(horizons) >= 3, "the lanes must differ for this to mean anything"
    return worst


def test_every_loss_is_credited_to_all_perturbations_of_its_own_episode():
    assert _credit_error(PES) < 1e-4


class ForgetsThePast(PES):
    """Mutant: the latest perturbation in place of their sum (truncated ES)."""

    def _window(self, theta, lane, key):
        return super()._window(theta, lane._replace(xi=0 * lane.xi), key)


class NeverForgets(PES):
    """Mutant: the sum of perturbations survives the reset."""

    def _lane(self, theta, lane, key):
        xi = lane.xi
        fresh = self._fresh
        object.__setattr__(self, "_fresh", lambda *a: fresh(*a)._replace(xi=xi))
        try:
            return super()._lane(theta, lane, key)
        finally:
            object.__delattr__(self, "_fresh")


class TwiceAsMuch(PES):
    """Mutant: sigma^2 in place of 2 sigma^2."""

    def _window(self, theta, lane, key):
        result, lane = super()._window(theta, lane, key)
        return result._replace(grad=2 * result.grad), lane


class OneWindowLate(PES):
    """Mutant: the last loss of an episode is credited to the next one."""

    def _window(self, theta, lane, key):
        result, new = super()._window(theta, lane, key)
        last = new.window >= new.num_windows
        eps = new.xi - lane.xi
        grad = jnp.where(last, result.grad * 0 + eps, result.grad)
        return WindowResult(grad, *result[1:]), new


@pytest.mark.parametrize(
    "mutant", [ForgetsThePast, NeverForgets, TwiceAsMuch, OneWindowLate]
)
def test_the_credit_test_notices_a_broken_estimator(mutant):
    assert _credit_error(mutant) > 0.05


# Unbiasedness, by z-tests with power.

SIGMA, THETA = 0.2, 0.9
NUM_PAIRS = 400_000


@functools.cache
def _episode_gradient(cls, system_class, window: int) -> tuple[float, float]:
    """Estimate and standard error of the gradient of the summed loss of 4 steps."""
    truncation = Truncation.constant(4, window, stagger=False)
    windows = 1 if cls is FullES else 4 // window
    batches = 40

    def one(key):
        estimator = cls(system_class(), truncation, NUM_PAIRS // batches, sigma=SIGMA)
        return 4 * jnp.mean(
            _estimates(estimator, jnp.float32(THETA), windows, key).grad
        )

    samples = np.asarray(jax.lax.map(one, jax.random.split(KEY, batches)), np.float64)
    return float(samples.mean()), float(samples.std(ddof=1) / np.sqrt(batches))


@pytest.mark.parametrize(
    ("cls", "window", "truth"),
    [
        (PES, 1, 4 * THETA**3),  # independent noise does not move a multilinear mean
        (PES, 2, 4 * THETA * (THETA**2 + SIGMA**2)),
        (PES, 4, 4 * THETA**3 + 12 * THETA * SIGMA**2),
        (FullES, 2, 4 * THETA**3 + 12 * THETA * SIGMA**2),
        (TruncatedES, 1, THETA**3),  # its bias: only the last step's own theta counts
    ],
)
def test_the_mean_estimate_is_the_gradient_of_the_smoothed_loss(cls, window, truth):
    mean, error = _episode_gradient(cls, Multilinear, window)
    assert error < 0.01 * truth, "too noisy to tell anything"
    assert abs(mean - truth) < 4 * error


def test_the_z_test_can_tell_the_estimators_apart():
    truths = [2.916, 3.060, 3.348]
    for window, truth in zip((1, 2, 4), truths, strict=True):
        mean, error = _episode_gradient(PES, Multilinear, window)
        others = [other for other in truths if other != truth]
        assert all(abs(mean - other) > 4 * error for other in others)


@pytest.mark.parametrize("window", [1, 2, 4])
def test_pes_finds_the_whole_gradient_of_a_linear_system(window):
    mean, error = _episode_gradient(PES, Linear, window)
    truth = 4 * 5 / 2
    assert error < 0.01 * truth
    assert abs(mean - truth) < 4 * error
    assert abs(mean / truth - 1) < 0.01


def test_truncated_es_misses_what_the_past_did():
    mean, error = _episode_gradient(TruncatedES, Linear, 2)
    truth = 2 * (1 + 2)  # two windows of two steps, each from a fixed start
    assert abs(mean - truth) < 4 * error


def test_staggered_lanes_of_different_horizons_average_to_the_true_gradient():
    """Per step, an episode of T steps of `Linear` has mean gradient (T + 1) / 2."""
    truncation = Truncation.log_uniform(2, 8, 2)
    estimator = PES(Linear(), truncation, num_pairs=2000, sigma=0.2)
    grads = np.asarray(_estimates(estimator, jnp.float32(0.5), 400).grad)[40:]
    lengths = np.arange(1, 5)
    chance = np.log1p(1 / lengths) / np.log(5)
    # Lanes spend time in proportion to length, and weigh every window alike.
    truth = np.sum(chance * lengths * (2 * lengths + 1) / 2) / np.sum(chance * lengths)
    blocks = grads.reshape(36, 10).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(36)
    assert error < 0.01 * truth
    assert abs(blocks.mean() - truth) < 4 * error


def test_the_start_of_an_episode_gets_its_gradient():
    """With s_0 = T theta made by `begin`, the mean loss has gradient T."""
    estimator = PES(Begun(), Truncation.constant(6, 2), num_pairs=100_000, sigma=0.2)
    grads = np.asarray(_estimates(estimator, jnp.float32(0.5), 33).grad)[3:]
    assert abs(grads.mean() / 6 - 1) < 0.02


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_state_may_hold_a_random_key(cls):
    class Keyed:
        def init(self, key):
            return key, jnp.zeros(())

        def step(self, theta, state, key):
            del key
            chain, total = state
            chain, now = jax.random.split(chain)
            total = total + theta
            return (chain, total), total + jax.random.normal(now)

    truncation = Truncation.constant(4, 2)
    plain, keyed = (
        _estimates(cls(system, truncation, 6, sigma=0.5), jnp.float32(0.1), 6)
        for system in (Linear(), Keyed())
    )
    np.testing.assert_allclose(plain.grad, keyed.grad, rtol=1e-2, atol=1e-3)


# Variance.


@pytest.mark.parametrize("structure", ["tied", "independent", "dense"])
def test_the_variance_of_pes_follows_its_formula(structure):
    """Total variance of an episode's estimate with g[t, tau] = dL_t / dtheta_tau."""
    windows, size, repeats = 5, 4, 60_000
    rng = np.random.default_rng(0)
    g = np.zeros((windows, windows, size))
    for t in range(windows):
        for tau in range(t + 1):
            if structure == "dense":
                g[t, tau] = rng.normal(size=size)
            elif tau == t:
                tied = np.linspace(1, 2, size)
                g[t, tau] = tied if structure == "tied" else rng.normal(size=size)
    truth = 0.0
    for s in range(windows):
        for t in range(windows):
            m = min(s, t) + 1
            shared = np.sum(g[s, :m] * g[t, :m])
            sums = g[s, :m].sum(axis=0) @ g[t, :m].sum(axis=0)
            truth += size * m * shared + sums

    system = Quadrant(g.astype(np.float32))
    truncation = Truncation.constant(windows, 1, stagger=False)
    estimator = PES(system, truncation, num_pairs=1, sigma=0.1)

    def episode(key):
        return _estimates(estimator, jnp.zeros(size), windows, key).grad.sum(axis=0)

    totals = jax.lax.map(episode, jax.random.split(KEY, repeats), batch_size=6000)
    measured = np.asarray(totals, np.float64).var(axis=0).sum()
    np.testing.assert_allclose(measured, truth, rtol=0.04)
    np.testing.assert_allclose(
        np.asarray(totals).mean(axis=0),
        g.sum(axis=(0, 1)),
        atol=6 * (truth / repeats) ** 0.5,
    )


def test_common_random_numbers_keep_chance_out_of_the_difference():
    class Noisy(Linear):
        def init(self, key):
            return jax.random.normal(key, ()) * 100.0

        def step(self, theta, state, key):
            state, loss = super().step(theta, state, key)
            return state, loss + 100.0 * jax.random.normal(key, ())

    truncation = Truncation.constant(4, 2)
    quiet, noisy = (
        _estimates(PES(system, truncation, 6, sigma=0.5), jnp.float32(0.1), 8)
        for system in (Linear(), Noisy())
    )
    np.testing.assert_allclose(quiet.grad, noisy.grad, rtol=1e-2, atol=1e-3)


# Divergence.


def test_a_diverged_member_counts_as_the_cap():
    losses = jnp.array([[1.0, jnp.nan, jnp.inf, 9.0], [1.5, 1.0, -jnp.inf, 1.0]])
    guarded, share = guard(losses, 4.0)
    np.testing.assert_array_equal(guarded, [[1, 4, 4, 4], [1.5, 1, 4, 1]])
    assert float(share) == 4 / 8


def test_without_a_cap_a_diverged_step_is_left_out_of_the_difference():
    losses = jnp.array([[1.0, jnp.nan, 9.0], [1.5, 1.0, 2.0]])
    guarded, share = guard(losses, None)
    np.testing.assert_array_equal(guarded, [[1, 0, 9], [1.5, 0, 2]])
    assert float(share) == pytest.approx(2 / 6)


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("cap", [None, 5.0])
def test_diverged_lanes_are_contained_and_counted(cls, cap):
    estimator = cls(Diverging(), Truncation.constant(8, 4), 16, 0.1, loss_cap=cap)
    estimate = _estimates(estimator, jnp.float32(1.0), 8)
    assert np.all(np.isfinite(estimate.grad)) and np.all(np.isfinite(estimate.loss))
    share = np.asarray(estimate.metrics["guarded"]).mean()
    # Half of the episodes are non-finite from their fourth step of eight on.
    assert 0.1 < share < 0.6


# Devices.


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_lanes_on_eight_devices_give_what_one_device_gives(cls):
    mesh = lane_mesh()
    assert mesh is not None and mesh.size == 8
    truncation = Truncation.log_uniform(2, 8, 2)
    theta = jnp.array([0.3, -0.2, 0.5])
    one, eight = (
        _estimates(cls(Spy(2), truncation, 16, sigma=0.3, mesh=m), theta, 6)
        for m in (None, mesh)
    )
    np.testing.assert_allclose(one.grad, eight.grad, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(one.loss, eight.loss, rtol=1e-5)
    assert set(one.metrics) == set(eight.metrics)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_lanes_that_take_turns_give_what_all_at_once_give(cls):
    truncation = Truncation.log_uniform(2, 8, 2)
    theta = jnp.array([0.3, -0.2, 0.5])
    at_once, turns = (
        _estimates(cls(Spy(2), truncation, 6, sigma=0.3, lane_batch=b), theta, 6)
        for b in (None, 2)
    )
    np.testing.assert_allclose(at_once.grad, turns.grad, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lane_batch": 0}, r"lane_batch is 0, and must be in \[1, inf\)"),
        ({"lane_batch": -2}, r"lane_batch is -2, and must be in \[1, inf\)"),
        ({"loss_cap": np.inf}, "loss_cap is inf"),
        ({"loss_cap": np.nan}, "loss_cap is nan"),
        ({"num_pairs": 0}, r"num_pairs is 0, and must be in \[1, inf\)"),
        ({"sigma": 0.0}, r"sigma is 0.0, and must be in \(0, inf\)"),
        ({"sigma": -0.1}, "sigma is -0.1"),
        ({"sigma": np.inf}, "sigma is inf"),
    ],
)
@pytest.mark.parametrize("cls", ESTIMATORS)
def test_numbers_that_make_no_estimate_are_errors(cls, wrong, message):
    with pytest.raises(ValueError, match=message):
        cls(Spy(2), Truncation.constant(2, 1), **{"num_pairs": 4} | wrong)


def test_long_thetas_are_summed_over_lanes_like_short_ones(monkeypatch):
    estimator = PES(Spy(2), Truncation.constant(8, 2), 6, sigma=0.3)
    theta = jnp.array([0.3, -0.2, 0.5])
    short = _estimates(estimator, theta, 4)
    monkeypatch.setattr(lanes, "_LONG", 2)
    jax.clear_caches()
    long = _estimates(estimator, theta, 4)
    np.testing.assert_allclose(short.grad, long.grad, rtol=1e-5, atol=1e-5)
    program = jax.make_jaxpr(lambda x: lanes._total(x))(jnp.ones((6, 3)))
    assert "reduce_sum" not in str(program)  # so it was the other way that was compared


def test_pairs_that_do_not_divide_over_the_devices_are_an_error():
    estimator = PES(Linear(), Truncation.constant(4, 2), 9, mesh=lane_mesh())
    with pytest.raises(ValueError, match="9 lanes or antithetic pairs do not divide"):
        estimator.init(jnp.float32(0.0), KEY)


def test_the_noise_ratio_is_near_one_whatever_the_window():
    truncation = Truncation.constant(16, 1, stagger=False)
    estimator = PES(Spy(1), truncation, num_pairs=2000, sigma=0.1)
    ratio = _estimates(estimator, jnp.zeros(3), 16).metrics["noise_ratio"]
    # The norm of 3 normal numbers is .92 of its root mean square.
    np.testing.assert_allclose(ratio, 0.9213, atol=0.03)
