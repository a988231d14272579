"""mlp_family: its loss in closed form, and values that must never change."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets.classification import accuracy, cross_entropy

KEY = jax.random.key(11)


def test_cross_entropy_is_minus_the_log_of_the_labels_softmax():
    logits = jax.random.normal(KEY, (5, 4)) * 3
    labels = jnp.array([0, 3, 1, 1, 2])
    chance = np.asarray(jax.nn.softmax(logits))[np.arange(5), labels]
    np.testing.assert_allclose(
        cross_entropy(logits, labels), -np.log(chance).mean(), rtol=1e-5
    )
    shifted = cross_entropy(logits + 300, labels)
    np.testing.assert_allclose(shifted, cross_entropy(logits, labels), rtol=1e-4)
    assert accuracy(jax.nn.one_hot(labels, 4), labels) == 1
    np.testing.assert_allclose(accuracy(jax.nn.one_hot(labels % 2, 4), labels), 0.6)


def test_the_loss_is_that_of_the_network_written_out():
    # seed 123: six layers, leaky_relu with slope .4
    task = tasksets.get("mlp_family/seed123@digits?hidden=5-3")
    params, batch = task.init(KEY), task.batch("train", KEY)
    x = np.asarray(batch.inputs).reshape(238, 64)
    for i in range(3):
        if i:
            x = np.where(x > 0, x, 0.4 * x)
        layer = params[f"layer_{i}"]
        x = x @ np.asarray(layer["w"]) + np.asarray(layer["b"])
    expected = cross_entropy(jnp.asarray(x), batch.labels)
    np.testing.assert_allclose(task.loss(params, batch, KEY), expected, rtol=1e-4)


def test_centred_images_are_in_minus_one_to_one():
    inputs = {
        center: tasksets.get(f"mlp_family/seed10@digits?center={center}")
        .batch("train", KEY)
        .inputs
        for center in ("true", "false")
    }
    np.testing.assert_allclose(inputs["true"], 2 * inputs["false"] - 1, atol=1e-6)
    assert inputs["false"].min() == 0


def test_training_batches_come_from_the_first_num_train_examples():
    task = tasksets.get("mlp_family/seed104@digits?num_train=3")
    data = tasksets.load("digits")
    first = {
        row.tobytes() for row in np.asarray(data.train.inputs[:3]) / np.float32(16)
    }
    batch = task.batch("train", KEY)
    assert {row.tobytes() for row in np.asarray(batch.inputs)} == first
    held_out = task.batch("inner_valid", KEY)
    assert len({row.tobytes() for row in np.asarray(held_out.inputs)}) > 100


GOLDEN = {
    "mlp_family/seed10@digits?hidden=4": ("b6882093e1116d97", -0.0525156669, 2.2458052),
    "small_mlp/seed4@digits?hidden=4": ("6c8b72b4f899bfbf", -0.0011639171, 2.2999913),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_a_name_means_the_same_task_in_every_process_and_version(name):
    batch_digest, weight, loss = GOLDEN[name]
    task = tasksets.get(name)
    key = jax.random.key(2020)
    params, batch = task.init(key), task.batch("train", key)
    digest = hashlib.sha256()
    for leaf in batch:
        digest.update(np.asarray(leaf).tobytes())
    found = (
        digest.hexdigest()[:16],
        float(params["layer_0"]["w"][2, 1]),
        float(task.loss(params, batch, key)),
    )
    assert found == (
        batch_digest,
        pytest.approx(weight, rel=1e-5),
        pytest.approx(loss, rel=1e-4),
    )
