"""Training a model as a system: the two layouts agree, episodes draw their tasks."""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
import tasksets
from learned_opt import LearnedOptimizer
from meta_train import PES, InnerTraining, TrainConfig, Truncation
from meta_train.system import Driven, Episodic, System

KEY = jax.random.key(3)
NAMES = [f"small_mlp/seed{i}@digits?hidden=20-20&activation=tanh" for i in range(3)]
TASKS = [tasksets.get(name) for name in NAMES]


@dataclasses.dataclass(frozen=True)
class OnlyTransform:
    """An optimizer known by its public transform alone, as anybody may bring one."""

    rule: LearnedOptimizer

    def init(self, key):
        return self.rule.init(key)

    def transform(self, theta, *, num_steps=None):
        return self.rule.transform(theta, num_steps=num_steps)


def _losses(system, num_steps=12):
    theta = system.optimizer.init(jax.random.key(0))

    @jax.jit
    def run(system, theta):
        state = system.begin(theta, system.init(KEY), jnp.float32(num_steps))
        keys = jax.random.split(KEY, num_steps)
        return jax.lax.scan(lambda s, k: system.step(theta, s, k), state, keys)[1]

    return np.asarray(run(system, theta))


def test_inner_training_is_a_system_with_a_begin_and_its_own_inputs():
    system = InnerTraining(TASKS[0], learned_opt.Adam())
    assert isinstance(system, System)
    assert isinstance(system, Episodic)
    assert isinstance(system, Driven)


def test_training_is_in_float32_and_says_so_where_new_arrays_are_not():
    system = InnerTraining(TASKS[0], learned_opt.Adam())
    with jax.enable_x64(True), pytest.raises(ValueError, match="jax_enable_x64"):
        system.init(KEY)


# Each optimizer's two layouts are held equal by its own contract; here a training loop is
# around them, for one of each kind of state.
FEW = ("adam", "scale_free", "adafactor_mlp", "hierarchical")


@pytest.mark.parametrize(
    "name",
    [
        name if name in FEW else pytest.param(name, marks=pytest.mark.slow)
        for name in learned_opt.names()
    ],
)
def test_the_flat_layout_trains_as_the_public_transform_does(name):
    rule = learned_opt.get(name)()
    flat = _losses(InnerTraining(TASKS[1], rule))
    tree = _losses(InnerTraining(TASKS[1], OnlyTransform(rule)))
    np.testing.assert_allclose(flat, tree, rtol=2e-3)


def test_adam_lowers_the_outer_loss():
    task = tasksets.get("small_mlp/seed1@digits?hidden=20-20&reparam_scale=1.0")
    losses = _losses(InnerTraining(task, learned_opt.Adam(learning_rate=0.02)), 60)
    assert losses[-10:].mean() < 0.5 * losses[:5].mean()


def test_a_window_of_inputs_is_what_single_steps_draw():
    system = InnerTraining(TASKS[0], learned_opt.Adam())
    theta = system.optimizer.init(KEY)
    state = system.begin(theta, system.init(KEY), jnp.float32(10))
    xs = system.inputs(state, KEY, 1)
    a = system.step(theta, state, KEY)
    b = system.advance(theta, state, jax.tree.map(lambda x: x[0], xs))
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_every_task_of_a_stack_is_drawn():
    system = InnerTraining.over(TASKS, learned_opt.Adam())
    lanes = jax.vmap(lambda key: system.init(key).lane)(jax.random.split(KEY, 60))
    assert set(np.asarray(lanes).tolist()) == {0, 1, 2}


def test_a_lane_of_a_stack_trains_as_the_task_alone():
    stacked = InnerTraining.over(TASKS, learned_opt.Adam())
    lane = int(stacked.init(KEY).lane)
    alone = InnerTraining(TASKS[lane], learned_opt.Adam())
    np.testing.assert_allclose(_losses(stacked), _losses(alone), rtol=1e-4)


def test_the_training_loss_takes_its_share_of_the_outer_loss():
    parts = [
        _losses(InnerTraining(TASKS[0], learned_opt.Adam(), train_weight=weight), 3)
        for weight in (0.0, 0.25, 1.0)
    ]
    np.testing.assert_allclose(parts[1], 0.75 * parts[0] + 0.25 * parts[2], rtol=1e-5)


def test_far_below_the_best_known_loss_a_task_counts_no_more():
    numbers = TASKS[0].numbers
    nearly = numbers._replace(best_loss=numbers.initial_loss * 0.99)
    poor = tasksets.Task(TASKS[0].problem, nearly, TASKS[0].data)
    losses = _losses(InnerTraining(poor, learned_opt.Adam()), 200)
    assert losses.max() > 0 and losses.min() == losses[-1] == -1
    diverged = tasksets.Task(
        TASKS[0].problem, nearly._replace(best_loss=jnp.nan), TASKS[0].data
    )
    assert np.isnan(_losses(InnerTraining(diverged, learned_opt.Adam()), 2)).all()


def test_emphasis_moves_weight_from_the_beginning_to_the_end():
    plain, half, full = (
        _losses(InnerTraining(TASKS[0], learned_opt.Adam(), end_emphasis=e), 4)
        for e in (0.0, 0.5, 1.0)
    )
    np.testing.assert_allclose(full / plain, [0.25, 0.75, 1.25, 1.75], rtol=1e-5)
    np.testing.assert_allclose(half, (plain + full) / 2, rtol=1e-5)


def test_a_config_hands_on_how_losses_are_weighted():
    config = TrainConfig(train_weight=0.3, end_emphasis=0.6)
    system = config.estimator_of(TASKS, Fraction(1), mesh=None).system
    assert (system.train_weight, system.end_emphasis) == (0.3, 0.6)


def test_a_config_hands_on_the_rank_of_the_noise():
    config = TrainConfig(noise_rank=3, estimator="nres")
    assert config.estimator_of(TASKS, Fraction(1), mesh=None).noise_rank == 3


def test_validation_losses_are_shown_every_so_many_steps():
    shown = []

    class Listener(learned_opt.Adam):
        def advance(self, theta, state, grads, params, layout, signals):
            jax.debug.callback(lambda v: shown.append(float(v)), signals.valid_value)
            return super().advance(theta, state, grads, params, layout, signals)

    _losses(InnerTraining(TASKS[0], Listener(), valid_every=4), 9)
    jax.effects_barrier()
    assert sum(np.isfinite(shown)) == 3 and len(shown) == 9


def test_a_diverging_optimizer_is_contained_in_its_lanes():
    """Momentum at an absurd rate: every loss is non-finite soon, no estimate is."""
    system = InnerTraining.over(TASKS, learned_opt.Sgd(learning_rate=1e30))
    estimator = PES(system, Truncation.constant(20, 10), 8, sigma=0.01, loss_cap=2.0)
    theta = system.optimizer.init(KEY)
    lanes = estimator.init(theta, KEY)
    step = jax.jit(lambda e, lanes, key: e.estimate(theta, lanes, key))
    for key in jax.random.split(KEY, 3):
        estimate, lanes = step(estimator, lanes, key)
        assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(estimate.grad))
        assert estimate.metrics["guarded"] > 0.5
