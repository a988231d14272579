"""losg_tasks_family: objectives in closed form, and what wrappers do to gradients."""

import collections
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasksets.families import losg_tasks
from tasksets.losg import classifiers
from tasksets.losg.chains import dependency_chain, min_max_well
from tasksets.losg.least_squares import bowl, least_squares, norm, normal_system
from tasksets.losg.samples import outward_snake, projected_quadratic, sum_of_quadratics
from tasksets.losg.surfaces import SURFACES, surface
from tasksets.losg.wrappers import logged, noisy, rescaled, sparse
from tasksets.names import UnknownNameError
from tasksets.stacking import group_by_structure, lane_axes, stack
from tasksets.task import Task

Step = collections.namedtuple("Step", "params batch loss grads metrics")

KEY = jax.random.key(0)
KEYS = jax.random.split(KEY, 2000)


def _step(task, key):
    """What a task does with one key, compiled once for a structure."""
    init_key, batch_key, loss_key = jax.random.split(key, 3)
    params, batch = task.init(init_key), task.batch("train", batch_key)
    loss, grads = jax.value_and_grad(task.loss)(params, batch, loss_key)
    return Step(params, batch, loss, grads, task.metrics(params, batch, loss_key))


_step_jit = jax.jit(_step)
_steps = jax.jit(jax.vmap(_step, in_axes=(None, 0)))


def _task(built):
    return Task(*built)


def _of_seed(seed):
    return Task(*losg_tasks.build(losg_tasks.sample(seed)), name=f"seed{seed}")


def _loss(built, x, batch=(), key=KEY):
    return _task(built).loss({"x": jnp.asarray(x, jnp.float32)}, batch, key)


def _gradient(built, x, batch=(), key=KEY):
    x = jnp.asarray(x, jnp.float32)
    return jax.grad(lambda x: _task(built).loss({"x": x}, batch, key))(x)


def _gradients(built, x):
    """At x for many keys."""
    gradient = jax.grad(lambda x, key: _task(built).loss({"x": x}, (), key))
    return np.asarray(jax.jit(jax.vmap(gradient, (None, 0)))(jnp.array(x), KEYS))


BRANIN_MINIMUM = 0.397887
SURFACE_VALUES = [
    ("ackley", (0, 0), 0),
    ("ackley", (1, 1), 3.6253849),
    ("beale", (3, 0.5), 0),
    ("beale", (0, 0), 1.5**2 + 2.25**2 + 2.625**2),
    ("branin", (-math.pi, 12.275), BRANIN_MINIMUM),
    ("branin", (math.pi, 2.275), BRANIN_MINIMUM),
    ("branin", (3 * math.pi, 2.475), BRANIN_MINIMUM),
    ("branin", (0, 0), 36 + 20 - 10 / (8 * math.pi)),
    ("logsumexp", (0, 0), math.log(3 * math.exp(-0.1) + 1)),
    ("logsumexp", (-math.log(2) / 2, 0), SURFACES["logsumexp"].minimum),
    ("matyas", (0, 0), 0),
    ("matyas", (10, -10), 0.26 * 200 + 48),
    ("michalewicz", (0, 0), 2),
    ("michalewicz", (2.185312, math.pi / 2), SURFACES["michalewicz"].minimum),
    ("rosenbrock", (1, 1), 0),
    ("rosenbrock", (-1.2, 1), 24.2),
    ("StyblinskiTang", (0, 0), 80),
    ("StyblinskiTang", (-2.903534, -2.903534), 2 * -39.16616570 + 80),
]


@pytest.mark.parametrize(("name", "point", "value"), SURFACE_VALUES)
def test_test_functions_have_their_published_values(name, point, value):
    np.testing.assert_allclose(_loss(surface(name), point), value, rtol=2e-6, atol=2e-5)


@pytest.mark.parametrize("name", SURFACES)
def test_no_point_of_the_box_is_below_the_minimum_of_a_test_function(name):
    side = np.linspace(0, 1, 1201)
    low, high = np.array(SURFACES[name].box or ((-3, 3), (-3, 3)), float).T
    x, y = low[:, None, None] + (high - low)[:, None, None] * np.meshgrid(side, side)
    values = jax.jit(SURFACES[name].function)(jnp.float32(x), jnp.float32(y))
    lowest, minimum = float(values.min()), SURFACES[name].minimum
    assert minimum - 1e-5 <= lowest < minimum + 0.02


@pytest.mark.parametrize("name", SURFACES)
def test_starts_of_a_test_function_fill_its_box_and_have_its_median(name):
    task = _task(surface(name))
    starts = jax.jit(jax.vmap(task.init))(jax.random.split(KEY, 20000))
    losses = jax.jit(jax.vmap(lambda p: task.loss(p, (), KEY)))(starts)
    np.testing.assert_allclose(np.median(losses), task.numbers.initial_loss, rtol=0.05)
    points = np.asarray(starts["x"])
    if SURFACES[name].box is None:
        np.testing.assert_allclose(points.std(axis=0), 1, atol=0.03)
    else:
        low, high = np.array(SURFACES[name].box).T
        np.testing.assert_allclose(points.min(axis=0), low, atol=0.01 * max(high - low))
        np.testing.assert_allclose(
            points.max(axis=0), high, atol=0.01 * max(high - low)
        )


def test_the_gradient_of_ackley_is_finite_at_its_minimum():
    np.testing.assert_array_equal(_gradient(surface("ackley"), (0, 0)), 0)


def test_an_unknown_test_function_names_the_nearest():
    with pytest.raises(UnknownNameError, match="rosenbrock"):
        surface("rosenbrok")


def test_a_quadratic_is_half_the_squared_residual_of_the_seed():
    matrix, target = normal_system(20, seed=83191)
    rng = np.random.RandomState(83191)
    np.testing.assert_array_equal(matrix, rng.randn(20, 20))
    np.testing.assert_array_equal(target, rng.randn(20, 1)[:, 0])
    built = least_squares(matrix, target)
    x = np.arange(20) / 10
    expected = 0.5 * np.sum((matrix @ x - target) ** 2)
    np.testing.assert_allclose(_loss(built, x), expected, rtol=1e-5)
    assert _loss(built, np.linalg.solve(matrix, target)) < 1e-6


def test_the_initial_loss_of_a_quadratic_is_its_mean_over_starts():
    task = _task(least_squares(*normal_system(12, seed=3)))
    losses = _steps(task, KEYS).loss
    error = np.std(losses) / np.sqrt(len(KEYS))
    assert abs(np.mean(losses) - task.numbers.initial_loss) < 4 * error
    assert 20 * error < task.numbers.initial_loss


@pytest.mark.parametrize("angle", [0.0, math.pi / 3])
def test_a_bowl_has_its_condition_number_and_turns_by_its_angle(angle):
    built = bowl(100.0, angle)
    hessian = jax.hessian(lambda x: _task(built).loss({"x": x}, (), KEY))(jnp.ones(2))
    np.testing.assert_allclose(np.linalg.eigvalsh(hessian), [1, 100], rtol=1e-4)
    steep = np.array([math.cos(angle), -math.sin(angle)])
    np.testing.assert_allclose(_loss(built, steep), 50, rtol=1e-5)
    assert built[1].initial_loss == 50.5


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 4.5])
def test_a_norm_is_the_p_norm_and_its_best_loss_is_that_of_no_residual(power):
    problem, numbers = norm(5, power, seed=1)
    x = np.linspace(-1, 1, 5)
    residual = np.asarray(numbers.matrix, float) @ x - np.asarray(numbers.target)
    expected = np.sum(np.abs(residual) ** power) ** (1 / power)
    np.testing.assert_allclose(_loss((problem, numbers), x), expected, rtol=1e-4)
    identity = numbers._replace(matrix=jnp.eye(5))
    best = _loss((problem, identity), numbers.target)
    np.testing.assert_allclose(best, numbers.best_loss, rtol=1e-3)


def test_a_link_of_a_dependency_chain_is_weighed_by_the_one_before():
    built = dependency_chain(2)
    eps = 1e-6
    expected = 2 * 9 + 4 / (9 + eps) + 25 / (4 + eps)
    np.testing.assert_allclose(_loss(built, [3, 2, 5]), expected, rtol=1e-6)
    assert _loss(built, [0, 0, 0]) == 0
    np.testing.assert_allclose(_loss(built, [0, 1e-3, 0]), 1, rtol=1e-5)


def test_the_well_pulls_on_the_least_and_the_largest_coordinate_only():
    built = min_max_well(4)
    np.testing.assert_allclose(_loss(built, [-2, 1, 0.5, 1.5]), 4 + 4 - 2, rtol=1e-6)
    np.testing.assert_allclose(
        _gradient(built, [-2, 1, 0.5, 1.5]), [-4, 0, -2 / 0.5**3, 0], rtol=1e-5
    )
    # Of equal ones only the first, so that no share is divided by a count.
    np.testing.assert_allclose(
        _gradient(built, [2, 2, -0.5, 0.5]), [4, 0, 2 / 0.5**3, 0], rtol=1e-5
    )
    assert _loss(built, [1, -1, 1, -1]) == 0
    # Digits near the minimum, which max + 1/min - 2 would not have.
    x = 1 - 3 * 2.0**-24
    np.testing.assert_allclose(_loss(built, [x, 1, 1, 1]), x**-2 - 1, rtol=1e-6)


def test_a_sum_of_quadratics_has_its_minimum_at_zero_over_all_samples_only():
    built = sum_of_quadratics(dims=3, batch_size=2, num_samples=101, seed=7)
    samples = np.asarray(built[1].samples, float)
    assert samples.shape == (100, 3)
    x, batch = np.array([0.5, -1, 2]), samples[:2]
    expected = np.sum((x - batch) ** 2) - np.sum(batch**2)
    np.testing.assert_allclose(_loss(built, x, jnp.float32(batch)), expected, rtol=1e-4)
    whole = _loss(built, x, built[1].samples)
    # Whatever the number of vectors, the sum is that of a batch.
    np.testing.assert_allclose(whole, 2 * np.sum(x**2), rtol=1e-4)
    assert _loss(built, batch[0], jnp.float32(batch[:1])) < 0
    assert built[1].initial_loss == 2 * 3


def test_a_projected_quadratic_stretches_a_bowl_by_its_samples():
    built = projected_quadratic(dims=3, batch_size=2, num_samples=100, seed=7)
    x, batch = np.array([0.5, -1, 2]), np.asarray(built[1].samples)[:2]
    expected = np.sum(batch**2, axis=0) @ x**2
    np.testing.assert_allclose(_loss(built, x, jnp.asarray(batch)), expected, rtol=1e-5)


def test_the_snake_falls_outward_along_its_path_and_rises_beside_it():
    built = outward_snake(dims=4, batch_size=3, num_samples=100, seed=7)
    assert set(np.unique(built[1].samples)) == {0, 1}

    def path(head):
        x = [head]
        for _ in range(3):
            x.append(math.pi * math.cos(x[-1]))
        return np.array(x)

    ones = jnp.ones((3, 4))
    losses = [float(_loss(built, path(head), ones)) for head in (2, 4, 8, 16)]
    assert losses == sorted(losses, reverse=True)
    radius = np.linalg.norm(path(4))
    np.testing.assert_allclose(losses[1], 3 / radius, rtol=1e-4)
    beside = path(4) + [0, 0, 0, 0.5]
    expected = 3 / np.linalg.norm(beside) + 3 * 0.25
    np.testing.assert_allclose(_loss(built, beside, ones), expected, rtol=1e-4)
    # A sample of zeros does not look.
    assert _loss(built, beside, jnp.zeros((3, 4))) == 0


@pytest.mark.parametrize("make", [outward_snake, projected_quadratic])
def test_the_initial_loss_of_sampled_problems_is_the_mean_over_starts(make):
    task = _task(make(dims=6, batch_size=4, num_samples=200, seed=5))

    losses = _steps(task, KEYS).loss
    error = np.std(losses) / np.sqrt(len(KEYS))
    assert abs(np.mean(losses) - task.numbers.initial_loss) < 4 * error
    assert 20 * error < task.numbers.initial_loss


def test_batches_are_samples_and_reach_all_of_them():
    task = _task(outward_snake(dims=3, batch_size=50, num_samples=100, seed=7))
    task = dataclasses.replace(
        task, numbers=task.numbers._replace(samples=jnp.arange(300.0).reshape(100, 3))
    )
    batches = np.asarray(
        jax.jit(jax.vmap(lambda key: task.batch("test", key)))(KEYS[:40])
    )
    assert batches.shape == (40, 50, 3)
    np.testing.assert_array_equal(np.unique(batches[..., 0]), 3 * np.arange(100))
    np.testing.assert_array_equal(batches[..., 1], batches[..., 0] + 1)


def _classifier(num_samples=12):
    return classifiers.fully_connected(3, (5, 4), "tanh", 6, num_samples, seed=2)


def test_a_perceptron_has_the_logistic_loss_of_its_first_output_and_decay():
    params, batch, loss, grads, metrics = _step_jit(_task(_classifier()), KEY)
    x = np.asarray(batch.inputs, float)
    for layer in ("layer_0", "layer_1", "layer_2"):
        x = np.tanh(x) if layer != "layer_0" else x
        x = x @ np.asarray(params[layer]["w"]) + np.asarray(params[layer]["b"])
    chance = 1 / (1 + np.exp(-x[:, 0]))
    labels = np.asarray(batch.labels)
    entropy = -np.mean(np.log(np.where(labels == 1, chance, 1 - chance)))
    np.testing.assert_allclose(loss, entropy + _decay(params), rtol=1e-4)
    accuracy = np.mean((chance > 0.5) == labels)
    np.testing.assert_allclose(metrics["accuracy"], accuracy, rtol=1e-6)
    np.testing.assert_allclose(
        grads["layer_2"]["b"][1], 2e-3 / 6 * params["layer_2"]["b"][1], rtol=1e-4
    )


def _decay(params):
    squares = [np.sum(np.asarray(leaf) ** 2) for leaf in jax.tree.leaves(params)]
    return 1e-3 * np.mean(squares)


def _regression():
    return classifiers.sparse_softmax_regression(7, 4, 20, seed=2)


def test_sparse_softmax_regression_is_linear_in_the_counts_of_its_ids():
    params, batch, loss, _, _ = _step_jit(_task(_regression()), KEY)
    embedding = np.asarray(params["embedding"], float)[np.asarray(batch.inputs)]
    logit = embedding.sum(axis=1) @ np.asarray(params["w"]) + np.asarray(params["b"])
    sign = 2 * np.asarray(batch.labels) - 1
    entropy = np.mean(np.log1p(np.exp(-sign * logit[:, 0])))
    np.testing.assert_allclose(loss, entropy + _decay(params), rtol=1e-4)


@pytest.mark.parametrize("part", ["w", "b"])
def test_tensors_of_classifiers_start_at_their_scale(part):
    task = _task(_classifier())
    starts = jax.jit(jax.vmap(task.init))(KEYS)["layer_1"][part]
    length = {"w": 5, "b": 4}[part]
    np.testing.assert_allclose(np.std(starts), 1.2 / math.sqrt(length), rtol=0.03)


def test_a_quarter_of_the_parities_is_changed():
    examples = classifiers._parity_examples(4000, seed=1)
    changed = np.asarray(examples.inputs).sum(axis=1) % 2 != np.asarray(examples.labels)
    assert abs(changed.mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_the_labels_of_a_teacher_are_those_of_all_its_positive_multiples():
    examples = classifiers._teacher_examples(1, 500, seed=11)
    positive = np.asarray(examples.inputs)[:, 0] > 0
    labels = np.asarray(examples.labels)
    assert len(set(labels[positive])) == 1 and len(set(labels[~positive])) == 1
    both = {
        int(label)
        for seed in range(20)
        for label in classifiers._teacher_examples(4, 50, seed).labels
    }
    assert both == {0, 1}


def test_gradient_noise_leaves_the_loss_alone_and_has_its_moments():
    base = bowl(3.0, 0.0)
    built, x = noisy(base, stdev=0.5), (1.0, -2.0)
    assert _loss(built, x) == _loss(base, x)
    grads = _gradients(built, x)
    noise = grads - np.asarray(_gradient(base, x))
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=4 * 0.5 / np.sqrt(2000))
    np.testing.assert_allclose(noise.std(axis=0), 0.5, rtol=0.07)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.1
    assert noisy(base, stdev=0.0) is base


def test_gradient_noise_differs_between_the_tensors_of_a_tree():
    task = _task(noisy(_regression(), stdev=1.0))
    quiet = Task(task.problem, task.numbers._replace(stdev=jnp.float32(0)))
    noise = jax.tree.map(
        jnp.subtract, _step_jit(task, KEY).grads, _step_jit(quiet, KEY).grads
    )
    flat = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(noise)])
    assert len(np.unique(flat.round(5))) == len(flat)
    assert 0.6 < flat.std() < 1.4


def test_sparse_gradients_are_zero_with_their_probability_and_else_unchanged():
    base = bowl(3.0, 0.0)
    built, x = sparse(base, zero_probability=0.9), (1.0, -2.0)
    assert _loss(built, x) == _loss(base, x)
    grads = _gradients(built, x)
    zero = grads == 0
    error = np.sqrt(0.9 * 0.1 / 2000)
    np.testing.assert_allclose(zero.mean(axis=0), 0.9, atol=4 * error)
    expected = np.broadcast_to(_gradient(base, x), grads.shape)
    np.testing.assert_array_equal(grads[~zero], expected[~zero])
    assert 0 < np.mean(zero[:, 0] != zero[:, 1])


def test_the_noise_of_a_sparse_gradient_spares_its_zeros():
    built = sparse(noisy(bowl(3.0, 0.0), stdev=2.0), zero_probability=0.9)
    grads = _gradients(built, (1.0, -2.0))
    assert abs(np.mean(grads == 0) - 0.9) < 0.02
    np.testing.assert_allclose(np.std(grads[:, 0][grads[:, 0] != 0]), 2, rtol=0.25)


def test_rescaled_parameters_compute_the_same_from_other_units():
    plain = _step_jit(_task(_regression()), KEY)
    scaled = _step_jit(_task(rescaled(_regression(), scale=50.0)), KEY)
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    jax.tree.map(lambda a, b: close(a * 50, b), plain.params, scaled.params)
    jax.tree.map(lambda a, b: close(a, b * 50), plain.grads, scaled.grads)
    close(plain.loss, scaled.loss)
    assert plain.metrics == scaled.metrics and "accuracy" in plain.metrics


def test_a_logged_loss_is_its_logarithm_above_a_floor():
    base = surface("rosenbrock")
    built = logged(base)
    np.testing.assert_allclose(_loss(built, (0, 0)), math.log(1e6 + 1), rtol=1e-6)
    assert _loss(built, (1, 1)) == 0
    below = logged(sum_of_quadratics(dims=3, batch_size=1, num_samples=100, seed=7))
    x = np.asarray(below[1].inner.samples[0])
    batch = below[1].inner.samples[:1]
    assert _loss(below, x, batch) == 0
    assert np.isfinite(_gradient(below, x, batch)).all()


@pytest.mark.parametrize(
    "base", [surface("matyas"), surface("branin"), norm(5, 0.7, seed=1)]
)
def test_all_wrappers_score_as_the_problem_inside(base):
    task = _task(base)
    fraction = jnp.logspace(-6, 0.1, 9)
    best = task.numbers.best_loss
    losses = best + (task.numbers.initial_loss - best) * fraction
    scores = task.normalize(losses)
    assert np.ptp(scores) > 0.3
    for built in (noisy(base, 1.0), sparse(base, 0.9), rescaled(base, 7.0)):
        np.testing.assert_array_equal(_task(built).normalize(losses), scores)
    log = jnp.log(losses + 1e-6) - jnp.log(1e-6)
    np.testing.assert_allclose(_task(logged(base)).normalize(log), scores, atol=3e-3)
    bad = jnp.array([jnp.nan, jnp.inf, -jnp.inf])
    np.testing.assert_array_equal(_task(logged(base)).normalize(bad), [1, 1, 0])


def test_the_noise_of_a_base_is_not_applied_and_that_of_a_wrapper_is():
    config = losg_tasks.sample(101)
    _, fields, _ = config.as_taskset()
    assert fields["base"][1]["noise_stdev"] > 3 and fields["noise_stdev"] == 0
    problem, _, _ = losg_tasks.build(config)
    assert repr(problem) == "Sparse(inner=MinMaxWell(dims=235))"
    problem, _, _ = losg_tasks.build(losg_tasks.sample(870))
    assert repr(problem).startswith("Sparse(inner=Noisy(inner=FullyConnected(")


def test_the_seed_of_a_config_decides_its_arrays():
    config = losg_tasks.sample(123)
    samples = lambda seed: (
        losg_tasks.build(dataclasses.replace(config, seed=seed))[1].samples
    )
    np.testing.assert_array_equal(samples(5), samples(5))
    assert np.any(samples(5) != samples(6))
    # A wrapper hands its seed on.
    of_sparse = losg_tasks.build(losg_tasks.sample(146))[1].inner.matrix
    expected = np.random.RandomState(losg_tasks.sample(146).seed).randn(47, 47)
    np.testing.assert_array_equal(of_sparse, expected.astype(np.float32))


def test_a_thousand_configs_use_every_kind_and_base_in_proportion():
    configs = [losg_tasks.sample(seed).problem for seed in range(1000)]
    counts = {name: 0 for name in losg_tasks._KINDS}
    for config in configs:
        counts[config.name] += 1
    assert all(abs(count / 1000 - 1 / 14) < 4 * 0.0082 for count in counts.values())
    wrapped = [config.as_taskset()[1].get("base") for config in configs]
    bases = {base[0] for base in wrapped if base}
    assert bases == {kind.name for kind in losg_tasks._BASES}


def _first_seeds():
    """The first seed of every kind."""
    seeds = {}
    for seed in range(200):
        seeds.setdefault(losg_tasks.sample(seed).problem.name, seed)
    return list(seeds.values())


def _assert_finite_at_its_start(seed):
    task = _of_seed(seed)
    steps = _steps(task, KEYS[:8])
    assert steps.loss.dtype == jnp.float32 and steps.loss.shape == (8,)
    for leaf in jax.tree.leaves((steps.loss, steps.grads, task.numbers)):
        assert np.isfinite(leaf).all()
    assert task.numbers.best_loss < task.numbers.initial_loss


@pytest.mark.parametrize("seed", _first_seeds())
def test_every_kind_builds_and_is_finite_at_its_start(seed):
    _assert_finite_at_its_start(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_two_hundred_seeds_build_and_are_finite_at_their_start(seed):
    _assert_finite_at_its_start(seed)


def test_lanes_of_a_stack_of_different_tasks_equal_the_tasks_alone():
    configs = [losg_tasks.sample(seed) for seed in range(200)]
    bowls = [c for c in configs if isinstance(c.problem, losg_tasks.Bowl)]
    groups = group_by_structure([Task(*losg_tasks.build(c)) for c in bowls])
    assert len(groups) == 2  # with noise and without
    for group in groups:
        tasks = stack(group)
        keys = jax.random.split(KEY, len(group))
        over_lanes = jax.jit(jax.vmap(_step, in_axes=(lane_axes(tasks), 0)))
        lanes = over_lanes(tasks, keys)
        alone = [_step_jit(task, key) for task, key in zip(group, keys, strict=True)]
        assert len({float(step.loss) for step in alone}) > 4
        looped = jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
            lanes,
            looped,
        )
