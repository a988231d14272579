"""NRES, GPES and PES with analytic gradients against exact answers."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meta_systems import Begun, Diverging, Linear, Multilinear, Quadrant, Spy

from meta_train.devices import lane_mesh
from meta_train.estimators.estimator import Estimator
from meta_train.estimators.evolution import Perturbable, WindowResult
from meta_train.estimators.full_es import FullES
from meta_train.estimators.gpes import GPES
from meta_train.estimators.nres import NRES
from meta_train.estimators.pes import PES
from meta_train.estimators.pes_analytic import PESAnalytic, PESAnalyticPair
from meta_train.estimators.truncated_es import TruncatedES
from meta_train.truncation import Truncation

KEY = jax.random.key(7)
THETA3 = jnp.array([0.3, -0.2, 0.5])
GPES2, GPES3 = (functools.partial(GPES, interval=i) for i in (2, 3))
ESTIMATORS = {
    "NRES": NRES,
    "GPES": GPES2,
    "PESAnalytic": PESAnalytic,
    "PESAnalyticPair": PESAnalyticPair,
}
EVERY = pytest.mark.parametrize("make", ESTIMATORS.values(), ids=ESTIMATORS)


def _estimates(estimator, theta, num_windows, key=KEY):
    """The estimates of consecutive windows, ``[windows, ...]``."""

    def run(estimator, key):
        init_key, key = jax.random.split(key)

        def body(state, window_key):
            estimate, state = estimator.estimate(theta, state, window_key)
            return state, estimate

        keys = jax.random.split(key, num_windows)
        return jax.lax.scan(body, estimator.init(theta, init_key), keys)[1]

    return jax.jit(run)(estimator, key)


# Identities, sample by sample.


def _assert_same(one, other):
    scale = np.abs(np.asarray(one.grad)).max()
    np.testing.assert_allclose(one.grad, other.grad, rtol=1e-4, atol=1e-5 * scale)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5, atol=1e-6)


@EVERY
def test_every_member_is_an_estimator(make):
    assert isinstance(make(Linear(), Truncation.constant(4, 2), 1), Estimator)


def test_gpes_that_draws_every_window_is_pes():
    truncation = Truncation.log_uniform(2, 16, 2)
    every = GPES(Spy(2), truncation, 5, sigma=0.3, interval=1)
    pes = PES(Spy(2), truncation, 5, sigma=0.3)
    _assert_same(_estimates(every, THETA3, 20), _estimates(pes, THETA3, 20))


def test_gpes_that_draws_once_per_episode_is_nres():
    truncation = Truncation.log_uniform(2, 16, 2)
    once = GPES(Spy(2), truncation, 5, sigma=0.3, interval=truncation.max_windows)
    nres = NRES(Spy(2), truncation, 5, sigma=0.3)
    _assert_same(_estimates(once, THETA3, 20), _estimates(nres, THETA3, 20))


@pytest.mark.parametrize("make", [NRES, GPES2])
def test_with_one_window_per_episode_the_family_is_full_es(make):
    truncation = Truncation.constant(6, 6)
    one = make(Spy(6), truncation, 5, sigma=0.3)
    full = FullES(Spy(6), truncation, 5, sigma=0.3)
    _assert_same(_estimates(one, THETA3, 4), _estimates(full, THETA3, 4))


def test_an_episode_of_nres_adds_up_to_the_estimate_of_full_es():
    """The same eps and no other chance: equal, however the episode is cut."""
    truncation = Truncation.constant(12, 2, stagger=False)
    nres = _estimates(NRES(Linear(), truncation, 5, 0.3), jnp.float32(0.5), 6)
    full = _estimates(FullES(Linear(), truncation, 5, 0.3), jnp.float32(0.5), 6)
    np.testing.assert_allclose(nres.grad.mean(), full.grad[0], rtol=1e-5)
    assert abs(full.grad[0] / full.grad[1] - 1) > 0.01, "the next episode draws anew"


@pytest.mark.parametrize("cls", [PESAnalytic, PESAnalyticPair])
def test_analytic_pes_is_exact_where_windows_are_independent_and_linear(cls):
    gradients = np.zeros((5, 5, 3), np.float32)
    gradients[range(5), range(5)] = np.random.default_rng(0).normal(size=(5, 3))
    truncation = Truncation.constant(5, 1, stagger=False)
    estimator = cls(Quadrant(gradients), truncation, num_pairs=1, sigma=0.1)
    grads = _estimates(estimator, THETA3, 5).grad
    np.testing.assert_allclose(grads, gradients[range(5), range(5)], atol=1e-4)


@EVERY
def test_adding_a_constant_to_the_loss_changes_no_estimate(make):
    class Shifted(Linear):
        def step(self, theta, state, key):
            state, loss = super().step(theta, state, key)
            return state, loss + 8.0

    plain, shifted = (
        _estimates(make(system, Truncation.constant(6, 2), 4, 0.5), jnp.float32(0), 6)
        for system in (Linear(), Shifted())
    )
    np.testing.assert_allclose(plain.grad, shifted.grad, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(plain.loss + 8.0, shifted.loss, rtol=1e-5)


@EVERY
def test_a_loss_even_in_theta_has_no_gradient_at_zero(make):
    class Even(Linear):
        def step(self, theta, state, key):
            state, loss = super().step(theta, state, key)
            return state, loss**2

    estimator = make(Even(), Truncation.constant(6, 2), 4, 0.5)
    np.testing.assert_allclose(
        _estimates(estimator, jnp.float32(0.0), 6).grad, 0.0, atol=2e-5
    )


@EVERY
def test_swapping_the_members_of_a_pair_changes_nothing(make, monkeypatch):
    estimator = make(Spy(2), Truncation.constant(6, 2), 4, 0.5)
    plain = _estimates(estimator, THETA3, 6)
    noise = Perturbable.noise
    monkeypatch.setattr(Perturbable, "noise", lambda *args: -noise(*args))
    jax.clear_caches()
    _assert_same(plain, _estimates(estimator, THETA3, 6))


# Credit: which perturbations weigh which loss.


def _spied_gradient(spied, lane, start, window):
    """What a window of a `Spy` has as derivative under the particle in the centre."""
    noise, first = spied.noise[lane, 2], int(spied.step[lane, 2]) - window
    theta = np.asarray(THETA3)
    total = start.copy()
    gradient = np.zeros(3)
    for step in range(window):
        total = total + theta
        weight = np.sin(1.0 + first + step + np.arange(3)) + noise
        gradient += 2 * weight * total * (step + 1)
    return gradient / window


def _credit_error(make, interval, analytic=False):
    """Largest error of an estimate against bookkeeping done from the outside.

    Every lane has a horizon of its own and a staggered start. Only the states of the
    system are read: they tell the perturbation of each window and when an episode began.
    A perturbation must be in force for ``interval`` windows and then be drawn anew.
    """
    window, num_pairs, sigma = 3, 6, 0.4
    truncation = Truncation.log_uniform(3, 15, window)
    estimator = make(Spy(window), truncation, num_pairs, sigma)
    estimate_window = jax.jit(lambda e, lanes, key: e.estimate(THETA3, lanes, key))
    lanes = estimator.init(THETA3, KEY)
    particles = estimator.particles
    xi, eps, age = np.zeros((num_pairs, 3)), np.zeros((num_pairs, 3)), [0] * num_pairs
    totals = np.zeros((num_pairs, particles, 3))
    worst, episodes = 0.0, 0
    for number, key in enumerate(jax.random.split(KEY, 16)):
        estimate, lanes = estimate_window(estimator, lanes, key)
        if number == 0:  # from here on no two lanes end together
            lanes = lanes._replace(num_windows=2 + jnp.arange(num_pairs))
        spied = jax.tree.map(np.asarray, lanes.system)
        grads = []
        for lane in range(num_pairs):
            if spied.step[lane, 0] == window:  # an episode began with this window
                xi[lane], totals[lane], age[lane] = 0.0, 0.0, 0
                episodes += 1
            starts = totals[lane].copy()
            totals[lane] = spied.total[lane]
            thetas = (totals[lane] - starts) / window
            now = (thetas[0] - thetas[1]) / 2
            redrawn = np.abs(now - eps[lane]).max() > 1e-3
            past = xi[lane].copy()
            if redrawn != (age[lane] % interval == 0):
                return 1.0
            if redrawn:
                xi[lane] += now
            eps[lane] = now
            age[lane] += 1
            delta = np.mean(spied.losses[lane, 0] - spied.losses[lane, 1])
            if analytic:
                h = _spied_gradient(spied, lane, starts[2], window)
                delta = delta - 2 * now @ h
                grads.append(h + past * delta / (2 * sigma**2))
            else:
                grads.append(xi[lane] * delta / (2 * sigma**2))
        expected = np.mean(grads, axis=0)
        error = np.abs(np.asarray(estimate.grad) - expected) / np.abs(expected).max()
        worst = max(worst, float(error.max()))
    assert episodes > 2 * num_pairs, "each lane must be reset for this to mean anything"
    return worst


CREDITS = {
    "NRES": (NRES, 100, False),
    "GPES2": (GPES2, 2, False),
    "GPES3": (GPES3, 3, False),
    "PESAnalytic": (PESAnalytic, 1, True),
}


@pytest.mark.parametrize("case", CREDITS.values(), ids=CREDITS)
def test_every_loss_is_credited_to_the_perturbations_of_its_own_episode(case):
    assert _credit_error(*case) < 2e-4


class DrawsEveryWindow(NRES):
    """Mutant: the perturbation is not reused (truncated ES on the pair's states)."""

    def _window(self, theta, lane, key):
        result, new = super()._window(theta, lane._replace(window=lane.window * 0), key)
        return result, new._replace(window=lane.window + 1)


class NeverDrawsAgain(NRES):
    """Mutant: a reset keeps the perturbation of the episode before."""

    def _window(self, theta, lane, key):
        return super()._window(theta, lane, jax.random.key(0))


class WeighsWithEveryWindow(NRES):
    """Mutant: adds eps once per window, as if it were drawn in each."""

    def _window(self, theta, lane, key):
        result, new = super()._window(theta, lane, key)
        return result._replace(grad=result.grad * new.window), new


class LosesTheLastWindow(NRES):
    """Mutant: the last loss of an episode is not credited to it."""

    def _window(self, theta, lane, key):
        result, new = super()._window(theta, lane, key)
        grad = jnp.where(new.window >= new.num_windows, 0.0, result.grad)
        return WindowResult(grad, *result[1:]), new


class LatestOnly(GPES):
    """Mutant: the perturbation in force in place of the sum."""

    def _window(self, theta, lane, key):
        draws = lane.window % self.interval == 0
        xi = jnp.where(draws, 0.0, lane.xi)
        return super()._window(theta, lane._replace(xi=xi), key)


class CountsFromTheFirst(GPES):
    """Mutant: the interval starts one window late."""

    def _window(self, theta, lane, key):
        result, new = super()._window(theta, lane._replace(window=lane.window + 1), key)
        return result, new._replace(window=lane.window + 1)


class InclusivePast(PESAnalytic):
    """Mutant: the window's own perturbation is among those of the past."""

    def _window(self, theta, lane, key):
        eps = theta.noise(key, self.sigma)
        result, new = super()._window(theta, lane._replace(xi=lane.xi + eps), key)
        return result, new._replace(xi=lane.xi + eps)


class HalfTheControl(PESAnalytic):
    """Mutant: subtracts eps . h from the difference of two losses, not 2 eps . h."""

    def _window(self, theta, lane, key):
        eps = theta.noise(key, self.sigma)
        result, new = super()._window(theta, lane, key)
        h = super()._window(theta, lane._replace(xi=lane.xi * 0), key)[0].grad
        more = lane.xi * jnp.sum(eps * h) / (2 * self.sigma**2)
        return result._replace(grad=result.grad + more), new


MUTANTS = {
    DrawsEveryWindow: (100, False),
    NeverDrawsAgain: (100, False),
    WeighsWithEveryWindow: (100, False),
    LosesTheLastWindow: (100, False),
    functools.partial(LatestOnly, interval=2): (2, False),
    functools.partial(CountsFromTheFirst, interval=2): (2, False),
    InclusivePast: (1, True),
    HalfTheControl: (1, True),
}


@pytest.mark.parametrize(
    "mutant", MUTANTS, ids=lambda m: getattr(m, "func", m).__name__
)
def test_the_credit_test_notices_a_broken_estimator(mutant):
    assert _credit_error(mutant, *MUTANTS[mutant]) > 0.02


# Unbiasedness, by z-tests with power.

SIGMA, THETA = 0.2, 0.9
NUM_PAIRS = 400_000
INDEPENDENT = 4 * THETA**3  # 2.916: noise of its own in each of the 4 steps
HALVES = 4 * THETA * (THETA**2 + SIGMA**2)  # 3.060: in steps 1-2 and in steps 3-4
SHARED = 4 * THETA**3 + 12 * THETA * SIGMA**2  # 3.348: one for all steps
THREE_AND_ONE = 4 * THETA**3 + 6 * THETA * SIGMA**2  # 3.132: in 1-3 and in 4
# Published analytic form, two windows: the second one's share is 2 theta theta^2.
UNSMOOTHED = 2 * THETA * (THETA**2 + SIGMA**2) + 2 * THETA**3  # 2.988
MEANS = {
    "NRES-1": (NRES, 1, SHARED),
    "NRES-2": (NRES, 2, SHARED),
    "NRES-4": (NRES, 4, SHARED),
    "GPES1-1": (GPES, 1, INDEPENDENT),
    "GPES2-1": (GPES2, 1, HALVES),
    "GPES3-1": (GPES3, 1, THREE_AND_ONE),
    "GPES2-2": (GPES2, 2, SHARED),
    "PESAnalytic-1": (PESAnalytic, 1, INDEPENDENT),
    "PESAnalytic-2": (PESAnalytic, 2, UNSMOOTHED),
    "PESAnalytic-4": (PESAnalytic, 4, INDEPENDENT),
    "PESAnalyticPair-1": (PESAnalyticPair, 1, INDEPENDENT),
    "PESAnalyticPair-2": (PESAnalyticPair, 2, HALVES),
    "PESAnalyticPair-4": (PESAnalyticPair, 4, SHARED),
}


@functools.cache
def _episode_gradient(make, system_class, window, num_pairs=NUM_PAIRS):
    """Estimate and standard error of the gradient of the summed loss of 4 steps."""
    truncation = Truncation.constant(4, window, stagger=False)
    batches = 40

    def one(key):
        estimator = make(system_class(), truncation, num_pairs // batches, SIGMA)
        grads = _estimates(estimator, jnp.float32(THETA), 4 // window, key).grad
        return 4 * jnp.mean(grads)

    samples = np.asarray(jax.lax.map(one, jax.random.split(KEY, batches)), np.float64)
    return float(samples.mean()), float(samples.std(ddof=1) / np.sqrt(batches))


@pytest.mark.parametrize("case", MEANS.values(), ids=MEANS)
def test_the_mean_estimate_is_the_gradient_of_the_smoothed_loss(case):
    """A wrong smoothing is found: the nearest other truth is >= 4.5 errors away."""
    make, window, truth = case
    mean, error = _episode_gradient(make, Multilinear, window)
    others = {INDEPENDENT, HALVES, SHARED, THREE_AND_ONE, UNSMOOTHED} - {truth}
    assert error < 0.01 * truth
    assert all(abs(truth - other) > 4.5 * error for other in others), "no power"
    assert abs(mean - truth) < 4 * error + 1e-4


@pytest.mark.parametrize("window", [1, 2])
@EVERY
def test_the_whole_gradient_of_a_linear_system_is_found(make, window):
    """Power: the gradient 10 to 1 %; without the past it would be 4 or 6."""
    mean, error = _episode_gradient(make, Linear, window)
    assert error < 0.0025 * 10
    assert abs(mean - 10) < 4 * error


@EVERY
def test_staggered_lanes_of_different_horizons_average_to_the_true_gradient(make):
    """Per step, an episode of T steps of `Linear` has mean gradient (T + 1) / 2."""
    estimator = make(Linear(), Truncation.log_uniform(2, 8, 2), 2000, 0.2)
    grads = np.asarray(_estimates(estimator, jnp.float32(0.5), 400).grad)[40:]
    lengths = np.arange(1, 5)
    chance = np.log1p(1 / lengths) / np.log(5)
    # Lanes spend time in proportion to length, and weigh every window alike.
    truth = np.sum(chance * lengths * (2 * lengths + 1) / 2) / np.sum(chance * lengths)
    blocks = grads.reshape(36, 10).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(36)
    assert error < 0.01 * truth
    assert abs(blocks.mean() - truth) < 4 * error


@EVERY
def test_the_start_of_an_episode_gets_its_gradient(make):
    """With s_0 = T theta made by `begin`, the mean loss has gradient T."""
    estimator = make(Begun(), Truncation.constant(6, 2), 100_000, 0.2)
    grads = np.asarray(_estimates(estimator, jnp.float32(0.5), 33).grad)[3:]
    assert abs(grads.mean() / 6 - 1) < 0.02


# Variance.


def _pes_variance(g, past_only=False):
    """Total variance of an episode's PES with g[t, tau] = dL_t / dtheta_tau.

    E[(xi_s . a_s)(xi_t . a_t)] of Gaussians; with analytic gradients both sums end one
    window earlier.
    """
    windows, _, size = g.shape
    variance = 0.0
    for s in range(windows):
        for t in range(windows):
            m = min(s, t) + (0 if past_only else 1)
            variance += size * m * np.sum(g[s, :m] * g[t, :m])
            variance += g[s, :m].sum(axis=0) @ g[t, :m].sum(axis=0)
    return variance


def _merged(g, interval):
    """The gradients of intervals of windows, from those of windows."""
    starts = np.arange(0, len(g), interval)
    return np.add.reduceat(np.add.reduceat(g, starts, axis=0), starts, axis=1)


def _gradients(structure, windows=4, size=3):
    rng = np.random.default_rng(0)
    g = np.zeros((windows, windows, size))
    for t in range(windows):
        for tau in range(t + 1):
            if structure == "dense":
                g[t, tau] = rng.normal(size=size)
            elif tau == t:
                tied = np.linspace(1, 2, size)
                g[t, tau] = tied if structure == "tied" else rng.normal(size=size)
    return g


def _measured_variance(make, g, repeats=100_000):
    """Variance of an episode's estimate, summed over theta, and its standard error."""
    windows, _, size = g.shape
    system = Quadrant(g.astype(np.float32))
    truncation = Truncation.constant(windows, 1, stagger=False)

    def episode(key):
        estimator = make(system, truncation, 1, 0.1)
        return _estimates(estimator, jnp.zeros(size), windows, key).grad.sum(axis=0)

    totals = jax.lax.map(episode, jax.random.split(KEY, repeats), batch_size=10_000)
    totals = np.asarray(totals, np.float64)
    squares = np.sum((totals - g.sum(axis=(0, 1))) ** 2, axis=1)
    return squares.mean(), squares.std() / np.sqrt(repeats), totals.mean(axis=0)


@pytest.mark.parametrize("structure", ["tied", "independent", "dense"])
@pytest.mark.parametrize("name", ["PES", "NRES", "GPES2", "GPES3", "PESAnalytic"])
def test_the_variance_follows_its_formula(name, structure):
    """To 4 standard errors of at most 1.5 %: an error of 10 % cannot hide."""
    g = _gradients(structure)
    make, truth = {
        "PES": (PES, _pes_variance(g)),
        "NRES": (NRES, (3 + 1) * np.sum(g.sum(axis=(0, 1)) ** 2)),
        "GPES2": (GPES2, _pes_variance(_merged(g, 2))),
        "GPES3": (GPES3, _pes_variance(_merged(g, 3))),
        "PESAnalytic": (PESAnalytic, _pes_variance(g, past_only=True)),
    }[name]
    variance, error, mean = _measured_variance(make, g)
    assert error <= 0.015 * truth + 1e-6
    assert abs(variance - truth) < 4 * error + 1e-6
    bound = 6 * (truth / 100_000) ** 0.5 + 1e-4
    np.testing.assert_allclose(mean, g.sum(axis=(0, 1)), atol=bound)


@pytest.mark.parametrize("cls", [PESAnalytic, PESAnalyticPair])
def test_analytic_gradients_lower_the_variance_on_a_smooth_problem(cls):
    plain = _episode_gradient(PES, Multilinear, 2)[1]
    assert _episode_gradient(cls, Multilinear, 2)[1] < 0.8 * plain


@EVERY
def test_common_random_numbers_keep_chance_out_of_the_difference(make):
    class Noisy(Linear):
        def init(self, key):
            return jax.random.normal(key, ()) * 100.0

        def step(self, theta, state, key):
            state, loss = super().step(theta, state, key)
            return state, loss + 100.0 * jax.random.normal(key, ())

    quiet, noisy = (
        _estimates(make(system, Truncation.constant(4, 2), 6, 0.5), jnp.float32(0.1), 8)
        for system in (Linear(), Noisy())
    )
    np.testing.assert_allclose(quiet.grad, noisy.grad, rtol=1e-2, atol=2e-3)


# Divergence, devices, diagnostics.


@EVERY
@pytest.mark.parametrize("cap", [None, 5.0])
def test_diverged_lanes_are_contained_and_counted(make, cap):
    estimator = make(Diverging(), Truncation.constant(8, 4), 16, 0.1, loss_cap=cap)
    estimate = _estimates(estimator, jnp.float32(1.0), 8)
    assert np.all(np.isfinite(estimate.grad)) and np.all(np.isfinite(estimate.loss))
    assert 0.1 < np.asarray(estimate.metrics["guarded"]).mean() < 0.6


@pytest.mark.parametrize("cls", [PESAnalytic, PESAnalyticPair])
def test_without_a_finite_gradient_a_lane_makes_the_estimate_of_pes(cls):
    class Cusp(Linear):
        """sqrt(max(s - 5, 0)) is finite, its derivative below 5 is not."""

        def step(self, theta, state, key):
            state, loss = super().step(theta, state, key)
            return state, loss + jnp.sqrt(jnp.maximum(loss - 5.0, 0.0))

    truncation = Truncation.constant(6, 2)
    analytic, plain = (
        _estimates(make(Cusp(), truncation, 8, 0.1), jnp.float32(0.1), 9)
        for make in (cls, PES)
    )
    np.testing.assert_allclose(analytic.grad, plain.grad, rtol=1e-5)
    np.testing.assert_array_equal(analytic.metrics["guarded"], 1.0)


@EVERY
def test_devices_and_turns_change_no_estimate(make):
    def run(**options):
        truncation = Truncation.log_uniform(2, 8, 2)
        return _estimates(make(Spy(2), truncation, 16, 0.3, **options), THETA3, 6)

    once = run()
    for options in ({"mesh": lane_mesh()}, {"lane_batch": 3}):
        other = run(**options)
        scale = np.abs(np.asarray(once.grad)).max()
        np.testing.assert_allclose(once.grad, other.grad, rtol=1e-3, atol=1e-4 * scale)
        assert set(once.metrics) == set(other.metrics)


@pytest.mark.parametrize("make", [*ESTIMATORS.values(), PES, TruncatedES, FullES])
def test_the_noise_ratio_is_near_one_whatever_the_estimator(make):
    truncation = Truncation.constant(8, 1, stagger=False)
    ratio = _estimates(make(Spy(1), truncation, 2000, 0.1), jnp.zeros(3), 8)
    # The norm of 3 normal numbers is .92 of its root mean square.
    np.testing.assert_allclose(ratio.metrics["noise_ratio"], 0.9213, atol=0.04)


def test_an_interval_of_no_window_is_an_error():
    with pytest.raises(ValueError, match="interval must be at least 1 window, got 0"):
        GPES(Linear(), Truncation.constant(4, 2), 1, interval=0)


@pytest.mark.parametrize(
    ("cls", "steps"),
    [
        (PES, 2 * 4),
        (GPES, 2 * 4),
        (NRES, 2 * 4),
        (TruncatedES, 3 * 4),
        (PESAnalytic, 3 * 4),
        (PESAnalyticPair, 3 * 4),
        (FullES, 2 * 12),
    ],
)
def test_an_estimate_counts_the_steps_that_its_particles_take(cls, steps):
    estimator = cls(Linear(), Truncation.constant(12, 4, stagger=False), num_pairs=5)
    assert estimator.inner_steps() == pytest.approx(5 * steps)


def test_the_steps_of_whole_episodes_are_counted_on_average():
    truncation = Truncation.log_uniform(4, 40, 4, stagger=False)
    estimator = FullES(Linear(), truncation, num_pairs=4000)
    lanes = estimator.init(jnp.float32(0.0), jax.random.key(0))
    _, lanes = estimator.estimate(jnp.float32(0.0), lanes, jax.random.key(1))
    taken = 2 * 4 * int(jnp.sum(lanes.window))
    assert estimator.inner_steps() == pytest.approx(taken, rel=0.05)
