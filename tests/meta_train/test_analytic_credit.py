"""Estimators that differentiate credit every loss to its own episode; broken ones do not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analytic_systems import (
    KEY,
    PROBLEMS,
    THETA,
    first_episode,
    lockstep,
)
from meta_systems import Spy

from meta_train.estimators.analytic import choose
from meta_train.estimators.bptt import BPTT
from meta_train.estimators.dodge import DODGE
from meta_train.estimators.rtrl import RTRL
from meta_train.estimators.tbptt import TBPTT
from meta_train.truncation import Truncation


def _credit_error(cls, kind) -> float:
    """Largest error of an estimate against bookkeeping done from the outside.

    Lanes have different horizons and staggered starts, and theta moves between windows.
    Only the states of the system are read: a loss ``c_t . total_t^2`` of `Spy` at step t
    has the derivative ``2 c_t total_t t`` by a theta common to all t steps.
    """
    window, num_lanes = 3, 7
    estimator = cls(Spy(window), Truncation.log_uniform(3, 15, window), num_lanes)
    estimate_window = jax.jit(lambda e, th, lanes, key: e.estimate(th, lanes, key))
    lanes = estimator.init(THETA, KEY)
    worst, horizons = 0.0, set()
    for n, key in enumerate(jax.random.split(KEY, 12)):
        theta = THETA * (1 + 0.3 * np.cos(n)) if kind is not BPTT else THETA
        estimate, lanes = estimate_window(estimator, theta, lanes, key)
        spied = jax.tree.map(np.asarray, lanes.system)
        grads = []
        for lane in range(num_lanes):
            end = int(spied.step[lane])
            if kind is BPTT:
                end = int(lanes.num_windows[lane]) * window
            steps = np.arange(end if kind is BPTT else window)[::-1]
            t = (end - steps)[:, None]
            total = end * theta if kind is BPTT else spied.total[lane]
            totals = np.asarray(total) - steps[:, None] * np.asarray(theta)
            weights = np.sin(t + np.arange(3)) + spied.noise[lane]
            remembered = t - (end - window) if kind is TBPTT else t
            grad = np.mean(2 * weights * totals * remembered, axis=0)
            if kind is DODGE:
                v = np.asarray(lanes.carried.direction[lane])
                grad = v * (v @ grad)
            grads.append(grad)
            horizons.add(int(lanes.num_windows[lane]))
        expected = np.mean(grads, axis=0)
        error = np.abs(np.asarray(estimate.grad) - expected) / np.abs(expected).max()
        worst = max(worst, float(error.max()))
    assert len(horizons) >= 3, "the lanes must differ for this to mean anything"
    return worst


@pytest.mark.parametrize("cls", [TBPTT, BPTT, RTRL, DODGE])
def test_every_loss_is_credited_to_its_own_episode_and_no_other(cls):
    assert _credit_error(cls, cls) < 1e-4


class ForgetsThePast(RTRL):
    """Mutant: the dependence on theta is lost between windows (TBPTT)."""

    def _window(self, theta, episode, key):
        zero = jax.tree.map(jnp.zeros_like, episode.carried)
        return super()._window(theta, episode._replace(carried=zero), key)


class _NeverForgets:
    """Mutant: the dependence on theta survives the reset."""

    def _lane(self, theta, episode, key):
        fresh, begun = self._fresh, episode.num_windows > 0

        def keeping(*args):
            new = fresh(*args)
            return new._replace(carried=choose(begun, episode.carried, new.carried))

        object.__setattr__(self, "_fresh", keeping)
        try:
            return super()._lane(theta, episode, key)
        finally:
            object.__delattr__(self, "_fresh")


class RTRLNeverForgets(_NeverForgets, RTRL):
    pass


class DODGENeverForgets(_NeverForgets, DODGE):
    pass


class SumsTheLosses(BPTT):
    """Mutant: the sum over windows in place of the mean."""

    def _window(self, theta, episode, key):
        slope, episode = super()._window(theta, episode, key)
        return slope._replace(grad=slope.grad * episode.num_windows), episode


class NoticesNoEnd(BPTT):
    """Mutant: every episode is as long as the longest."""

    def _window(self, theta, episode, key):
        count = jnp.full_like(episode.num_windows, self.truncation.max_windows)
        slope, after = super()._window(theta, episode._replace(num_windows=count), key)
        return slope, after._replace(num_windows=episode.num_windows)


class LooksBack(TBPTT):
    """Mutant: credits the window's first state with half of the steps before it."""

    def _window(self, theta, episode, key):
        slope, after = super()._window(theta, episode, key)
        return slope._replace(grad=slope.grad * (1 + 0.5 * episode.window)), after


class TurnsAround(DODGE):
    """Mutant: a new direction in every window, the derivative along the old one."""

    def _window(self, theta, episode, key):
        slope, after = super()._window(theta, episode, key)
        new = jax.random.rademacher(key, theta.flat.shape, theta.flat.dtype)
        return slope, after._replace(carried=after.carried._replace(direction=new))


@pytest.mark.parametrize(
    ("mutant", "kind"),
    [
        (ForgetsThePast, RTRL),
        (RTRLNeverForgets, RTRL),
        (DODGENeverForgets, DODGE),
        (TurnsAround, DODGE),
        (LooksBack, TBPTT),
    ],
)
def test_the_credit_test_notices_a_broken_estimator(mutant, kind):
    assert _credit_error(mutant, kind) > 0.05


@pytest.mark.parametrize("mutant", [SumsTheLosses, NoticesNoEnd])
def test_the_credit_test_notices_an_episode_taken_wrongly(mutant):
    assert _credit_error(mutant, BPTT) > 0.05


def test_forwards_and_backwards_agree_only_where_nothing_is_forgotten():
    system, theta = PROBLEMS["recurrent network"]
    truncation = lockstep(8, 2)
    forgetful = first_episode(ForgetsThePast, system, theta, truncation)
    truth = first_episode(BPTT, system, theta, truncation)
    assert np.abs(forgetful - truth).max() > 0.05 * np.abs(truth).max()
