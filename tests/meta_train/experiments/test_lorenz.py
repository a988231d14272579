"""The Lorenz system, and how its experiment judges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train import surface
from meta_train.experiments.contest import inner_steps
from meta_train.experiments.descent import Trace
from meta_train.experiments.lorenz import LearningLorenz, Lorenz
from meta_train.system import episode

KEY = jax.random.key(0)
TRUTH = jnp.log(jnp.array([10.0, 28.0]))
START = jnp.array([3.116, 3.7])


def test_the_truth_has_no_loss():
    _, losses = episode(Lorenz.observed(500), TRUTH, KEY, 500)
    np.testing.assert_allclose(losses, 0, atol=1e-4)


def test_a_step_is_one_of_euler_s_method():
    system = Lorenz.observed(20)
    state = system.init(KEY)
    x, y, z = 1.2, 1.3, 1.6
    for i in range(20):
        state, loss = system.step(START, state, KEY)
        a, r, b = np.exp(3.116), np.exp(3.7), 8 / 3
        dx, dy, dz = a * (y - x), (r - z) * x - y, x * y - b * z
        x, y, z = x + 0.005 * dx, y + 0.005 * dy, z + 0.005 * dz
        np.testing.assert_allclose(state.position, [x, y, z], rtol=1e-4)
        expected = (z - float(system.target[i])) ** 2
        np.testing.assert_allclose(loss, expected, rtol=1e-3, atol=1e-5)


def test_windows_see_what_was_observed_in_them():
    system = Lorenz.observed(30)
    state, _ = episode(system, START, KEY, 10)
    np.testing.assert_array_equal(system.inputs(state, KEY, 5), system.target[10:15])


def test_derivatives_are_those_of_ridges_and_not_of_the_bowl():
    system = Lorenz.observed(2000)
    raw = surface.meta_loss(system, KEY[None], 2000)
    smooth = surface.smoothed(raw, 0.04, KEY, 32)
    between = 0.5 * (TRUTH + START)
    slope = np.linalg.norm(jax.jit(jax.grad(raw))(between))
    ends = surface.line(smooth, TRUTH, START - TRUTH, np.array([0.25, 0.75]))
    width = 0.5 * np.linalg.norm(START - TRUTH)
    assert slope > 100 * (ends[1] - ends[0]) / width > 0


def test_the_best_rate_is_the_fastest_of_those_that_arrive():
    experiment = LearningLorenz(rates=(1, 2, 3, 4), seeds=(0, 1, 2))
    # By rate: never there, there for a moment, there at last, there soon.
    curves = [[9, 9, 9, 9], [1, 9, 9, 9], [9, 9, 9, 1], [9, 9, 1, 1]]
    theta = np.array(curves, np.float32)[:, None, :, None]
    theta = np.broadcast_to(theta, (4, 3, 4, 2))
    trace = Trace(np.arange(1, 5), theta, {})
    nres = experiment.estimators(Lorenz.observed(2000))["NRES"]
    found = experiment._finding(nres, trace, lambda flat: flat[:, 0], target=2)
    assert found.arrives and found.run.rate == 4
    np.testing.assert_array_equal(found.sequential, [300] * 3)
    np.testing.assert_array_equal(found.steps, [3 * 200 * 100] * 3)
    none = experiment._finding(nres, trace, lambda flat: flat[:, 0], target=0.5)
    assert not none.arrives and none.run.rate == 3
    assert np.all(np.isinf(none.steps))


def test_updates_cost_the_same():
    experiment = LearningLorenz()
    estimators = experiment.estimators(Lorenz.observed(2000))
    costs = {name: inner_steps(estimator) for name, estimator in estimators.items()}
    assert costs.pop("BPTT") == 2000
    assert costs.pop("truncated ES") == 30_000
    assert set(costs.values()) == {20_000}


@pytest.fixture
def one_device(monkeypatch):
    """Each program is compiled once instead of once for every device."""
    device = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: device)


@pytest.mark.slow  # a quarter of a minute of compiling
@pytest.mark.usefixtures("one_device")
def test_a_short_run_reports_every_estimator(tmp_path):
    experiment = LearningLorenz(
        num_updates=4,
        records=2,
        num_pairs=2,
        horizon=40,
        window=20,
        rates=(1e-6, 1.0),
        draws=2,
    )
    report = experiment.run(tmp_path)
    named = [row["estimator"] for row in report.rows]
    assert named == list(experiment.estimators(Lorenz.observed(40)))
    assert all(path.exists() for path in report.figures)
    assert len(report.claims) == 10


@pytest.mark.slow
def test_every_claim_but_one_holds(tmp_path):
    report = LearningLorenz().run(tmp_path)
    failed = [claim.text for claim in report.claims if not claim.holds]
    # Full ES goes along two directions with few pairs as well as NRES with many.
    assert failed in ([], ["NRES needs fewer inner steps than full ES"])
