"""The toy regression: its system against plain loops, and the experiment itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.experiments.toy_regression import (
    ToyRegression,
    ToyRegressionSchedule,
    ToyState,
    meta_losses,
    toy_loss,
)


def loss(x):
    ripples = np.sin(x[1]) ** 2 * np.exp(-5 * x[0] ** 2)
    return np.sqrt(x[0] ** 2 + 5) - np.sqrt(5) + ripples + abs(x[1] - 100) / 4


def gradient(x):
    decay = np.exp(-5 * x[0] ** 2)
    return np.array(
        [
            x[0] / np.sqrt(x[0] ** 2 + 5) - 10 * x[0] * np.sin(x[1]) ** 2 * decay,
            np.sin(2 * x[1]) * decay + np.sign(x[1] - 100) / 4,
        ]
    )


def test_a_step_descends_at_the_rate_between_the_two():
    theta, x = jnp.array([-2.0, -1.0]), np.array([0.3, 2.0])
    state = ToyState(jnp.array(x), jnp.float32(25))
    state, found = ToyRegression().step(theta, state, jax.random.key(0))
    x = x - (0.75 * np.exp(-2) + 0.25 * np.exp(-1)) * gradient(x)
    np.testing.assert_allclose(state.x, x, rtol=1e-5)
    assert float(found) == pytest.approx(loss(x), rel=1e-5)
    assert float(state.step) == 26


def test_the_function_vanishes_at_its_minimum():
    # sin(100)^2 is what the ripples leave there.
    assert float(toy_loss(jnp.array([0.0, 100.0]))) == pytest.approx(
        np.sin(100.0) ** 2, abs=1e-5
    )


@pytest.mark.parametrize("theta", [(-4.0, -4.0), (0.0, 0.0)])
def test_the_meta_loss_is_the_sum_over_a_hundred_steps(theta):
    x, total = np.ones(2), 0.0
    for t in range(100):
        rate = (1 - t / 100) * np.exp(theta[0]) + t / 100 * np.exp(theta[1])
        x = x - rate * gradient(x)
        total += loss(x)
    assert float(meta_losses(np.array(theta))) == pytest.approx(total, rel=1e-4)


class Small(ToyRegressionSchedule):
    def contenders(self):
        kept = ("PES", "full ES", "TBPTT")
        return {name: super(Small, self).contenders()[name] for name in kept}


def test_the_experiment_reports_claims_rows_and_a_figure(tmp_path):
    pytest.importorskip("matplotlib")
    small = Small(num_steps=100, num_particles=4, rates=(1e-2, 1e-1), grid=20)
    report = small.run(tmp_path)
    assert len(report.claims) == 2 and len(report.rows) == 3
    assert all(path.stat().st_size > 10_000 for path in report.figures)


@pytest.mark.slow
def test_every_claim_holds_at_the_default_size(tmp_path):
    report = ToyRegressionSchedule().run(tmp_path)
    assert report.reproduced, report.claims
