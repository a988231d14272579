"""Surfaces of meta-losses: slopes and roughness in closed form, and the experiment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import Adam
from meta_train.experiments.meta_surface import MetaSurface, roughness, slopes

KEYS = jax.random.split(jax.random.key(0), 5)


@jax.tree_util.register_static
class Ramp:
    """s_t = s_{t-1} + c . theta, L_t = s_t: the mean of T losses has slope (T + 1) / 2."""

    weights = jnp.array([0.3, -0.1, 0.2, 0.05])

    def init(self, key):
        del key
        return jnp.zeros(())

    def step(self, theta, state, key):
        del key
        state = state + 1e-2 * jnp.dot(self.weights, jnp.stack(jax.tree.leaves(theta)))
        return state, state


@jax.tree_util.register_static
class Chaos(Ramp):
    """The logistic map at its most chaotic, started by theta's first number."""

    def init(self, key):
        del key
        return jnp.float32(-1)

    def step(self, theta, state, key):
        del key
        start = 0.5 + 0.1 * jnp.sin(jax.tree.leaves(theta)[0])
        x = jnp.where(state < 0, start, 4 * state * (1 - state))
        return x, x


def test_both_slopes_of_a_ramp_are_that_of_the_ramp():
    theta = list(jnp.zeros(4))
    exact, finite = slopes(Ramp(), theta, KEYS, 8, 0.1)
    assert exact.shape == finite.shape == (5, 8)
    horizons = (np.arange(8) + 2) / 2
    np.testing.assert_allclose(exact, exact[:, :1] * horizons, rtol=1e-4)
    np.testing.assert_allclose(finite, exact, rtol=1e-3, atol=1e-5)


def test_the_mean_square_of_exact_slopes_is_that_of_the_gradient():
    keys = jax.random.split(jax.random.key(1), 20_000)
    exact, _ = slopes(Ramp(), list(jnp.zeros(4)), keys, 1, 0.1)
    squared = 1e-4 * float(jnp.sum(Ramp.weights**2))
    assert float(jnp.mean(exact**2)) == pytest.approx(squared, rel=0.05)


def test_chaos_multiplies_exact_slopes_and_leaves_finite_ones():
    exact, finite = slopes(Chaos(), list(jnp.ones(4)), KEYS, 40, 0.3)
    norm = lambda x: float(jnp.sqrt(jnp.mean(x**2)))
    # The Lyapunov exponent of the map is log 2 a step.
    assert norm(exact[:, 39]) > 1e3 * norm(exact[:, 19])
    assert norm(finite[:, 39]) < 10 * norm(finite[:, 19])


def test_roughness_is_one_for_a_slope_and_counts_every_way_up_and_down():
    slope, valley, saw = [1, 2, 3, 7], [3, 1, 0, 3], [0, 1, 0, 1]
    np.testing.assert_allclose(roughness(np.array([slope, valley, saw])), [1, 2, 3])


class Small(MetaSurface):
    def subjects(self):
        return {"Adam, rate 0.1": (Chaos(), Adam(0.1).init(jax.random.key(0)))}


def test_the_experiment_reports_claims_rows_and_figures(tmp_path):
    pytest.importorskip("matplotlib")
    small = Small(horizon=32, num_pairs=40, num_episodes=4, points=31)
    report = small.run(tmp_path)
    assert len(report.claims) == 4 and len(report.rows) == 2
    # The logistic map is chaotic too.
    assert report.claims[0].holds and report.claims[1].holds
    assert all(path.stat().st_size > 10_000 for path in report.figures)


def test_a_network_is_trained_by_every_optimizer():
    subjects = MetaSurface().subjects()
    assert len(subjects) == 4
    for system, _ in subjects.values():
        state = jax.eval_shape(system.init, jax.random.key(0))
        assert state.params.shape == (64 * 16 + 16 + 16 * 10 + 10,)


@pytest.mark.slow
def test_every_claim_holds_at_the_default_size(tmp_path):
    report = MetaSurface().run(tmp_path)
    assert report.reproduced, report.claims
