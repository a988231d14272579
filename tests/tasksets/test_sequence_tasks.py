"""Associative recall and copying: every answer can be told, by a rule or by weights."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets.classification import cross_entropy
from tasksets.fixed import associative, copy
from tasksets.fixed.associative import Pairs
from tasksets.recurrent import default_core
from tasksets.task import SPLITS, Task

KEY = jax.random.key(8)
SMALL = {
    "associative": dataclasses.replace(
        associative.FIXED.configs["Associative_GRU128_BS128_Pairs10_Tokens50"],
        **{"core_size": 5, "batch_size": 6, "num_pairs": 3, "num_tokens": 4},
    ),
    "copy": dataclasses.replace(
        copy.FIXED.configs["Copy_LSTM128_BS128_Length5_Tokens10"],
        **{"core_size": 5, "batch_size": 6, "length": 3, "num_tokens": 4},
    ),
}
BUILD = {"associative": associative.build, "copy": copy.build}
every_kind = pytest.mark.parametrize("kind", SMALL)


def _small(kind: str, **fields) -> Task:
    return Task(*BUILD[kind](dataclasses.replace(SMALL[kind], **fields)))


def _recall(tokens: np.ndarray, num_tokens: int) -> int:
    *pairs, mark, asked = tokens.tolist()
    assert mark == num_tokens + 1
    return dict(zip(pairs[::2], pairs[1::2], strict=True))[asked]


@pytest.mark.parametrize("name", associative.FIXED.configs)
def test_the_value_asked_for_is_that_of_its_key(name):
    config = associative.FIXED.configs[name]
    batch = Task(*associative.build(config)).batch("train", KEY)
    pairs, tokens = config.num_pairs, config.num_tokens
    assert batch.tokens.shape == (128, 2 * pairs + 2)
    assert batch.answers.shape == (128, 1)
    read = np.asarray(batch.tokens)
    for row, answer in zip(read, np.asarray(batch.answers)[:, 0], strict=True):
        assert _recall(row, tokens) == answer
        assert len(set(row[: 2 * pairs : 2].tolist())) == pairs
    assert read[:, : 2 * pairs].min() == 0 and read[:, : 2 * pairs].max() == tokens - 1


def test_keys_values_and_questions_are_uniform():
    # 30000 draws: a frequency near 1/4 is known to 0.0025
    batch = jax.jit(Pairs(30000, 3, 4).make)(KEY)
    tokens = np.asarray(batch.tokens)
    frequencies = lambda column: np.bincount(column, minlength=4) / 30000
    for column in range(6):
        np.testing.assert_allclose(frequencies(tokens[:, column]), 0.25, atol=0.01)
    np.testing.assert_allclose(frequencies(tokens[:, -1]), 0.25, atol=0.01)
    place = np.argmax(tokens[:, 0:6:2] == tokens[:, -1:], axis=1)
    np.testing.assert_allclose(frequencies(place)[:3], 1 / 3, atol=0.01)
    orders = tokens[:, 0] * 16 + tokens[:, 2] * 4 + tokens[:, 4]
    counts = np.unique(orders, return_counts=True)[1] / 30000
    np.testing.assert_allclose(counts, np.full(24, 1 / 24), atol=0.006)


@pytest.mark.parametrize("name", copy.FIXED.configs)
def test_what_is_said_is_what_was_read(name):
    config = copy.FIXED.configs[name]
    batch = Task(*copy.build(config)).batch("train", KEY)
    length, tokens = config.length, config.num_tokens
    read = np.asarray(batch.tokens)
    assert read.shape == (128, 2 * length + 1)
    np.testing.assert_array_equal(read[:, :length], batch.answers)
    np.testing.assert_array_equal(read[:, length], tokens)
    np.testing.assert_array_equal(read[:, length + 1 :], tokens + 1)
    assert set(np.unique(batch.answers)) == set(range(tokens))


def test_a_shift_register_copies_without_error():
    # h = (one-hot of now, one-hot of 1 ago, ..., of length + 1 ago)
    length, vocab = 3, 6
    size = (length + 2) * vocab
    core = default_core("vanilla", size, trainable_state=False, activation="relu")
    task = _small("copy", **vars(core))
    params = task.init(KEY)
    read, shift = np.eye(vocab, size), np.eye(size, k=vocab)
    say = 50 * np.eye(size, vocab, k=-(length + 1) * vocab)
    for layer, w in (("in_to_hidden", read), ("hidden_to_hidden", shift)):
        params["cell"][layer]["w"] = jnp.asarray(w, jnp.float32)
    params["output"]["w"] = jnp.asarray(say, jnp.float32)
    batch = task.batch("test", KEY)
    assert task.loss(params, batch, KEY) < 1e-6
    assert task.metrics(params, batch, KEY)["accuracy"] == 1
    assert task.normalize(task.loss(params, batch, KEY)) < 1e-6
    params["output"]["w"] = jnp.roll(params["output"]["w"], 1, axis=1)
    assert task.loss(params, batch, KEY) > 10
    assert task.metrics(params, batch, KEY)["accuracy"] == 0


@every_kind
def test_the_loss_is_the_mean_over_answers_of_the_network_written_out(kind):
    task = _small(kind)
    params, batch = task.init(KEY), task.batch("train", KEY)
    problem, vocab = task.problem, 6
    one_hot = jnp.asarray(np.eye(vocab, dtype=np.float32)[np.asarray(batch.tokens)])
    outputs = problem.recurrent.apply(
        task.numbers.cell, params, one_hot.swapaxes(0, 1)
    ).swapaxes(0, 1)
    logits = outputs @ params["output"]["w"] + params["output"]["b"]
    num_answers = batch.answers.shape[1]
    chance = jax.nn.softmax(logits[:, -num_answers:])
    told = np.take_along_axis(
        np.asarray(chance), np.asarray(batch.answers)[..., None], axis=-1
    )
    loss = task.loss(params, batch, KEY)
    np.testing.assert_allclose(loss, -np.log(told).mean(), rtol=1e-5)
    np.testing.assert_allclose(loss, task.numbers.initial_loss, atol=0.5)
    uniform = cross_entropy(jnp.zeros((4, vocab)), jnp.arange(4))
    np.testing.assert_allclose(task.numbers.initial_loss, uniform, rtol=1e-6)


@every_kind
def test_gradients_reach_every_weight_and_the_four_splits_are_one_law(kind):
    task = _small(kind)
    params = task.init(KEY)
    batches = [task.batch(split, KEY) for split in SPLITS]
    grads = jax.grad(task.loss)(params, batches[0], KEY)
    for grad in jax.tree.leaves(grads):
        assert np.isfinite(grad).all() and np.any(grad != 0)
    for batch in batches[1:]:
        np.testing.assert_array_equal(batch.tokens, batches[0].tokens)
    other = task.batch("train", jax.random.key(9))
    assert np.any(other.tokens != batches[0].tokens)


def test_lanes_of_a_stack_read_their_own_sequences():
    tasks = [_small("associative"), _small("associative")]
    stacked = tasksets.stack(tasks)
    keys = jax.random.split(KEY, 2)
    axes = tasksets.lane_axes(stacked)
    batch = jax.vmap(lambda task, key: task.batch("train", key), in_axes=(axes, 0))
    for lane, found in enumerate(batch(stacked, keys).tokens):
        expected = tasks[lane].batch("train", keys[lane]).tokens
        np.testing.assert_array_equal(found, expected)


PARAMETERS = {
    # one-hot tokens: no embedding; the start of the state is not trained
    "Associative_LSTM128_BS128_Pairs5_Tokens20": (22 + 128 + 1) * 512 + 129 * 22,
    "Associative_GRU256_BS128_Pairs20_Tokens50": 3 * 256 * (52 + 256 + 1) + 257 * 52,
    "Copy_VRNN128_BS128_Length20_Tokens10": 128 * (12 + 128 + 2) + 129 * 12,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_fixed_task_has_the_parameters_that_it_has_in_taskset(name):
    group = associative if name.startswith("Associative") else copy
    task = Task(*group.build(group.FIXED.configs[name]))
    shapes = jax.eval_shape(task.init, KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]


def test_there_are_nine_of_each_and_their_names_say_what_they_are():
    for group in (associative, copy):
        assert len(group.FIXED.configs) == 9
        for name, config in group.FIXED.configs.items():
            core = {"lstm": "LSTM", "gru": "GRU", "vanilla": "VRNN"}[config.core]
            said = f"{core}{config.core_size}_BS{config.batch_size}"
            length = (
                f"Pairs{config.num_pairs}"
                if group is associative
                else f"Length{config.length}"
            )
            kind = group.FIXED.name.capitalize()
            assert name == f"{kind}_{said}_{length}_Tokens{config.num_tokens}"


def test_impossible_sequences_are_refused():
    with pytest.raises(ValueError, match="keys differ"):
        _small("associative", num_pairs=5)
    with pytest.raises(ValueError, match="at least 1"):
        _small("copy", length=0)


GOLDEN = {
    "associative": ("7bc0c56afb9147f2", 0.3066236674785614, 1.707650899887085),
    "copy": ("532ba4a4d35d62a8", 0.3066236674785614, 1.8123961687088013),
}


@every_kind
def test_a_task_is_the_same_in_every_process_and_version(kind):
    digest, weight, loss = GOLDEN[kind]
    task, key = _small(kind), jax.random.key(2020)
    params, batch = task.init(key), task.batch("train", key)
    tokens = np.asarray(batch.tokens, np.int32).tobytes()
    assert hashlib.sha256(tokens).hexdigest()[:16] == digest
    np.testing.assert_allclose(params["output"]["w"][2, 1], weight, rtol=1e-5)
    np.testing.assert_allclose(task.loss(params, batch, key), loss, rtol=1e-4)
