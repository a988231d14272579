"""Learning to swim: what is run and what is reported."""

import jax
import numpy as np
import pytest

from meta_train.experiments import control
from meta_train.experiments.control import LinearSwimmer
from meta_train.experiments.swimmer import Pose

TINY = {"budget": 4000, "every": 2000, "num_pairs": 2, "rates": (0.1, 1.0)}


class Drifter:
    """Compiles in no time: it drifts as fast as one entry of theta says."""

    def init(self, key):
        return Pose(*jax.random.normal(key, (2, 5)))

    def step(self, theta, state, key):
        return state, -theta[0, 0] + 0.0 * theta.sum()


@pytest.fixture
def drifter(monkeypatch):
    monkeypatch.setattr(control, "Swimmer", Drifter)


@pytest.fixture
def one_device(monkeypatch):
    """Each program is compiled once instead of once for every device."""
    device = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: device)


@pytest.mark.usefixtures("drifter", "one_device")
def test_a_short_run_reports_every_estimator(tmp_path):
    experiment = LinearSwimmer(**TINY, seeds=(0, 1, 2))
    report = experiment.run(tmp_path)
    assert [row["estimator"] for row in report.rows] == list(experiment.estimators())
    assert all(path.exists() for path in report.figures)
    assert len(report.claims) == 4


@pytest.mark.usefixtures("drifter")
def test_the_return_is_the_sum_over_an_episode_and_never_a_nan():
    thetas = np.zeros((3, 2, 8))
    thetas[:, 0, 0] = 0.25, -1, np.nan
    found = LinearSwimmer().returns(thetas)
    np.testing.assert_allclose(found, [250, -1000, -np.inf], rtol=1e-5)


@pytest.mark.slow
def test_every_claim_holds(tmp_path):
    report = LinearSwimmer().run(tmp_path)
    failed = [claim for claim in report.claims if not claim.holds]
    # The lead of PES over full ES is within what seeds make of it.
    assert all(claim.text.startswith("PES") for claim in failed), failed
