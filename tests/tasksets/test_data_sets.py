"""Data sets: disjoint splits, what batches hold, and loading."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.core import Tracer

import tasksets
from tasksets import data as data_module
from tasksets.data import Dataset, DatasetInfo, Split, draw_indices, take
from tasksets.task import SPLITS

every_set = pytest.mark.parametrize("name", tasksets.bundled.NAMES)


@every_set
def test_no_example_is_in_two_splits_or_twice_in_one(name):
    data = tasksets.load(name)
    contents = [
        row.tobytes() for s in SPLITS for row in np.asarray(getattr(data, s).inputs)
    ]
    assert len(contents) == len(set(contents))


@every_set
def test_splits_have_every_class_and_held_out_splits_are_equally_large(name):
    data = tasksets.load(name)
    for split in SPLITS:
        labels = np.asarray(getattr(data, split).labels)
        assert labels.dtype == np.int32
        assert set(labels) == set(range(data.info.num_classes))
    sizes = [len(getattr(data, split).labels) for split in SPLITS]
    assert sizes[1] == sizes[2] == sizes[3] == sum(sizes) // 9


@every_set
def test_inputs_are_stored_bytes_or_standardised_with_training_statistics(name):
    data = tasksets.load(name)
    inputs = np.asarray(data.train.inputs)
    assert inputs.shape[1:] == data.info.shape
    if name == "digits":
        assert inputs.dtype == np.uint8 and inputs.max() == 16
        assert len(inputs) == 1200
    else:
        assert inputs.dtype == np.float32
        np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-5)
        np.testing.assert_allclose(inputs.std(0), 1, atol=1e-4)


def test_a_data_set_is_loaded_once_even_when_first_loaded_in_a_trace():
    data_module._load.cache_clear()
    jax.jit(lambda: tasksets.load("iris").train.inputs.sum())()
    data = tasksets.load("iris")
    assert not isinstance(data.train.inputs, Tracer)
    assert tasksets.load("iris") is data


def test_a_registered_loader_serves_any_family():
    rng = np.random.RandomState(0)
    split = lambda n: tasksets.Split(
        jnp.uint8(rng.randint(0, 256, (n, 6, 6, 3))),
        jnp.int32(rng.randint(0, 4, n)),
    )
    info = tasksets.DatasetInfo("noise_rgb", (6, 6, 3), 4, scale=1 / 255)
    loader = lambda: tasksets.Dataset(split(50), split(9), split(9), split(9), info)
    tasksets.register_data("noise_rgb", loader)
    try:
        # seed 109 flips nothing, crops nothing, and changes colours
        task = tasksets.get("mlp_family/seed109@noise_rgb")
        assert "color=True" in str(task.problem)
        key = jax.random.key(0)
        params, batch = task.init(key), task.batch("train", key)
        assert batch.inputs.shape == (14, 6, 6, 3)
        assert np.isfinite(task.loss(params, batch, key))
        stored = {row.tobytes() for row in np.asarray(task.data.train.inputs) / 255}
        assert not any(row.tobytes() in stored for row in np.asarray(batch.inputs))
        small = tasksets.get("small_mlp/seed0@noise_rgb")
        assert small.batch("test", key).inputs.max() <= 1
    finally:
        del data_module._LOADERS["noise_rgb"]


def test_known_sets_that_are_not_here_and_unknown_ones_have_different_errors(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(tasksets.DataNotFoundError, match="'cifar10'"):
        tasksets.load("cifar10")
    with pytest.raises(tasksets.UnknownNameError, match="nearest: .*cifar10"):
        tasksets.load("cifar11")


def test_indices_are_uniform_and_in_range():
    indices = draw_indices(jnp.int32(7), 70000, jax.random.key(0))
    counts = np.bincount(indices, minlength=7)
    assert len(counts) == 7
    # Six degrees of freedom: 22.5 is exceeded with probability 0.001.
    assert np.sum((counts - 10000) ** 2 / 10000) < 22.5
    # A population that one in 128 misses must be told from this one.
    assert np.sum((np.bincount(indices % 6, minlength=7) - 10000) ** 2 / 10000) > 22.5


def test_an_index_never_leaves_a_set_of_one_or_of_millions():
    for n in (1, 3_000_000):
        indices = np.asarray(draw_indices(n, 10000, jax.random.key(1)))
        assert indices.min() >= 0 and indices.max() < n


def test_images_are_served_in_the_unit_interval_and_tables_as_they_are():
    digits, wine = tasksets.load("digits"), tasksets.load("wine")
    indices = jnp.arange(20)
    images = take(digits.train, indices, digits.info).inputs
    np.testing.assert_allclose(images, np.asarray(digits.train.inputs[:20]) / 16)
    np.testing.assert_array_equal(
        take(wine.test, indices[:5], wine.info).inputs, wine.test.inputs[:5]
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.arange(1, 5)}, "labels from 1 to 4, not from 0 to 3"),
        ({"labels": np.arange(4) / 4}, r"type float32 and shape \(4,\); one whole"),
        ({"labels": np.eye(4, dtype=int)}, r"shape \(4, 4\); one whole number"),
        ({"inputs": np.zeros((4, 3, 3, 3))}, r"shape \(3, 3, 3\), not \(2, 2, 1\)"),
        ({"inputs": np.zeros((4, 2, 2, 1), np.uint8)}, "scale=1/255"),
        ({"inputs": np.zeros((0, 2, 2, 1)), "labels": np.zeros(0, int)}, "0 inputs"),
    ],
)
def test_data_that_are_not_what_they_are_said_to_be_are_refused(changes, message):
    whole = {"inputs": np.zeros((4, 2, 2, 1)), "labels": np.arange(4)}
    good, bad = Split(**whole), Split(**{**whole, **changes})
    info = DatasetInfo("own", (2, 2, 1), 4)
    tasksets.register_data("own", lambda: Dataset(good, good, good, good, info))
    assert tasksets.load("own").size("test") == 4
    tasksets.register_data("own", lambda: Dataset(good, bad, good, good, info))
    with pytest.raises(ValueError, match=f"'own' has in 'inner_valid' .*{message}"):
        tasksets.load("own")
