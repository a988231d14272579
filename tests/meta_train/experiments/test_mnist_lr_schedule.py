"""Learning-rate schedules: against plain SGD with momentum, and the experiment."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import Momentum
from meta_train import InnerTraining, system
from meta_train.experiments.mnist_lr_schedule import (
    ACCURACY,
    LOSS,
    DecayingMomentum,
    MnistLrSchedule,
    Setting,
)

KEY = jax.random.key(0)
SMALL = MnistLrSchedule(
    hidden=(8,),
    batch_size=8,
    horizon=40,
    settings=(Setting(LOSS, 10, 10, (1e-2,)), Setting(ACCURACY, 10, 10, (1e-2,))),
    num_particles=4,
    grid=3,
    num_episodes=2,
)


def test_without_decay_it_is_momentum():
    ours = SMALL.systems()[LOSS]
    momentum = Momentum(learning_rate=0.1, decay=0.9)
    reference = InnerTraining(ours.task, momentum, train_weight=1.0)
    theta = jnp.array([np.log(0.1), -30.0], jnp.float32)
    _, losses = system.episode(ours, theta, KEY, 40)
    _, expected = system.episode(reference, momentum.init(KEY), KEY, 40)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    assert losses[-1] < 0.8


def test_the_rate_decays_as_a_power_of_progress():
    params = {"w": jnp.ones(3)}
    tx = DecayingMomentum().transform(jnp.log(jnp.array([0.1, 2.0])), num_steps=10)
    state = tx.init(params)
    velocity = np.zeros(3)
    for t in range(10):
        grads = {"w": jnp.arange(3.0) - t}
        updates, state = tx.update(grads, state, params, value=1.0)
        velocity = 0.9 * velocity + np.asarray(grads["w"])
        rate = 0.1 / (1 + t / 10) ** 2
        np.testing.assert_allclose(updates["w"], -rate * velocity, rtol=1e-4)
        params = optax.apply_updates(params, updates)


def test_the_accuracy_is_that_of_the_validation_images_drawn():
    measured = SMALL.systems()[ACCURACY]
    task = SMALL.systems()[LOSS].task
    theta = DecayingMomentum().init(KEY)
    state = system.begin(measured, theta, measured.init(KEY), jnp.float32(40))
    xs = system.inputs(measured, state, KEY, 1)
    x = jax.tree.map(lambda x: x[0], xs)
    state, loss = measured.advance(theta, state, x)
    inputs, labels = task.take("outer_valid", x.outer_valid[0])
    params = state.system.params
    hidden = jax.nn.relu(
        inputs.reshape(8, -1) @ params["layer_0"]["w"] + params["layer_0"]["b"]
    )
    logits = hidden @ params["layer_1"]["w"] + params["layer_1"]["b"]
    assert loss == -np.mean(np.argmax(logits, axis=1) == labels)


@pytest.mark.slow  # half a minute of compiling
def test_a_short_run_reports_every_estimator(tmp_path):
    report = SMALL.run(tmp_path)
    loss = [row["estimator"] for row in report.rows if LOSS in row["objective"]]
    assert loss == ["TBPTT", "truncated ES", "PES", "NRES", "start", "grid"]
    accuracy = [row["estimator"] for row in report.rows if ACCURACY in row["objective"]]
    assert accuracy == loss[1:]
    assert all(path.exists() for path in report.figures)
    verdicts = {claim.text: claim.holds for claim in report.claims}
    assert verdicts["TBPTT has no gradient of the accuracy"]
    assert not verdicts[f"PES, {LOSS}, windows of 10: reaches the optimum"]


@pytest.mark.slow
def test_every_claim_holds(tmp_path):
    report = MnistLrSchedule().run(tmp_path)
    failed = [claim for claim in report.claims if not claim.holds]
    assert not failed
