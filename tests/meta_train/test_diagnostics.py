"""Diagnostics against closed forms: signal-to-noise ratios, cosines, inner times."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from meta_systems import Linear, Quadrant

from meta_train import diagnostics
from meta_train.estimators import BPTT, NRES, PES, FullES, TruncatedES
from meta_train.estimators.estimator import spread
from meta_train.truncation import Truncation

KEY = jax.random.key(0)
# L_1 = (1, 2, 0) . theta_1, L_2 = (0, 1, 1) . theta_1 + (2, 0, 0) . theta_2
GRADIENTS = np.array([[[1, 2, 0], [0, 0, 0]], [[0, 1, 1], [2, 0, 0]]], np.float32)
TRUTH = GRADIENTS.sum(axis=(0, 1)) / 2  # of the mean loss over two steps
LOCKSTEP = Truncation.constant(2, 1, stagger=False)


@pytest.mark.parametrize("kind", [NRES, FullES])
def test_shared_noise_on_a_linear_loss_has_a_signal_to_noise_ratio_of_one_over_p_plus_one(
    kind,
):
    samples = diagnostics.gradients(
        kind(Quadrant(GRADIENTS), LOCKSTEP, 1, 0.1), jnp.zeros(3), KEY, 20_000
    )
    found = diagnostics.quality(samples, TRUTH)
    assert found.snr == pytest.approx(1 / 4, rel=0.1)
    assert found.cosine == pytest.approx(1, abs=0.01)
    assert found.error == pytest.approx(4, rel=0.05)


def test_the_variance_of_pes_follows_its_formula():
    # tr Var = sum over s, t of P min(s, t) sum_u g_su . g_tu + G_s,min . G_t,min
    expected = 0.0
    for s in range(2):
        for t in range(2):
            m = min(s, t) + 1
            inner = np.sum(GRADIENTS[s, :m] * GRADIENTS[t, :m])
            sums = GRADIENTS[s, :m].sum(axis=0) @ GRADIENTS[t, :m].sum(axis=0)
            expected += 3 * m * inner + sums
    samples = diagnostics.gradients(
        PES(Quadrant(GRADIENTS), LOCKSTEP, 1, 0.1), jnp.zeros(3), KEY, 40_000
    )
    found = diagnostics.quality(samples, TRUTH)
    assert found.std**2 == pytest.approx(expected / 4, rel=0.05)


def test_truncation_shows_as_a_cosine_below_one_and_backpropagation_as_no_variance():
    system, theta = Quadrant(GRADIENTS), jnp.zeros(3)
    found = diagnostics.compare(
        {
            "truncated": TruncatedES(system, LOCKSTEP, 1, 0.1),
            "exact": BPTT(system, LOCKSTEP, num_lanes=1),
        },
        theta,
        KEY,
        4_000,
        reference=TRUTH,
    )
    # It sees each window's own gradient only: (1, 2, 0) + (2, 0, 0), without (0, 1, 1).
    seen = np.array([3.0, 2.0, 0.0])
    cosine = seen @ TRUTH / (np.linalg.norm(seen) * np.linalg.norm(TRUTH))
    assert found["truncated"].cosine == pytest.approx(cosine, abs=0.03)
    assert found["exact"].std < 1e-6
    assert found["exact"].single_cosine == pytest.approx(1, abs=1e-6)


def test_the_ratio_that_comes_with_an_estimate_is_that_of_the_mean_over_lanes():
    estimator = NRES(Quadrant(GRADIENTS), LOCKSTEP, 4096, 0.1)
    theta = jnp.zeros(3)
    estimate, _ = estimator.estimate(theta, estimator.init(theta, KEY), KEY)
    # The first window alone: linear, so |g|^2 / ((P + 1) |g|^2 / pairs).
    assert estimate.metrics["snr"] == pytest.approx(4096 / 4, rel=0.15)
    norm = np.linalg.norm(GRADIENTS[0, 0])
    assert estimate.metrics["grad_std"] == pytest.approx(2 * norm, rel=0.1)


def test_lanes_that_estimate_nothing_have_a_ratio_of_zero_and_a_single_lane_has_none():
    zeros, zero = jnp.zeros(3), jnp.float32(0.0)
    assert spread(zeros, zero, 4) == {"grad_std": 0.0, "snr": 0.0}
    assert np.isnan(spread(jnp.ones(3), jnp.float32(3.0), 1)["snr"])


def test_mere_noise_has_a_signal_to_noise_ratio_of_about_zero():
    samples = jax.random.normal(KEY, (2_000, 5))
    assert abs(diagnostics.quality(samples).snr) < 5e-3
    biased = np.sum(np.mean(samples, axis=0) ** 2) / 5
    assert biased > 0  # which is what the correction takes off


@pytest.mark.parametrize("stagger", [True, False])
def test_inner_times_are_flat_when_staggered_and_one_peak_in_lockstep(stagger):
    truncation = Truncation.constant(40, 2, stagger=stagger)
    estimator = PES(Linear(), truncation, 1000, 0.1)
    theta = jnp.float32(1)
    state = estimator.init(theta, KEY)
    for i in range(30):
        _, state = estimator.estimate(theta, state, jax.random.fold_in(KEY, i))
    counts, edges = diagnostics.inner_times(state, truncation, num_bins=5)
    assert counts.sum() == 1000 and edges[-1] == 40
    assert (counts.min() > 150) if stagger else (counts.max() == 1000)
