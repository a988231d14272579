"""Short-horizon bias: closed forms against samples, and the experiment itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.estimators import PES
from meta_train.experiments import short_horizon_bias
from meta_train.experiments.short_horizon_bias import (
    NoisyQuadratic,
    ShortHorizonBias,
    greedy,
    meta_losses,
    schedule,
)
from meta_train.system import episode
from meta_train.truncation import Truncation

SYSTEM = NoisyQuadratic(jnp.logspace(0, -3, 50), 100)


def test_the_rate_decays_from_the_first_to_the_last():
    theta = jnp.array([np.log(0.5), np.log(2.0)])
    assert float(schedule(theta, 0.0)) == pytest.approx(0.5)
    assert float(schedule(theta, 1.0)) == pytest.approx(0.5 / 11**2, rel=1e-5)


def test_the_exact_meta_loss_is_the_mean_over_samples():
    theta = jnp.array([-0.5, 0.2])
    losses = jax.vmap(lambda key: episode(SYSTEM, theta, key, 100)[1].sum())(
        jax.random.split(jax.random.key(0), 4000)
    )
    error = float(jnp.std(losses)) / np.sqrt(4000)
    exact = float(meta_losses(SYSTEM, theta))
    assert error < 0.01 * exact
    assert abs(float(jnp.mean(losses)) - exact) < 4 * error


def test_one_curvature_without_decay_has_a_geometric_meta_loss():
    # m_t = q^t + (1 - q^t) lr^2 h^2 s / (1 - q), q = (1 - lr h)^2
    h, rate, noise = 0.5, 0.3, 0.01 / 0.5
    system = NoisyQuadratic(jnp.array([h]), 20)
    decayed = ((1 - rate * h) ** 2) ** np.arange(1, 21)
    floor = (rate * h) ** 2 * noise / (1 - (1 - rate * h) ** 2)
    expected = 0.5 * h * np.sum(decayed + (1 - decayed) * floor)
    found = meta_losses(system, jnp.array([np.log(rate), -40.0]))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_a_rate_beyond_twice_the_inverse_curvature_diverges():
    system = NoisyQuadratic(jnp.ones(3), 1000)
    losses = meta_losses(system, jnp.array([[np.log(3.0), -40.0], [-1.0, 0.0]]))
    assert losses[0] == np.inf and np.isfinite(losses[1])


def test_no_other_first_rate_beats_the_greedy_one_on_the_first_step():
    rates, losses = greedy(SYSTEM)
    one = NoisyQuadratic(SYSTEM.curvature, 1)
    logs = np.log(np.linspace(0.2, 1.9, 400))
    thetas = np.stack([logs, np.full_like(logs, -40.0)], axis=1)
    others = meta_losses(one, thetas)
    assert float(losses[0]) <= others.min() + 1e-6
    best = np.exp(logs[np.argmin(others)])
    assert float(rates[0]) == pytest.approx(best, abs=0.01)


def test_greed_costs_more_than_it_gains():
    system = NoisyQuadratic(SYSTEM.curvature, 1000)
    rates, losses = greedy(system)
    # Near the optimum of a long run the rate stays higher and pays in the end.
    patient = meta_losses(system, jnp.array([0.5, 0.3]))
    assert float(losses.sum()) > 2 * float(patient)
    assert float(rates[-1]) < 0.5 * float(schedule(jnp.array([0.5, 0.3]), 1.0))


class Small(ShortHorizonBias):
    """Every name has the same small estimator, which compiles once."""

    def contenders(self, system):
        windows = Truncation.constant(self.horizon, 10)
        pes = PES(system, windows, 2, self.sigma, self.loss_cap)
        return dict.fromkeys(super().contenders(system), (pes, 40))


def test_the_experiment_reports_claims_rows_and_a_figure(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    traces = {}

    def once(jobs):
        traces.update(dict.fromkeys(jobs, next(iter(jobs.values()))()))
        return traces

    monkeypatch.setattr(short_horizon_bias, "concurrently", once)
    small = Small(num_steps=100, horizon=100, rates=(1e-2, 1e-1), grid=10)
    report = small.run(tmp_path)
    assert len(report.claims) == 10 and len(report.rows) == 10
    assert all(path.stat().st_size > 10_000 for path in report.figures)


def test_estimators_take_about_equally_many_inner_steps():
    contenders = ShortHorizonBias().contenders(SYSTEM)
    assert {cost for _, cost in contenders.values()} == {500, 1000, 1500, 2000}


@pytest.mark.slow
def test_short_windows_miss_what_pes_nres_and_whole_episodes_reach(tmp_path):
    report = ShortHorizonBias().run(tmp_path)
    verdicts = {claim.text: claim.holds for claim in report.claims}
    # At its best rate truncated ES wanders, and one seed of three may end anywhere.
    del verdicts["truncated ES, window 10: ends at too low a rate"]
    assert len(verdicts) == 9 and all(verdicts.values()), report.claims
