"""Influence balancing against its closed form."""

import jax
import jax.numpy as jnp
import pytest

from meta_train.experiments.influence_balancing import Influence, InfluenceBalancing
from meta_train.system import episode

KEY = jax.random.key(0)


@pytest.mark.parametrize("theta", [-0.4, -1 / 6, 0.5])
def test_the_loss_in_the_long_run_is_its_closed_form(theta):
    _, losses = episode(Influence(), jnp.float32(theta), KEY, 300)
    assert losses[-1] == pytest.approx((6 * theta + 1) ** 2 / 2, rel=1e-4, abs=1e-6)


def test_one_step_and_the_long_run_pull_theta_in_opposite_directions():
    theta = jnp.float32(0.5)
    state, _ = episode(Influence(), theta, KEY, 300)
    one = jax.grad(lambda theta: Influence().step(theta, state, KEY)[1])(theta)
    all_of_it = jax.grad(lambda theta: episode(Influence(), theta, KEY, 300)[1][-1])
    assert one == pytest.approx(-4, rel=1e-3)
    assert all_of_it(theta) == pytest.approx(24, rel=1e-3)


@pytest.mark.slow  # a quarter of a minute of compiling
def test_a_short_run_reports_every_estimator(tmp_path):
    experiment = InfluenceBalancing(num_steps=100, rates=(1e-4,))
    report = experiment.run(tmp_path)
    assert [row["estimator"] for row in report.rows] == list(experiment.estimators())
    assert all(path.exists() for path in report.figures)
    verdicts = {claim.text.split(":")[0]: claim.holds for claim in report.claims}
    assert verdicts["TBPTT, window 1"]  # wrong from the first step on
    assert not verdicts["RTRL"]  # a hundred steps do not get there


@pytest.mark.slow
def test_every_claim_holds(tmp_path):
    report = InfluenceBalancing().run(tmp_path)
    failed = [claim for claim in report.claims if not claim.holds]
    assert not failed
