"""Outliers are skipped, collapses rolled back, and neither for ever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train import safety as safe
from meta_train.safety import Safety

SAFETY = Safety(max_gradient_ratio=100.0, rollback=0.5)


@jax.jit
def _judge_all(norms):
    def step(state, norm):
        accepted, state = safe.judge(SAFETY, state, norm)
        return state, accepted

    return jax.lax.scan(step, safe.start(()), norms)[1]


def _watch_all(losses):
    """Theta counts steps, so a roll-back shows as theta going back."""

    def step(carry, loss):
        theta, state = carry
        theta, state = safe.watch(SAFETY, state, loss, theta + 1)
        return (theta, state), (theta, state.restart)

    theta = jnp.zeros((), jnp.int32)
    scan = jax.jit(lambda start, losses: jax.lax.scan(step, start, losses))
    (_, state), trace = scan((theta, safe.start(theta)), losses)
    return state, *map(np.asarray, trace)


def test_an_outlier_is_skipped_once_there_is_a_usual_size():
    norms = jnp.ones(40).at[2].set(1e6).at[30].set(200.0).at[35].set(50.0)
    accepted = np.asarray(_judge_all(norms))
    assert accepted[2] and accepted[35]
    assert not accepted[30] and accepted.sum() == 39


def test_gradients_that_stay_large_become_usual():
    norms = jnp.ones(200).at[20:].set(1e4)
    accepted = np.asarray(_judge_all(norms))
    assert not accepted[20:60].any() and accepted[-20:].all()


@pytest.mark.parametrize("odd", [0.0, jnp.inf, jnp.nan])
def test_norms_that_say_nothing_change_nothing(odd):
    norms = jnp.ones(40).at[5].set(odd).at[20].set(odd).at[30].set(200.0)
    accepted = np.asarray(_judge_all(norms))
    assert not accepted[30] and accepted[31:].all()
    assert accepted[20] == (odd == 0.0)


def test_a_collapse_goes_back_to_the_theta_of_the_lowest_loss():
    falling = jnp.linspace(1.0, 0.3, 200)
    state, theta, restart = _watch_all(jnp.concatenate([falling, jnp.full(100, 2.0)]))
    (at,) = np.flatnonzero(restart)
    assert 200 < at < 230  # a running mean of 50 steps needs some of them
    assert theta[at - 1] == at and theta[at] <= 201
    assert state.rollbacks == 1


def test_losses_that_stay_high_after_going_back_are_accepted():
    state, theta, restart = _watch_all(jnp.full(1000, 2.0).at[:200].set(0.5))
    assert state.rollbacks == 1 and restart.sum() == 1
    assert theta[-1] > 900


def test_a_loss_that_falls_or_wobbles_is_no_collapse():
    noise = 0.4 * jax.random.normal(jax.random.key(0), (2000,))
    state, theta, _ = _watch_all(1.0 - jnp.arange(2000) / 4000 + noise)
    assert state.rollbacks == 0 and theta[-1] == 2000


def test_steps_without_a_finite_loss_do_not_count():
    losses = jnp.full(200, 0.5).at[::3].set(jnp.nan)
    state, theta, _ = _watch_all(losses)
    assert state.loss == pytest.approx(0.5) and theta[-1] == 200


@pytest.mark.parametrize("wrong", [{"max_gradient_ratio": 1.0}, {"rollback": 0.0}])
def test_impossible_settings_are_errors(wrong):
    with pytest.raises(ValueError):
        Safety(**wrong)


def test_both_can_be_switched_off():
    off = Safety(max_gradient_ratio=float("inf"), rollback=float("inf"))
    state = safe.start(jnp.float32(0.0))
    for _ in range(12):
        accepted, state = safe.judge(off, state, jnp.float32(1.0))
    accepted, _ = safe.judge(off, state, jnp.float32(1e30))
    assert accepted
    state = state._replace(losses=jnp.int32(100), best_loss=jnp.float32(0.1))
    theta, state = safe.watch(off, state, jnp.float32(1e9), jnp.float32(7.0))
    assert theta == 7.0 and not state.restart
