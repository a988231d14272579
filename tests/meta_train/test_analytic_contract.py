"""Estimators that differentiate: states of all kinds, divergence, memory, devices, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from analytic_systems import (
    ESTIMATORS,
    KEY,
    THETA,
    estimates,
    lockstep,
)
from meta_systems import Diverging, Linear, Spy

import tasksets
from learned_opt import Adam, NAdamW
from meta_train.devices import lane_mesh
from meta_train.estimators.bptt import BPTT
from meta_train.estimators.dodge import DODGE
from meta_train.estimators.rtrl import RTRL
from meta_train.estimators.tbptt import TBPTT
from meta_train.estimators.uoro import UORO
from meta_train.inner_training import InnerTraining
from meta_train.truncation import Truncation


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_a_state_may_hold_random_keys_counters_and_flags(cls):
    class Keyed:
        def init(self, key):
            return {"chain": key, "total": jnp.zeros(()), "t": jnp.int32(0), "on": True}

        def begin(self, theta, state, num_steps):
            return state | {"on": num_steps > 0}

        def step(self, theta, state, key):
            chain, now = jax.random.split(state["chain"])
            total = state["total"] + theta * state["on"]
            new = {"chain": chain, "total": total, "t": state["t"] + 1, "on": True}
            return new | {"on": state["on"]}, total + jax.random.normal(now)

    class Arrays(Keyed):
        def init(self, key):
            return jax.tree.map(jnp.asarray, super().init(key))

    truncation = Truncation.constant(4, 2)
    plain, keyed = (
        estimates(cls(system, truncation, 6), jnp.float32(0.1), 6)
        for system in (Linear(), Arrays())
    )
    if cls is UORO:  # has its own chance in `begin`
        assert np.all(np.isfinite(keyed.grad))
        return
    np.testing.assert_allclose(plain.grad, keyed.grad, rtol=1e-5)


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize("cap", [None, 5.0])
def test_diverged_losses_are_contained_and_counted(cls, cap):
    estimator = cls(Diverging(), Truncation.constant(8, 4), 16, loss_cap=cap)
    estimate = estimates(estimator, jnp.float32(1.0), 8)
    assert np.all(np.isfinite(estimate.grad)) and np.all(np.isfinite(estimate.loss))
    # Half of the episodes are non-finite from their fourth step of eight on.
    assert 0.1 < np.asarray(estimate.metrics["guarded"]).mean() < 0.6
    assert np.all(estimate.grad <= 1.0) and np.mean(estimate.grad) > 0.3


class Exploding:
    """Some episodes square their state until it overflows, its derivatives with it."""

    def init(self, key):
        bad = jax.random.bernoulli(key)
        return bad, jnp.where(bad, 1e10, 0.5)

    def step(self, theta, state, key):
        bad, x = state
        x = jnp.where(bad, (x * theta) ** 2, x * theta)
        return (bad, x), x


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_lanes_whose_derivatives_overflow_contribute_nothing(cls):
    lanes = 16
    estimator = cls(Exploding(), lockstep(6, 6), lanes, loss_cap=1e4)
    state = estimator.init(jnp.float32(1.0), KEY)
    estimate, state = jax.jit(estimator.estimate)(jnp.float32(1.0), state, KEY)
    bad = int(state.system[0].sum())
    assert 0 < bad < lanes
    assert float(estimate.metrics["guarded"]) == pytest.approx(bad / lanes)
    if cls is not UORO:  # a healthy lane's loss is theta^t / 2
        truth = (lanes - bad) / lanes * 3.5 / 2
        np.testing.assert_allclose(estimate.grad, truth, rtol=1e-5)
    assert np.isfinite(estimate.grad)


def test_the_steps_after_a_planned_end_do_no_harm():
    class Ends(Linear):
        """Loses its derivative for good as soon as an episode is over."""

        def init(self, key):
            return jnp.zeros(()), jnp.zeros(()), jnp.ones(())

        def begin(self, theta, state, num_steps):
            return state[0], state[1], num_steps

        def step(self, theta, state, key):
            x, t, end = state
            x = x + theta * jnp.sqrt(end - t) / jax.lax.stop_gradient(jnp.sqrt(end - t))
            return (x, t + 1, end), x + 0 * jnp.sqrt(end - t - 1 + theta)

    truncation = Truncation.log_uniform(2, 8, 2, stagger=False)
    estimate = estimates(BPTT(Ends(), truncation, 16), jnp.float32(0.5), 3)
    assert np.all(estimate.metrics["guarded"] == 0)
    assert np.all(estimate.grad > 1)


# Memory.


def _temporary_bytes(cls, window, horizon):
    class Wide:
        def init(self, key):
            return jax.random.normal(key, (256,))

        def step(self, theta, state, key):
            state = jnp.tanh(theta * state + jnp.sin(state))
            return state, jnp.mean(state**2)

    estimator = cls(Wide(), lockstep(horizon, window), 1)
    theta = jnp.float32(0.5)
    state = estimator.init(theta, KEY)
    compiled = jax.jit(estimator.estimate).lower(theta, state, KEY).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_running_windows_again_saves_memory(monkeypatch):
    again = [_temporary_bytes(BPTT, 32, 32 * n) for n in (8, 32)]
    monkeypatch.setattr(jax, "checkpoint", lambda f, **_: f)
    stored = [_temporary_bytes(BPTT, 32, 32 * n) for n in (8, 32)]
    assert again[1] < stored[1] / 4
    assert again[1] - again[0] < (stored[1] - stored[0]) / 8


@pytest.mark.parametrize("cls", [RTRL, UORO, DODGE])
def test_forward_estimators_need_no_memory_for_the_past(cls):
    short, long = (_temporary_bytes(cls, window, 256) for window in (8, 256))
    # Keys and losses of the steps, but not their states of 1 KB.
    assert long - short < 256 * 64


# Devices.


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_lanes_on_eight_devices_give_what_one_device_gives(cls):
    mesh = lane_mesh()
    assert mesh is not None and mesh.size == 8
    truncation = Truncation.log_uniform(2, 8, 2)
    one, eight = (
        estimates(cls(Spy(2), truncation, 16, mesh=m), THETA, 6) for m in (None, mesh)
    )
    np.testing.assert_allclose(one.grad, eight.grad, rtol=2e-4, atol=1e-4)
    np.testing.assert_allclose(one.loss, eight.loss, rtol=1e-5)
    assert set(one.metrics) == set(eight.metrics)


@pytest.mark.parametrize("cls", [BPTT, UORO])
def test_lanes_that_take_turns_give_what_all_at_once_give(cls):
    truncation = Truncation.log_uniform(2, 8, 2)
    at_once, turns = (
        estimates(cls(Spy(2), truncation, 6, lane_batch=b), THETA, 6) for b in (None, 2)
    )
    np.testing.assert_allclose(at_once.grad, turns.grad, rtol=2e-4, atol=1e-4)


def test_lanes_that_do_not_divide_over_the_devices_are_an_error():
    estimator = TBPTT(Linear(), Truncation.constant(4, 2), 9, mesh=lane_mesh())
    with pytest.raises(ValueError, match="9 lanes or antithetic pairs do not divide"):
        estimator.init(jnp.float32(0.0), KEY)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"lane_batch": 0}, r"lane_batch is 0, and must be in \[1, inf\)"),
        ({"loss_cap": np.inf}, "loss_cap is inf"),
        ({"num_lanes": 0}, r"num_lanes is 0, and must be in \[1, inf\)"),
    ],
)
@pytest.mark.parametrize("cls", [TBPTT, BPTT, UORO])
def test_numbers_that_make_no_estimate_are_errors(cls, wrong, message):
    with pytest.raises(ValueError, match=message):
        cls(Linear(), Truncation.constant(4, 2), **{"num_lanes": 4} | wrong)


@pytest.mark.parametrize("optimizer", [Adam, NAdamW])
def test_entries_without_a_gradient_do_not_spoil_adams_meta_gradient(optimizer):
    # The corners of the digits are always blank, so their weights never move.
    task = tasksets.get("small_mlp/seed0@digits?hidden=4")
    system = InnerTraining(task, optimizer())
    theta = optimizer().init(jax.random.key(0))
    estimator = BPTT(system, Truncation.constant(4, 2), num_lanes=1)
    key = jax.random.key(1)
    estimate, _ = jax.jit(estimator.estimate)(theta, estimator.init(theta, key), key)
    assert estimate.metrics["guarded"] == 0
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(estimate.grad)]
    assert all(np.isfinite(leaf).all() for leaf in leaves)
    assert any(np.any(leaf != 0) for leaf in leaves)
