"""A rate and a momentum per tensor: against one of each, and the experiment."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import Flat, Momentum
from meta_train import InnerTraining, system
from meta_train.experiments.many_hyperparameters import (
    SEARCHED,
    Hyperparameters,
    ManyHyperparameters,
    MomentumPerTensor,
)

KEY = jax.random.key(0)
SMALL = ManyHyperparameters(
    hidden=(8, 8),
    batch_size=8,
    horizon=20,
    num_steps=20,
    num_particles=4,
    rates=(1e-1,),
    num_episodes=2,
)


def test_equal_numbers_for_all_tensors_are_plain_momentum():
    ours = SMALL.system()
    momentum = Momentum(learning_rate=0.1, decay=0.9)
    reference = InnerTraining(ours.task, momentum)
    shared = jnp.ones(6)
    theta = Hyperparameters(np.log(0.1) * shared, np.log(9.0) * shared)
    _, losses = system.episode(ours, theta, KEY, 20)
    _, expected = system.episode(reference, momentum.init(KEY), KEY, 20)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_each_tensor_moves_by_its_own_rate_and_momentum():
    params = {"a": jnp.zeros((2, 2)), "b": jnp.zeros(3)}
    theta = Hyperparameters(jnp.log(jnp.array([0.1, 0.01])), jnp.array([0.0, -100.0]))
    steps = []
    for layout in (None, Flat):
        options = {} if layout is None else {"layout": layout}
        tx = MomentumPerTensor(2).transform(theta, **options)
        state = tx.init(params)
        for _ in range(3):
            grads = jax.tree.map(jnp.ones_like, params)
            updates, state = tx.update(grads, state, params)
        steps.append(updates)
    np.testing.assert_allclose(steps[0]["a"], -0.1 * 1.75, rtol=1e-5)  # 1 + 1/2 + 1/4
    np.testing.assert_allclose(steps[0]["b"], -0.01, rtol=1e-5)
    jax.tree.map(np.testing.assert_allclose, steps[0], steps[1])


def test_random_hyperparameters_fill_their_range():
    theta = jax.vmap(lambda key: SEARCHED.draw(key, 12))(jax.random.split(KEY, 500))
    rates = np.exp(theta.log_rate)
    momenta = np.asarray(jax.nn.sigmoid(theta.logit_momentum))
    assert 0.9e-8 < rates.min() < 2e-8 and 5 < rates.max() < 10.1
    assert 0.0099 < momenta.min() < 0.011 and 0.998 < momenta.max() < 0.9991
    # Uniform in the logarithm: half of the rates are below the geometric mean.
    assert np.mean(rates < np.sqrt(1e-8 * 10)) == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow  # half a minute of compiling
def test_a_short_run_reports_every_method(tmp_path):
    report = SMALL.run(tmp_path)
    assert [row["method"] for row in report.rows][:3] == [
        "PES",
        "NRES",
        "random search",
    ]
    assert len({row["inner steps"] for row in report.rows}) == 1  # equal compute
    assert all(path.exists() for path in report.figures)
    assert len(report.claims) == 2


@pytest.mark.slow
def test_every_claim_holds(tmp_path):
    report = ManyHyperparameters().run(tmp_path)
    failed = [claim for claim in report.claims if not claim.holds]
    assert not failed
