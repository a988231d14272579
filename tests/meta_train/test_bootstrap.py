"""An optimizer that comes to train itself: by whom each update is made, and with what."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_runs

import learned_opt
from meta_train import TrainConfig, outer, run
from meta_train.bootstrap import bootstrap
from meta_train.outer import Contribution

EVERY, UPDATES = 3, 10
CONFIG = dataclasses.replace(
    small_runs.CONFIG,
    optimizer="adam",
    outer_steps=11,
    outer_optimizer="self",
    bootstrap_every=4,
)
pytestmark = pytest.mark.usefixtures("one_device")


def _trained(optimizer, tx, grads, averages):
    """Theta after each update, by one compiled program."""
    theta = optimizer.init(jax.random.key(0))
    state, thetas = tx.init(theta), []
    traced = []

    @jax.jit
    def update(theta, state, grad, average):
        traced.append(1)
        steps, state = tx.update(grad, state, theta, average=average)
        return optax.apply_updates(theta, steps), state

    for grad, average in zip(grads, averages, strict=True):
        theta, state = update(theta, state, grad, average)
        thetas.append(theta)
    assert len(traced) == 1
    return thetas


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_the_other_makes_the_first_updates_then_frozen_averages_do(name):
    optimizer = learned_opt.get(name)()
    theta = optimizer.init(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), UPDATES)
    like = lambda key, size: jax.tree.map(
        lambda x: size * jax.random.normal(key, x.shape), theta
    )
    grads = [like(key, 1.0) for key in keys]
    averages = [
        optax.tree.add(theta, like(jax.random.fold_in(key, 7), 0.3)) for key in keys
    ]
    before = optax.adam(0.05)
    tx = bootstrap(optimizer, before, every=EVERY, num_steps=UPDATES)
    found = _trained(optimizer, tx, grads, averages)

    state, learned = before.init(theta), None
    for n, grad in enumerate(grads):
        if n < EVERY:
            steps, state = before.update(grad, state, theta)
        else:
            # By the average of the last exchange; what it remembers goes on.
            frozen = averages[n - n % EVERY]
            exact = optimizer.transform(frozen, num_steps=UPDATES - EVERY)
            learned = exact.init(theta) if learned is None else learned
            steps, learned = exact.update(grad, learned, theta)
        theta = optax.apply_updates(theta, steps)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
            found[n],
            theta,
        )


def test_its_gradient_is_clipped_and_it_is_the_average_of_the_run():
    sgd = learned_opt.get("sgd")()
    theta = jax.tree.map(jnp.asarray, sgd.init(jax.random.key(0)))
    tx = bootstrap(sgd, optax.sgd(1.0), every=2, num_steps=10)
    state = outer.start_without_lanes(theta, tx, jax.random.key(0), None)
    update = jax.jit(outer.update_function(tx, clip=0.1))
    full = lambda size: jax.tree.map(lambda x: jnp.full(x.shape, size), theta)
    metrics = {"loss": jnp.float32(1.0)}
    huge = Contribution(full(1e9), metrics, jnp.float32(1.0), jnp.float32(0.0))
    for _ in range(2):
        state, _ = update(state, [huge])
    average, last = state.average, state.theta
    assert not np.allclose(jax.tree.leaves(average)[0], jax.tree.leaves(last)[0])
    by_average = sgd.transform(average, num_steps=8)
    steps, _ = by_average.update(full(0.1), by_average.init(last), last)
    state, _ = update(state, [huge])
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        state.theta,
        optax.apply_updates(last, steps),
    )
    assert state.skipped == 0


def _lines(folder):
    return (folder / "metrics.jsonl").read_text()


def test_a_run_that_trains_itself_goes_on_after_a_stop_as_if_there_was_none(tmp_path):
    assert run.train(CONFIG, tmp_path / "quiet").finished
    small_runs.train_in_pieces(tmp_path / "stopped", CONFIG, every=3)
    assert _lines(tmp_path / "stopped") == _lines(tmp_path / "quiet")


def test_until_the_first_exchange_it_is_a_run_of_adam(tmp_path):
    run.train(CONFIG, tmp_path / "self")
    adam = dataclasses.replace(CONFIG, outer_optimizer="adam", bootstrap_every=None)
    run.train(adam, tmp_path / "adam")
    mine, theirs = (
        run.read_metrics(tmp_path / name)["update_norm"] for name in ("self", "adam")
    )
    np.testing.assert_allclose(mine[:4], theirs[:4], rtol=1e-5)
    assert abs(mine[4] / theirs[4] - 1) > 0.01


@pytest.mark.parametrize(
    "wrong",
    [
        {"bootstrap_every": 5},
        {"outer_optimizer": "self"},
        {"outer_optimizer": "self", "bootstrap_every": 0},
        {"outer_optimizer": "self", "bootstrap_every": 3000},
    ],
)
def test_settings_that_do_not_fit_are_errors(wrong):
    with pytest.raises(ValueError, match="bootstrap_every"):
        TrainConfig(**wrong)
