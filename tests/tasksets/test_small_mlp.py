"""small_mlp: its numbers change what they should and nothing else."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tasksets
from tasksets.families import small_mlp

KEY = jax.random.key(5)


def _task(config):
    problem, numbers, data = small_mlp.build(config)
    return tasksets.Task(problem, numbers, data)


def _with(**fields):
    return _task(dataclasses.replace(small_mlp.sample(3), **fields))


@pytest.mark.parametrize("scale", [0.03, 1.0, 30.0])
def test_reparametrisation_leaves_the_loss_and_scales_params_and_gradient(scale):
    plain, scaled = _with(reparam_scale=1.0), _with(reparam_scale=scale)
    batch = plain.batch("train", KEY)
    params, scaled_params = plain.init(KEY), scaled.init(KEY)
    loss, grads = jax.value_and_grad(plain.loss)(params, batch, KEY)
    scaled_loss, scaled_grads = jax.value_and_grad(scaled.loss)(
        scaled_params, batch, KEY
    )
    np.testing.assert_allclose(scaled_loss, loss, rtol=1e-5)
    for name in params:
        w, scaled_w = params[name]["w"], scaled_params[name]["w"]
        np.testing.assert_allclose(scaled_w * scale, w, rtol=1e-5)
        g, scaled_g = grads[name]["w"], scaled_grads[name]["w"]
        np.testing.assert_allclose(scaled_g / scale, g, rtol=1e-3, atol=1e-6)


def test_init_scale_is_the_deviation_of_a_unit_before_the_activation():
    weights = _with(init_scale=2.0, reparam_scale=1.0, hidden=(300,)).init(KEY)
    np.testing.assert_allclose(weights["layer_0"]["w"].std(), 2 / 8, rtol=0.05)
    assert not np.any(weights["layer_0"]["b"])


def _labels_by_input(task, split, num_batches=40):
    keys = jax.random.split(jax.random.key(0), num_batches)
    batches = jax.jit(jax.vmap(lambda key: task.batch(split, key)))(keys)
    seen: dict[bytes, set[int]] = {}
    inputs = np.asarray(batches.inputs).reshape(-1, 64)
    for row, label in zip(inputs, np.asarray(batches.labels).ravel(), strict=True):
        seen.setdefault(row.tobytes(), set()).add(int(label))
    return seen


def test_label_noise_is_fixed_for_an_example_and_hits_the_right_fraction():
    clean = _labels_by_input(_with(label_noise=0.0, train_fraction=1.0), "train")
    noisy = _labels_by_input(_with(label_noise=0.5, train_fraction=1.0), "train")
    assert all(len(labels) == 1 for labels in noisy.values())
    assert clean.keys() == noisy.keys() and len(clean) > 1000
    changed = np.mean([clean[row] != noisy[row] for row in clean])
    # A uniform label is the old one in a tenth of cases; a deviation is 0.02.
    assert abs(changed - 0.5 * 0.9) < 0.08


def test_label_noise_draws_every_label_equally_often():
    indices = jnp.arange(20000)
    noisy = small_mlp.noisy_labels(
        jnp.full(20000, 3), indices, jnp.float32(1.0), jnp.int32(1), 10
    )
    counts = np.bincount(noisy, minlength=10)
    # Nine degrees of freedom: 27.9 is exceeded with probability 0.001.
    assert np.sum((counts - 2000) ** 2 / 2000) < 27.9


def test_another_seed_makes_other_labels_noise():
    one, other = (
        _labels_by_input(_with(label_noise=0.5, seed=seed, num_train=300), "train")
        for seed in (1, 2)
    )
    differing = np.mean([one[row] != other[row] for row in one])
    assert 0.3 < differing < 0.95


@pytest.mark.parametrize("split", ["inner_valid", "outer_valid", "test"])
def test_held_out_labels_have_no_noise(split):
    clean, noisy = _with(label_noise=0.0), _with(label_noise=1.0)
    np.testing.assert_array_equal(
        clean.batch(split, KEY).labels, noisy.batch(split, KEY).labels
    )
    assert np.any(clean.batch("train", KEY).labels != noisy.batch("train", KEY).labels)


def test_the_family_has_four_structures_and_its_numbers_are_in_range():
    configs = [small_mlp.sample(seed) for seed in range(400)]
    structures = {(config.hidden, config.activation) for config in configs}
    assert len(structures) == 4
    quiet = np.mean([config.label_noise == 0 for config in configs])
    assert abs(quiet - 0.5) < 0.1
    assert all(0 <= config.label_noise <= 0.2 for config in configs)
    assert all(0.5 <= config.init_scale <= 2 for config in configs)
    assert all(0.03 <= config.reparam_scale <= 30 for config in configs)


def test_the_training_set_goes_from_256_examples_to_all():
    sizes = [_with(train_fraction=u).numbers.num_train for u in (0.0, 0.5, 1.0)]
    assert sizes == [256, round(np.sqrt(256 * 1200)), 1200]
    assert _with(train_fraction=0.0, dataset="iris").numbers.num_train == 101
    assert _with(num_train=10).numbers.num_train == 10
    assert _with(num_train=10**6).numbers.num_train == 1200


@settings(max_examples=5, deadline=None)
@given(
    hidden=st.lists(st.integers(1, 6), max_size=2).map(tuple),
    activation=st.sampled_from(["relu", "tanh", "cos"]),
    init_scale=st.floats(0.5, 2),
    reparam_scale=st.floats(0.03, 30),
    label_noise=st.floats(0, 1),
    num_train=st.none() | st.integers(1, 2000),
    batch_size=st.integers(1, 5),
    dataset=st.sampled_from(tasksets.bundled.NAMES),
)
def test_any_config_gives_a_name_that_gives_the_config(**fields):
    spelled = "&".join(f"{field}={_spell(value)}" for field, value in fields.items())
    task = tasksets.get(f"small_mlp/seed3?{spelled}")
    assert tasksets.config(task.name) == dataclasses.replace(
        small_mlp.sample(3), **fields
    )
    params, batch = task.init(KEY), task.batch("train", KEY)
    loss = task.loss(params, batch, KEY)
    assert np.isfinite(loss) and loss >= 0
    assert batch.labels.shape == (fields["batch_size"],)
    assert np.all(batch.labels < tasksets.load(fields["dataset"]).info.num_classes)


def _spell(value):
    if isinstance(value, tuple):
        return "-".join(map(str, value)) or "none"
    return "none" if value is None else value
