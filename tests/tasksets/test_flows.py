"""Normalizing flows: exact densities, and the tasks that are made of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tasksets
from tasksets.autoregressive import MaskedAutoregressive
from tasksets.coupling import AffineCoupling
from tasksets.families import maf, nvp
from tasksets.fixed import maf as fixed_maf
from tasksets.fixed import nvp as fixed_nvp
from tasksets.flows import (
    NOISE_STD,
    BijectorNumbers,
    Flow,
    activation_numbers,
    permutation,
    permute,
)
from tasksets.initializers import normal_initializer
from tasksets.task import Task

KEY = jax.random.key(5)
NUMBERS = BijectorNumbers(normal_initializer(0.5), activation_numbers("tanh"))
KINDS = {"nvp": AffineCoupling, "maf": MaskedAutoregressive}
ENTROPY = 0.5 * np.log(2 * np.pi * np.e * NOISE_STD**2)


def anywhere(kind, num_bijectors, num_dims, hidden=(7,), std=0.5):
    """A flow with parameters that are all random, as if it had been trained."""
    flow = Flow(KINDS[kind](hidden, "entrywise"), num_bijectors)
    shapes = jax.eval_shape(lambda: flow.init(NUMBERS, num_dims, KEY))
    leaves, treedef = jax.tree.flatten(shapes)
    rng = np.random.RandomState(7)
    drawn = [jnp.float32(std * rng.normal(size=leaf.shape)) for leaf in leaves]
    return flow, jax.tree.unflatten(treedef, drawn)


def jacobian(flow, params, x):
    to_noise = lambda x: flow.to_noise(NUMBERS, params, x[None])[0][0]
    return np.asarray(jax.jit(jax.jacfwd(to_noise))(x))


def small(family, seed=0, **fields):
    """A task of a family on digits, with little to compile."""
    plain = {"dataset": "digits", "augmentation": None, "hidden": (8,)}
    plain |= {"batch_size": 16, "initializer": "glorot_normal", "num_bijectors": 2}
    plain |= {"initializer_scale": None}
    config = dataclasses.replace(family.sample(seed), **{**plain, **fields})
    return Task(*family.build(config))


def zero_params(task):
    shapes = jax.eval_shape(task.init, KEY)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)


@pytest.mark.parametrize("num_bijectors", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_the_log_density_is_that_of_the_numeric_change_of_variables(
    kind, num_bijectors
):
    flow, params = anywhere(kind, num_bijectors, num_dims=5)
    x = jax.random.normal(KEY, (5,))

    @jax.jit
    def evaluate(x):
        to_noise = lambda x: flow.to_noise(NUMBERS, params, x[None])[0][0]
        density = flow.log_density(NUMBERS, params, x[None])[0]
        return to_noise(x), jax.jacfwd(to_noise)(x), density

    z, slope, found = evaluate(x)
    log_normal = -0.5 * np.sum(np.asarray(z) ** 2 + np.log(2 * np.pi))
    _, log_det = np.linalg.slogdet(slope)
    np.testing.assert_allclose(found, log_normal + log_det, rtol=1e-4)
    assert abs(log_det) > 0.1


@pytest.mark.parametrize("num_bijectors", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_brought_back_to_the_data_that_it_came_from(kind, num_bijectors):
    flow, params = anywhere(kind, num_bijectors, num_dims=6)
    x = jax.random.normal(KEY, (4, 6))

    @jax.jit
    def there_and_back(x):
        z, _ = flow.to_noise(NUMBERS, params, x)
        return z, flow.to_data(NUMBERS, params, z)

    z, back = there_and_back(x)
    assert np.abs(z - x).max() > 0.1
    np.testing.assert_allclose(back, x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_density_integrates_to_one(kind):
    flow, params = anywhere(kind, num_bijectors=2, num_dims=2, std=0.3)
    edge, points = 9.0, 300
    line = jnp.linspace(-edge, edge, points)
    grid = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
    density = jnp.exp(jax.jit(flow.log_density)(NUMBERS, params, grid))
    cell = (2 * edge / (points - 1)) ** 2
    np.testing.assert_allclose(jnp.sum(density) * cell, 1.0, rtol=1e-3)


@pytest.mark.parametrize("hidden", [(30,), (3, 4), (9, 2, 9)])
def test_a_variable_depends_on_those_before_it_whatever_the_parameters(hidden):
    flow, params = anywhere("maf", 1, num_dims=9, hidden=hidden)
    found = jacobian(flow, params, jax.random.normal(KEY, (9,)))
    assert not np.triu(found, 1).any()
    assert np.diagonal(found).all()
    assert np.tril(found, -1)[-1].any()  # networks narrower than an input work too


def test_a_wide_network_uses_every_variable_that_comes_before():
    flow, params = anywhere("maf", 1, num_dims=6, hidden=(20, 20))
    found = jacobian(flow, params, jax.random.normal(KEY, (6,)))
    assert np.count_nonzero(found) == 6 * 7 / 2


def test_weights_that_could_never_have_an_effect_start_at_zero():
    flow = Flow(MaskedAutoregressive((5,), "entrywise"), 1)
    params = jax.jit(flow.init, static_argnums=1)(NUMBERS, 6, KEY)["bijector_0"]
    first, last = params["layer_0"]["w"], params["layer_1"]["w"]
    assert [int(n) for n in (first != 0).sum(0)] == [1, 2, 3, 4, 5]
    # shifts and then log scales of variables 0 to 5
    assert [int(n) for n in (last != 0).sum(0)] == 2 * [0, 1, 2, 3, 4, 5]


def test_the_log_scale_is_clipped_and_its_gradient_is_not():
    flow, params = anywhere("maf", 1, num_dims=3, std=0.0)
    bias = params["bijector_0"]["layer_1"]["b"]

    def log_det(log_scale):
        moved = {"w": params["bijector_0"]["layer_1"]["w"], "b": bias + log_scale}
        layers = {**params["bijector_0"], "layer_1": moved}
        return flow.to_noise(NUMBERS, {"bijector_0": layers}, jnp.ones((1, 3)))[1][0]

    for log_scale, clipped in ((-1e9, -5.0), (-6.0, -5.0), (1.5, 1.5), (1e9, 3.0)):
        value, gradient = jax.value_and_grad(log_det)(log_scale)
        assert (value, gradient) == (-3 * clipped, -3)


def test_two_couplings_and_their_permutation_are_what_is_written_out():
    flow, params = anywhere("nvp", 2, num_dims=5, hidden=(4,))
    x = np.asarray(jax.random.normal(KEY, (3, 5)))

    def couple(layers, x):
        kept, moved = x[:, :2], x[:, 2:]
        hidden = np.tanh(kept @ layers["layer_0"]["w"] + layers["layer_0"]["b"])
        outputs = hidden @ layers["layer_1"]["w"] + layers["layer_1"]["b"]
        shift, log_scale = outputs[:, :3], outputs[:, 3:]
        z = np.concatenate([kept, (moved - shift) / np.exp(log_scale)], axis=1)
        return z, -log_scale.sum(1)

    y, last = couple(params["bijector_1"], x)
    unpermuted = np.empty_like(y)
    unpermuted[:, np.random.RandomState(0).permutation(5)] = y
    z, first = couple(params["bijector_0"], unpermuted)
    found = jax.jit(flow.to_noise)(NUMBERS, params, x)
    np.testing.assert_allclose(found[0], z, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1], first + last, rtol=1e-4, atol=1e-5)


def test_permutations_are_those_of_numpys_generator_by_index():
    assert permutation(0, 8).tolist() == [6, 2, 1, 7, 3, 0, 5, 4]
    assert permutation(1, 8).tolist() == [7, 2, 1, 6, 0, 4, 3, 5]


def test_permute_and_its_derivatives_are_those_of_indexing():
    order = permutation(3, 7)
    x = jax.random.normal(KEY, (2, 4, 7))
    weights = jnp.arange(7.0)
    ours = lambda x: jnp.sum(weights * permute(x, order) ** 2)
    plain = lambda x: jnp.sum(weights * x[:, order] ** 2)
    for of in (lambda f: f, jax.grad, jax.hessian):
        found, expected = jax.vmap(of(ours))(x), jax.vmap(of(plain))(x)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    for function, has_scatter in ((ours, False), (plain, True)):
        program = jax.jit(jax.grad(function)).lower(x[0]).as_text()
        assert ("scatter" in program) == has_scatter


@pytest.mark.parametrize("num_bijectors", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_variables_counted_as_kept_are_those_that_no_parameter_moves(
    kind, num_bijectors
):
    flow, params = anywhere(kind, num_bijectors, num_dims=16)
    found = jacobian(flow, params, jax.random.normal(KEY, (16,)))
    is_one_variable = (found == found.astype(bool)).all(1) & (found.sum(1) == 1)
    assert flow.num_kept(16) == is_one_variable.sum()
    assert (num_bijectors, flow.num_kept(16)) != (1, 0) or kind == "maf"


@pytest.mark.parametrize("family", [nvp, maf])
def test_the_initial_loss_is_that_of_the_identity(family):
    task = small(family, batch_size=1000)
    zeros = zero_params(task)
    loss = jax.jit(Task.loss)(task, zeros, task.batch("train", KEY), KEY)
    np.testing.assert_allclose(loss, task.numbers.initial_loss, rtol=0.01)


def test_the_noise_has_a_standard_deviation_of_a_hundredth_and_is_drawn_anew():
    task = small(nvp)
    zeros = zero_params(task)
    batch = task.batch("train", KEY)
    keys = jax.random.split(KEY, 2000)
    losses = jax.jit(jax.vmap(lambda key: task.loss(zeros, batch, key)))(keys)
    assert len(np.unique(losses)) > 1500
    x = np.asarray(batch.inputs, np.float64).reshape(16, 64)
    noiseless = 0.5 * (64 * np.log(2 * np.pi) + (x**2).sum(1).mean())
    added = np.mean(np.asarray(losses, np.float64) - noiseless)
    # 64 / 2 of the variance; this mean's own standard deviation is 0.0003
    np.testing.assert_allclose(added, 64 / 2 * 1e-4, atol=0.0012)


def test_the_best_loss_is_reached_by_the_noise_around_one_image():
    task = small(maf, num_bijectors=1, batch_size=512)
    batch = task.batch("train", KEY)
    image = batch.inputs[0]
    params = zero_params(task)
    log_scale = jnp.full(64, np.log(NOISE_STD))
    params["bijector_0"]["layer_1"]["b"] = jnp.append(image.reshape(-1), log_scale)
    same = batch._replace(inputs=jnp.broadcast_to(image, batch.inputs.shape))
    loss = jax.jit(Task.loss)(task, params, same, KEY)
    np.testing.assert_allclose(task.numbers.best_loss, 64 * ENTROPY, rtol=1e-5)
    np.testing.assert_allclose(loss, task.numbers.best_loss, atol=1.0)


def test_a_coupling_can_only_gain_on_the_half_that_it_moves():
    task = small(nvp, num_bijectors=1)
    half = task.numbers.initial_loss / 2 + 32 * ENTROPY
    np.testing.assert_allclose(task.numbers.best_loss, half, rtol=1e-5)


@pytest.mark.parametrize("family", [nvp, maf])
def test_training_leads_from_the_initial_loss_towards_the_best(family):
    task = small(family, activation="tanh", hidden=(32,), batch_size=32)
    optimizer = optax.adam(1e-2)

    def step(state, key):
        params, opt_state = state
        batch = task.batch("train", key)
        loss, grads = jax.value_and_grad(task.loss)(params, batch, key)
        updates, opt_state = optimizer.update(grads, opt_state)
        return (optax.apply_updates(params, updates), opt_state), loss

    params = task.init(KEY)
    keys = jax.random.split(KEY, 300)
    _, losses = jax.jit(lambda state: jax.lax.scan(step, state, keys))(
        (params, optimizer.init(params))
    )
    assert task.normalize(losses[:5].mean()) > 0.8
    assert 0.2 < task.normalize(losses[-20:].mean()) < 0.65


@pytest.mark.parametrize("family", [nvp, maf])
def test_lanes_of_a_stack_compute_what_the_tasks_compute_alone(family):
    tasks = [
        small(family, activation="cos", initializer="he_uniform"),
        small(family, activation="relu", initializer="glorot_normal"),
        small(family, initializer="random_normal", initializer_scale=0.1),
    ]
    stacked = tasksets.stack(tasks)

    def loss_and_slope(task, key):
        params = task.init(key)
        batch = task.batch("train", key)
        loss, grads = jax.value_and_grad(task.loss)(params, batch, key)
        return loss, optax.tree.norm(grads)

    axes = tasksets.lane_axes(stacked)
    found = jax.jit(jax.vmap(loss_and_slope, in_axes=(axes, None)))(stacked, KEY)
    alone = [jax.jit(loss_and_slope)(task, KEY) for task in tasks]
    np.testing.assert_allclose(found, np.transpose(alone), rtol=1e-3)
    assert len({float(loss) for loss, _ in alone}) == 3


def test_masks_are_made_in_the_program_and_not_stored_in_it():
    task = small(maf, hidden=(256, 256))
    params, batch = jax.eval_shape(lambda: (task.init(KEY), task.batch("train", KEY)))
    program = jax.make_jaxpr(jax.grad(task.loss))(params, batch, KEY)
    assert all(np.size(const) <= 64 for const in program.consts)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", [nvp, maf])
def test_sampled_tasks_have_gradients_like_their_parameters(family, seed):
    config = dataclasses.replace(family.sample(seed), dataset="digits", hidden=(4,))
    task = Task(*family.build(config))

    def loss_and_grads(task, key):
        params, batch = task.init(key), task.batch("train", key)
        return params, jax.value_and_grad(task.loss)(params, batch, key)

    params, (loss, grads) = jax.eval_shape(loss_and_grads, task, KEY)
    assert (loss.shape, loss.dtype) == ((), jnp.float32)
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, params)
    assert len(params) == config.num_bijectors
    assert task.numbers.best_loss < task.numbers.initial_loss


def test_the_fixed_tasks_are_tasksets_eight():
    table = {
        name: (config.dataset, config.num_bijectors, config.hidden, config.initializer)
        for group in (fixed_nvp.FIXED, fixed_maf.FIXED)
        for name, config in group.configs.items()
    }
    wide, thin = (2048, 2048), (128, 128)
    assert table == {
        "FixedNVP_mnist_2layer_bs64": ("mnist", 2, wide, "glorot_uniform"),
        "FixedNVP_mnist_5layer_bs64": ("mnist", 5, wide, "glorot_uniform"),
        "FixedNVP_mnist_5layer_thin_bs64": ("mnist", 5, thin, "glorot_uniform"),
        "FixedNVP_mnist_3layer_thin_bs64": ("mnist", 3, thin, "glorot_uniform"),
        "FixedNVP_mnist_9layer_thin_bs16": ("mnist", 9, thin, "glorot_uniform"),
        "FixedMAF_mnist_2layer_bs64": ("mnist", 2, wide, "glorot_normal"),
        "FixedMAF_mnist_3layer_thin_bs64": ("mnist", 3, thin, "glorot_normal"),
        "FixedMAF_cifar10_3layer_bs64": ("cifar10", 3, (1024, 1024), "glorot_normal"),
    }
    for group in (fixed_nvp.FIXED, fixed_maf.FIXED):
        assert {config.batch_size for config in group.configs.values()} == {64}
        assert {config.num_per_valid for config in group.configs.values()} == {3000}


@pytest.mark.parametrize("group", [fixed_nvp.FIXED, fixed_maf.FIXED])
def test_a_fixed_task_starts_near_the_identity(group):
    config = next(iter(group.configs.values()))
    config = dataclasses.replace(config, dataset="digits", hidden=(64, 64))
    task = Task(*group.build(config))
    start = lambda task: task.loss(task.init(KEY), task.batch("train", KEY), KEY)
    np.testing.assert_allclose(
        jax.jit(start)(task), task.numbers.initial_loss, rtol=0.2
    )


def test_a_flow_of_no_bijectors_is_refused():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        small(nvp, num_bijectors=0)
