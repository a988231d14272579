"""Names: what is read, how it is spelled, and what is said of a name nobody knows."""

import dataclasses
import pickle
import time

import jax
import numpy as np
import pytest

import tasksets
from tasksets import registry
from tasksets.data import DataNotFoundError
from tasksets.families import small_mlp
from tasksets.names import UnknownNameError


def test_taskset_spells_its_tasks_with_an_underscore():
    assert tasksets.get("quadratic_family_seed10").name == "quadratic_family/seed10"
    assert tasksets.get("mlp_family_seed7@iris").name == "mlp_family/seed7@iris"


def test_fields_of_a_name_change_the_config_and_are_spelled_one_way():
    name = "small_mlp/seed3?activation=tanh&hidden=128-64&dataset=wine&label_noise=1e-1"
    task = tasksets.get(name)
    assert task.name == (
        "small_mlp/seed3@wine?hidden=128-64&activation=tanh&label_noise=0.1"
    )
    params = task.init(jax.random.key(0))
    assert params["layer_0"]["w"].shape == (13, 128)
    assert params["layer_1"]["w"].shape == (128, 64)
    assert task.data is tasksets.load("wine")
    np.testing.assert_allclose(task.numbers.label_noise, 0.1)


def test_optional_and_boolean_fields_are_read_by_type():
    config = registry.config(
        "mlp_family/seed0@digits?augmentation=none&center=true&num_train=None"
    )
    assert config.augmentation is None and config.num_train is None
    assert config.center is True
    assert registry.config("small_mlp/seed0?hidden=none").hidden == ()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mpl_family/seed1", "unknown family 'mpl_family'; nearest: mlp_family"),
        ("small_mlp/seed1?hiden=3", "unknown field of small_mlp 'hiden'; .* hidden"),
        ("small_mlp/seed1?activation=tan", "unknown activation 'tan'; nearest: tanh"),
        ("mlp_family/seed1@digits?initializer=he", "unknown initializer 'he'"),
        ("small_mlp/seed1@digit", "unknown data set 'digit'; nearest: digits"),
    ],
)
def test_an_unknown_name_shows_the_nearest(name, message):
    with pytest.raises(tasksets.UnknownNameError, match=message):
        tasksets.get(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlp_family", "is a family; its tasks are 'mlp_family/seed0'"),
        ("mlp_family/seed7/", "cannot read the task name"),
        ("small_mlp/seed1?hidden=a", "cannot read hidden='a'"),
        ("small_mlp/seed1?hidden", "not of form field=value"),
        ("small_mlp/seed1@digits?dataset=wine", "sets dataset twice"),
        ("small_mlp/seed1?num_train=0", "num_train is at least 1"),
        ("mlp_family/seed0@digits?augmentation=flips", "cannot read augmentation"),
        (
            "char_rnn_language_model_family/seed0?core_initializers=abc",
            "cannot read core_initializers='abc' as tuple",
        ),
        (
            "mlp_family/seed7@digits?num_per_valid=9",
            "'digits' comes in its four splits",
        ),
        ("vit/seed7?just_train=true", "unknown field of vit 'just_train'"),
        ("quadratic_family/seed1@digits", "no data set to swap"),
        ("quadratic_family/seed1?output=sqrt&dims=3", "identity or log"),
    ],
)
def test_a_malformed_name_says_what_is_wrong(name, message):
    with pytest.raises((ValueError, LookupError), match=message):
        tasksets.get(name)


def test_a_data_set_that_is_not_here_is_never_replaced(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(tasksets.DataNotFoundError) as caught:
        tasksets.get("mlp_family/seed10")
    message = str(caught.value)
    assert "'cifar10'" in message and "'mlp_family/seed10@digits'" in message
    for bundled in tasksets.bundled.NAMES:
        assert bundled in message


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("mlp_family/seed10?hidden=8", "mlp_family/seed10@digits?hidden=8"),
        ("mlp_family/seed7?dataset=cifar10", "mlp_family/seed7@digits"),
        ("mlp_family/seed7?num_per_valid=9", "mlp_family/seed7@digits"),
        ("conv_fc_family/seed96", "conv_fc_family/seed96@digits?padding=SAME"),
        (
            "conv_pooling_family/seed93?padding=VALID&batch_size=3",
            "conv_pooling_family/seed93@digits?batch_size=3&padding=SAME",
        ),
        (
            "word_rnn_language_model_family/seed0@lm1b/subwords8k?core_size=3",
            "word_rnn_language_model_family/seed0@python_docs/subwords8k?core_size=3",
        ),
        (
            "char_rnn_language_model_family/seed0@lm1b?core_size=3",
            "char_rnn_language_model_family/seed0@python_docs/bytes?core_size=3",
        ),
    ],
)
def test_the_example_with_bundled_data_is_a_task(tmp_path, monkeypatch, name, example):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(tasksets.DataNotFoundError) as caught:
        tasksets.get(name)
    assert f"as in {example!r}." in str(caught.value)
    assert tasksets.get(example).name == example


@pytest.mark.parametrize(
    "name",
    ["small_mlp/seed1@digits", "mlp_family/seed7@digits", "quadratic_family_seed10"],
)
def test_a_small_task_is_there_in_milliseconds(name):
    tasksets.get(name)
    times = []
    for _ in range(10):
        start = time.perf_counter()
        jax.block_until_ready(tasksets.get(name))
        times.append(time.perf_counter() - start)
    assert min(times) < 0.01


@pytest.mark.parametrize("name", ["my-mlp", "2d", "a+b", "mlp/seed3"])
def test_a_name_that_no_task_could_have_cannot_be_registered(name):
    family = dataclasses.replace(small_mlp.FAMILY, name=name)
    with pytest.raises(ValueError, match="cannot name tasks"):
        tasksets.register(family)
    assert name not in tasksets.families()
    with pytest.raises(ValueError, match="'toy_seed1' cannot name tasks"):
        tasksets.register(
            tasksets.FixedTasks("toys", {"toy_seed1": None}, family.build)
        )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mlp_family/seed7@digits?just_train=true", "would change nothing"),
        ("rnn_text_classification_family/seed0?sampled_dataset=x", "change nothing"),
        ("transformer_lm/seed0@python_docs?batch_size=0", "batch_size is at least 1"),
        ("pinn/seed0?batch_size=0", "batch_size is at least 1"),
        ("small_mlp/seed3?label_noise=20", "label_noise is in"),
        ("small_mlp/seed3?reparam_scale=0", "reparam_scale is positive"),
        ("vit/seed0@iris", "needs images; 'iris' is a table"),
        ("resnet/seed0@wine", "needs images; 'wine' is a table"),
    ],
)
def test_what_cannot_be_meant_in_a_name_is_an_error(name, message):
    with pytest.raises(ValueError, match=message):
        tasksets.get(name)


def test_a_family_can_be_registered_once():
    with pytest.raises(ValueError, match="already"):
        tasksets.register(small_mlp.FAMILY)


@pytest.mark.parametrize(
    "error",
    [
        UnknownNameError("suite", "taskst", ["taskset", "small"]),
        DataNotFoundError("mnist", task="mlp_family/seed7"),
    ],
)
def test_an_error_is_the_same_in_another_process(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error)
