"""One outer step: clip, update, skip what is not finite, any optax optimizer."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from meta_systems import Linear

import learned_opt
from meta_train import PES, Estimate, Safety, Truncation, outer

KEY = jax.random.key(0)
ESTIMATOR = PES(Linear(), Truncation.constant(4, 2), num_pairs=8, sigma=0.1)


class _Fixed:
    """An estimator that always says the same."""

    def __init__(self, grad):
        self.grad = jax.tree.map(jnp.float32, grad)

    def init(self, theta, key):
        del theta, key
        return jnp.zeros(())

    def estimate(self, theta, state, key):
        del theta, key
        return Estimate(self.grad, jnp.float32(1.0), {"loss": jnp.float32(1.0)}), state


jax.tree_util.register_pytree_node(
    _Fixed,
    lambda x: ((), (x.grad["a"].item(), x.grad["b"].item())),
    lambda aux, _: _Fixed({"a": aux[0], "b": aux[1]}),
)


def _one_step(grad, clip=0.1):
    theta = {"a": jnp.float32(0.0), "b": jnp.float32(0.0)}
    tx = optax.sgd(1.0)
    estimators = (_Fixed(grad),)
    state = outer.start(estimators, theta, tx, KEY)
    return outer.make_step(tx, clip=clip)(estimators, state)


def test_an_estimator_need_not_measure_what_others_do():
    class Silent(_Fixed):
        def estimate(self, theta, state, key):
            estimate, state = super().estimate(theta, state, key)
            return estimate._replace(metrics={"own": jnp.float32(3.0)}), state

    make = lambda aux, _: Silent({"a": aux[0], "b": aux[1]})
    flat = lambda x: ((), (x.grad["a"].item(), x.grad["b"].item()))
    jax.tree_util.register_pytree_node(Silent, flat, make)
    one, other = Silent({"a": 0.1, "b": 0.0}), _Fixed({"a": 0.0, "b": 0.1})
    step = outer.make_step(optax.sgd(1.0), clip=100.0)
    for estimators, measured in (([one], {"loss", "own"}), ([one, other], {"loss"})):
        theta = {"a": jnp.float32(0.0), "b": jnp.float32(0.0)}
        state = outer.start(estimators, theta, optax.sgd(1.0), KEY)
        state, metrics = step(estimators, state)
        assert metrics["loss"] == 1
        of_step = {"grad_norm", "clipped", "update_norm", "theta_norm", "skipped"}
        assert set(metrics) == measured | of_step | {"lost_groups"}
        np.testing.assert_allclose(state.theta["a"], -0.1 / len(estimators))


def test_what_is_no_pytree_is_told_by_its_name():
    class Plain:
        init, estimate = _Fixed.init, _Fixed.estimate

    tx = optax.sgd(1.0)
    state = outer.start([Plain()], jnp.float32(0.0), tx, KEY)
    with pytest.raises(TypeError, match="a Plain cannot .*register_dataclass"):
        outer.make_step(tx)([Plain()], state)


def test_the_gradient_is_clipped_elementwise():
    state, metrics = _one_step({"a": 5.0, "b": -0.03})
    np.testing.assert_allclose(state.theta["a"], -0.1)
    np.testing.assert_allclose(state.theta["b"], 0.03)
    assert metrics["clipped"] == 0.5


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(bad):
    state, metrics = _one_step({"a": bad, "b": 1.0})
    assert state.theta["a"] == 0.0 and state.theta["b"] == 0.0
    assert state.step == 1 and metrics["skipped"] == 1


def test_descent_follows_the_gradient_of_a_linear_system():
    tx = optax.sgd(0.01)
    state = outer.start((ESTIMATOR,), jnp.float32(0.0), tx, KEY)
    step = outer.make_step(tx, clip=100.0)
    for _ in range(20):
        state, _ = step((ESTIMATOR,), state)
    # Mean gradient per step of an episode of 4: 2.5; the first episodes are cut.
    np.testing.assert_allclose(state.theta, -20 * 0.01 * 2.5, rtol=0.3)


def test_the_same_key_gives_the_same_run():
    def run():
        tx = optax.adam(0.1)
        state = outer.start((ESTIMATOR,), jnp.float32(0.5), tx, KEY)
        step = outer.make_step(tx)
        for _ in range(5):
            state, metrics = step((ESTIMATOR,), state)
        return state.theta, metrics

    jax.tree.map(np.testing.assert_array_equal, run(), run())


def test_the_average_lags_behind_theta_and_starts_as_a_plain_mean():
    tx = optax.sgd(1.0)
    estimators = (_Fixed({"a": -0.1, "b": 0.0}),)
    theta = {"a": jnp.float32(0.0), "b": jnp.float32(0.0)}
    state = outer.start(estimators, theta, tx, KEY)
    step = outer.make_step(tx, average_rate=0.01)
    for _ in range(4):
        state, _ = step(estimators, state)
    np.testing.assert_allclose(state.theta["a"], 0.4, rtol=1e-5)
    np.testing.assert_allclose(
        state.average["a"], np.mean([0.1, 0.2, 0.3, 0.4]), rtol=1e-5
    )


@pytest.mark.parametrize("name", ["scale_free", "hierarchical", "per_parameter_mlp"])
def test_a_learned_optimizer_can_be_the_outer_optimizer(name):
    optimizer = learned_opt.get(name)()
    tx = optimizer.transform(optimizer.init(KEY), num_steps=50)
    theta = {"w": jnp.full((3, 2), 0.5), "b": jnp.zeros(2)}

    class Sum(Linear):
        def step(self, theta, state, key):
            total = sum(jnp.sum(x) for x in jax.tree.leaves(theta))
            return super().step(total, state, key)

    estimator = PES(Sum(), Truncation.constant(4, 2), num_pairs=8, sigma=0.1)
    state = outer.start((estimator,), theta, tx, KEY)
    step = outer.make_step(tx)
    for _ in range(3):
        state, metrics = step((estimator,), state)
    assert np.isfinite(metrics["loss"]) and metrics["skipped"] == 0
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.theta))
    assert not np.array_equal(state.theta["w"], theta["w"])


_UNREAD_STEPS = """
import jax

jax.config.update("jax_num_cpu_devices", 2)
import learned_opt, optax, tasksets
from meta_train import PES, InnerTraining, Truncation, outer
from meta_train.devices import lane_mesh, replicate

mesh = lane_mesh()
task = replicate(tasksets.get("small_mlp/seed3@digits"), mesh)
system = InnerTraining(task, learned_opt.Adam(), train_weight=1.0)
pes = PES(system, Truncation.constant(200, 20), 8, mesh=mesh)
tx = optax.adam(1e-3)
theta = learned_opt.Adam().init(jax.random.key(0))
state = outer.start((pes,), theta, tx, jax.random.key(1))
step = outer.make_step(tx)
for _ in range(400):
    state, _ = step((pes,), state)
print(int(state.step))
"""


def test_steps_whose_metrics_nobody_reads_do_not_lock_devices_up():
    # In the state it is to prevent, XLA ends the process after a minute.
    command = [sys.executable, "-c", _UNREAD_STEPS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=55)
    assert run.stdout.strip() == "400", run.stderr


def _update(contributions, **options):
    tx = optax.sgd(1.0)
    state = outer.start_without_lanes(
        jnp.zeros(2), tx, KEY, None, options.get("safety")
    )
    update = jax.jit(outer.update_function(tx, clip=10.0, **options))
    for contribution in contributions:
        state, metrics = update(state, contribution)
    return state, metrics


def _contribution(*grad, loss=1.0, weight=1.0):
    grad, loss = jnp.array(grad), jnp.float32(loss)
    return outer.contribution(Estimate(grad, loss, {"loss": loss}), weight)


def test_a_group_without_a_finite_estimate_is_left_out_of_the_mean():
    groups = [
        _contribution(1.0, 2.0, loss=0.5),
        _contribution(jnp.nan, 1.0),
        _contribution(3.0, 0.0, loss=0.7),
    ]
    state, metrics = _update([groups])
    np.testing.assert_allclose(state.theta, [-2.0, -1.0])
    assert metrics["lost_groups"] == 1 and metrics["skipped"] == 0
    np.testing.assert_allclose(metrics["loss"], 0.6)


def test_groups_count_by_their_weights():
    groups = [
        _contribution(1.0, 2.0, loss=0.5, weight=0.25),
        _contribution(jnp.nan, 1.0, weight=7.0),
        _contribution(3.0, 0.0, loss=0.7, weight=0.5),
    ]
    state, metrics = _update([groups])
    np.testing.assert_allclose(state.theta, [-7 / 3, -2 / 3], rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 1.9 / 3, rtol=1e-6)
    assert metrics["lost_groups"] == 1


@pytest.mark.parametrize("safety", [None, Safety()])
def test_a_step_that_lost_every_group_has_no_loss_and_leaves_theta_alone(safety):
    lost, good = [_contribution(jnp.nan, 1.0)], [_contribution(1.0, 2.0, loss=0.5)]
    state, metrics = _update([good, lost], safety=safety)
    assert np.isnan(metrics["loss"]) and np.isnan(metrics["grad_norm"])
    assert metrics["lost_groups"] == 1 and metrics["skipped"] == 1
    np.testing.assert_allclose(state.theta, [-1.0, -2.0])
    state, metrics = _update([good, lost, good], safety=safety)
    assert metrics["loss"] == 0.5 and metrics["skipped"] == 1
    np.testing.assert_allclose(state.theta, [-2.0, -4.0])


def test_contributions_add_up_however_they_are_split():
    groups = [_contribution(1.0, 2.0), _contribution(3.0, 0.0), _contribution(jnp.nan)]
    groups[2] = groups[2]._replace(grad=jnp.zeros(2))
    apart, _ = _update([groups])
    pair = jax.tree.map(jnp.add, groups[0], groups[2])
    together, _ = _update([[pair, groups[1]]])
    np.testing.assert_array_equal(apart.theta, together.theta)


def test_an_outlier_is_skipped_and_counted():
    usual = [[_contribution(0.1, 0.1)]] * 20
    state, metrics = _update([*usual, [_contribution(1e5, 0.0)]], safety=Safety())
    np.testing.assert_allclose(state.theta, [-2.0, -2.0], rtol=1e-5)
    assert metrics["skipped"] == 1 and state.skipped == 1 and state.step == 21


def test_after_a_collapse_theta_its_average_and_its_optimizer_are_the_old_ones():
    good = [[_contribution(0.01, 0.0, loss=0.3)]] * 60
    bad = [[_contribution(-0.01, 0.0, loss=2.0)]] * 60
    before, _ = _update(good, safety=Safety())
    state, metrics = _update(good + bad, safety=Safety())
    assert metrics["rollbacks"] == 1
    assert np.all(np.isfinite(state.theta))
    best = state.safety.best
    np.testing.assert_allclose(best[0], before.theta, atol=0.02)
    np.testing.assert_allclose(best[1], before.average, atol=0.02)


def test_an_outer_optimizer_that_blows_up_is_not_followed():
    blown = optax.stateless(lambda g, p: jax.tree.map(lambda x: x / 0, g))
    state = outer.start_without_lanes(jnp.zeros(2), blown, KEY, None)
    update = outer.update_function(blown, clip=1.0)
    state, metrics = jax.jit(update)(state, [_contribution(1.0, 1.0)])
    np.testing.assert_array_equal(state.theta, [0.0, 0.0])
    assert metrics["skipped"] == 1
