"""Recurrent language models: their loss in closed form, padding, and every seed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import tasksets
from tasksets.families import char_rnn_language_model, word_rnn_language_model
from tasksets.fixed import language_modeling
from tasksets.language_model import token_losses, weighted_mean
from tasksets.names import override, parse
from tasksets.task import SPLITS, Task
from tasksets.text import TextBatch

KEY = jax.random.key(12)
FAMILIES = {
    module.FAMILY.name: module.FAMILY
    for module in (char_rnn_language_model, word_rnn_language_model)
}
ENCODINGS = dict(zip(FAMILIES, ("bytes", "subwords8k"), strict=True))
TINY = "core_size=6&embedding_size=4&patch_length=7&batch_size=3"


def _get(name: str) -> Task:
    parsed = parse(name)
    if parsed.seed is None:
        group = language_modeling.FIXED
        config, build = group.configs[parsed.family], group.build
    else:
        family = FAMILIES[parsed.family]
        config, build = family.sample(parsed.seed), family.build
    config, canonical = override(config, parsed)
    return Task(*build(config), name=str(canonical))


def _tiny(family: str, seed: int, fields: str = "vocab_size=40") -> Task:
    dataset = f"python_docs/{ENCODINGS[family]}"
    return _get(f"{family}/seed{seed}@{dataset}?{TINY}&{fields}")


CHAR, WORD = FAMILIES


def _batch(tokens, lengths) -> TextBatch:
    tokens = jnp.asarray(tokens)
    mask = jnp.arange(tokens.shape[1]) < jnp.asarray(lengths)[:, None]
    return TextBatch(
        jnp.where(mask, tokens, 0), mask.astype(jnp.float32), jnp.zeros(len(tokens))
    )


def test_the_loss_of_a_token_is_minus_the_log_of_its_chance():
    logits = 3 * jax.random.normal(KEY, (2, 3, 5))
    targets = jnp.array([[0, 4, 2], [1, 1, 3]])
    chance = np.take_along_axis(
        np.asarray(jax.nn.softmax(logits)), np.asarray(targets)[..., None], axis=-1
    )[..., 0]
    np.testing.assert_allclose(
        token_losses(logits, targets), -np.log(chance), rtol=1e-5
    )
    certain = token_losses(50 * jax.nn.one_hot(targets, 5), targets)
    np.testing.assert_allclose(certain, 0, atol=1e-6)


def test_a_weighted_mean_of_nothing_is_nothing():
    values = jnp.array([[1.0, 2.0], [5.0, 7.0]])
    np.testing.assert_allclose(
        weighted_mean(values, jnp.array([[1, 1], [0, 1]])), 10 / 3
    )
    assert weighted_mean(values, jnp.zeros((2, 2))) == 0


@pytest.mark.parametrize("counts", ["true", "false"])
def test_the_loss_is_the_mean_over_tokens_of_the_network_written_out(counts):
    # seed 1: a vanilla core with relu, and a start of 0
    task = _tiny(CHAR, 1, f"vocab_size=40&padding_counts={counts}")
    params = task.init(KEY)
    batch = _batch(np.random.default_rng(0).integers(1, 60, (3, 7)), [7, 4, 1])
    w = jax.tree.map(np.asarray, params)
    h, losses, weights = np.zeros((3, 6)), [], []
    tokens = np.minimum(np.asarray(batch.tokens), 39)
    for t in range(6):
        x = w["embedding"]["w"][tokens[:, t]]
        first, second = w["cell"]["in_to_hidden"], w["cell"]["hidden_to_hidden"]
        h = np.maximum(x @ first["w"] + first["b"] + h @ second["w"] + second["b"], 0)
        logits = h @ w["output"]["w"] + w["output"]["b"]
        log_chance = np.asarray(jax.nn.log_softmax(logits))
        losses.append(-log_chance[np.arange(3), tokens[:, t + 1]])
        mask = np.asarray(batch.mask[:, t + 1])
        weights.append(np.ones(3) if counts == "true" else mask)
    expected = np.average(losses, weights=np.stack(weights))
    np.testing.assert_allclose(task.loss(params, batch, KEY), expected, rtol=1e-4)


def test_padding_counts_only_where_a_config_says_so():
    tokens = np.random.default_rng(0).integers(1, 40, (3, 7))
    batch, other = _batch(tokens, [7, 4, 2]), _batch(tokens, [7, 4, 2])
    other = other._replace(tokens=jnp.where(other.mask > 0, other.tokens, 17))
    with_padding, text_only = (
        _tiny(CHAR, 0, f"vocab_size=40&padding_counts={counts}")
        for counts in ("true", "false")
    )
    params = text_only.init(KEY)
    loss = lambda task, batch: float(task.loss(params, batch, KEY))
    assert loss(text_only, batch) == loss(text_only, other)
    assert loss(with_padding, batch) != loss(with_padding, other)
    whole = _batch(tokens, [7, 7, 7])
    np.testing.assert_allclose(loss(text_only, whole), loss(with_padding, whole))
    # what follows a document changes no gradient either
    grad = lambda batch: jax.grad(text_only.loss)(params, batch, KEY)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        grad(batch),
        grad(other),
    )


def test_both_kinds_of_mean_are_lanes_of_one_structure():
    tasks = [
        _tiny(CHAR, 0, f"vocab_size=40&padding_counts={counts}")
        for counts in ("true", "false")
    ]
    stacked = tasksets.stack(tasks)
    params = tasks[0].init(KEY)
    batch = _batch(np.random.default_rng(0).integers(1, 40, (3, 7)), [7, 4, 2])
    losses = jax.vmap(lambda task: task.loss(params, batch, KEY), in_axes=(
        tasksets.lane_axes(stacked),))(stacked)  # fmt: skip
    for lane, task in enumerate(tasks):
        np.testing.assert_allclose(
            losses[lane], task.loss(params, batch, KEY), rtol=1e-5
        )


def test_seeds_of_one_structure_are_lanes():
    # vanilla cores with relu and cos, and other laws of every weight
    tasks = [_tiny(CHAR, 1), _tiny(CHAR, 10)]
    stacked = tasksets.stack(tasks)
    axes, keys = (tasksets.lane_axes(stacked), 0), jax.random.split(KEY, 2)

    def start(task, key):
        params, batch = task.init(key), task.batch("train", key)
        return params, task.loss(params, batch, key)

    params, losses = jax.vmap(start, in_axes=axes)(stacked, keys)
    for lane, task in enumerate(tasks):
        alone, loss = start(task, keys[lane])
        np.testing.assert_allclose(losses[lane], loss, rtol=1e-5)
        for found, expected in zip(
            jax.tree.leaves(params), jax.tree.leaves(alone), strict=True
        ):
            np.testing.assert_allclose(found[lane], expected, rtol=1e-5, atol=1e-7)
    assert np.std(losses) > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sane_start_is_near_the_log_of_the_vocabulary(family):
    task = _tiny(family, 0, "vocab_size=200&initializer=glorot_uniform")
    losses = [
        task.loss(task.init(key), task.batch("train", key), key)
        for key in jax.random.split(KEY, 4)
    ]
    np.testing.assert_allclose(task.numbers.initial_loss, np.log(200), rtol=1e-6)
    np.testing.assert_allclose(np.mean(losses), np.log(200), atol=0.3)
    assert task.numbers.best_loss == 0


def test_accuracy_counts_the_tokens_whose_logit_is_largest():
    task = _tiny(CHAR, 0, "vocab_size=40&padding_counts=false")
    params = task.init(KEY)
    params["output"] = {"w": jnp.zeros((6, 40)), "b": jax.nn.one_hot(5, 40)}
    batch = _batch([[1, 5, 5, 2, 5], [5, 5, 5, 9, 9]], [5, 2])
    # of the tokens after the first: 5 5 2 5, and 5; the rest is padding
    accuracy = task.metrics(params, batch, KEY)["accuracy"]
    np.testing.assert_allclose(accuracy, 4 / 5)


def test_just_train_serves_the_training_documents_in_every_split():
    served = {}
    for just_train in ("true", "false"):
        task = _tiny(CHAR, 0, f"vocab_size=300&just_train={just_train}")
        served[just_train] = [np.asarray(task.batch(s, KEY).tokens) for s in SPLITS]
        wrapped = tasksets.get(f"{task.name}+bf16")
        assert task.one_split == wrapped.one_split == (just_train == "true")
    for tokens in served["true"]:
        np.testing.assert_array_equal(tokens, served["true"][0])
    assert np.any(served["false"][1] != served["false"][0])


@jax.jit
def _step(task: Task):
    params, batch = task.init(KEY), task.batch("train", KEY)
    return params, *jax.value_and_grad(task.loss)(params, batch, KEY)


def _start(family: str, seed: int) -> None:
    task = _tiny(family, seed)
    params, loss, grads = _step(task)
    assert loss.shape == () and loss.dtype == jnp.float32 and np.isfinite(loss)
    for grad in jax.tree.leaves(grads):
        assert grad.dtype == jnp.float32 and np.isfinite(grad).all()
    has_state = "state" in params
    assert has_state == FAMILIES[family].sample(seed).trainable_state


@pytest.mark.parametrize("seed", [0, 1, 11, 104, 107, 110])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_seed_starts_finite(family, seed):
    _start(family, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 250))
@pytest.mark.parametrize("family", FAMILIES)
def test_fifty_seeds_start_finite(family, seed):
    _start(family, seed)


def test_a_thousand_seeds_use_every_choice():
    configs = [FAMILIES[CHAR].sample(seed) for seed in range(1000)]
    cores = [config.core for config in configs]
    for core in ("vanilla", "gru", "lstm"):
        # a third, with a standard deviation of 0.015
        assert abs(cores.count(core) / 1000 - 1 / 3) < 0.06
    assert len({config.dataset for config in configs}) == 11
    assert abs(np.mean([config.vocab_size == 256 for config in configs]) - 0.8) < 0.06
    assert abs(np.mean([config.just_train for config in configs]) - 0.2) < 0.06
    linked = [
        len({law for _, law in config.core_initializers}) == 1
        for config in configs
        if config.core == "gru"
    ]
    assert abs(np.mean(linked) - 0.8) < 0.08
    assert all(10 <= config.patch_length <= 160 for config in configs)


def test_a_few_steps_of_adam_learn_to_spell():
    task = _get(
        "FixedLM_lm1b_patch128_GRU64_embed64_avg_bs128@python_docs"
        "?core_size=24&embedding_size=16&patch_length=24&batch_size=16"
    )
    adam = optax.adam(0.01)

    def step(carry, key):
        params, state = carry
        batch = task.batch("train", key)
        loss, grads = jax.value_and_grad(task.loss)(params, batch, key)
        updates, state = adam.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), loss

    params = task.init(KEY)
    keys = jax.random.split(KEY, 150)
    losses = jax.jit(lambda carry: jax.lax.scan(step, carry, keys)[1])(
        (params, adam.init(params))
    )
    np.testing.assert_allclose(losses[0], np.log(256), atol=0.3)
    assert losses[-10:].mean() < 3.2  # the entropy of single bytes is above 3


PARAMETERS = {
    "FixedLM_lm1b_patch128_GRU64_embed64_avg_bs128": (
        256 * 64 + 3 * 64 * (64 + 64 + 1) + 64 + 65 * 256
    ),
    "FixedLM_lm1b_patch128_LSTM128_embed64_avg_bs128": (
        256 * 64 + (64 + 128 + 1) * 512 + 2 * 128 + 129 * 256
    ),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_fixed_model_has_the_parameters_that_it_has_in_taskset(name):
    task = _get(f"{name}@python_docs")
    shapes = jax.eval_shape(task.init, KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]
    batch = jax.eval_shape(lambda key: task.batch("train", key), KEY)
    assert batch.tokens.shape == (128, 128)
    assert task.numbers.padding_weight == 0


def test_a_patch_of_one_token_has_nothing_to_predict():
    with pytest.raises(ValueError, match="patch_length is at least 2"):
        _get(f"{CHAR}/seed0@python_docs?patch_length=1")
