"""Estimators against each other: what they cost, which rate represents them, the judge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train import surface
from meta_train.estimators import NRES, PES, TBPTT, FullES, TruncatedES
from meta_train.experiments.contest import Contender, inner_steps, jobs, meta_losses
from meta_train.experiments.influence_balancing import Influence
from meta_train.truncation import Truncation

TRUNCATION = Truncation.constant(40, 4)
KEYS = jax.random.split(jax.random.key(0), 2)


def judge(thetas, axes):
    return meta_losses(Influence(), thetas, axes, keys=KEYS, num_steps=40, cap=1e3)


@pytest.mark.parametrize(
    ("estimator", "steps"),
    [
        (PES(Influence(), TRUNCATION, 3), 24),
        (NRES(Influence(), TRUNCATION, 3), 24),
        (TruncatedES(Influence(), TRUNCATION, 3), 36),
        (FullES(Influence(), TRUNCATION, 3), 240),
        (TBPTT(Influence(), TRUNCATION, 3), 12),
    ],
    ids=lambda x: type(x).__name__,
)
def test_compute_counts_every_particle(estimator, steps):
    assert inner_steps(estimator) == steps


def test_the_judge_unrolls_whole_episodes_of_every_theta():
    thetas = np.float32([[0.5, -0.2, 0.1], [1.0, 2.0, 30.0]])
    losses = judge(thetas, 2)
    height = surface.meta_loss(Influence(), KEYS, 40, cap=1e3)
    expected = [[float(height(theta)) for theta in row] for row in thetas]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses[1, 2] < 1e3  # the first steps are below the cap


def test_a_contender_is_represented_by_its_best_rate():
    estimator = TBPTT(Influence(), Truncation.constant(40, 40), 1)
    found = jobs(
        {"TBPTT": Contender(estimator, 20)},
        lambda key: jnp.float32(0.5),
        judge,
        rates=(1e-4, 3e-2, 1e-3),
        seeds=(0, 1, 2),
        records=5,
    )
    run = found["TBPTT"]()
    assert run.rate == 3e-2  # the only one that gets anywhere in so few steps
    np.testing.assert_array_equal(run.cost, 40 * 4 * np.arange(1, 6))
    np.testing.assert_allclose(run.losses, judge(run.theta, 2), rtol=1e-5)
    assert np.all(run.losses[:, -1] < run.losses[:, 0])
