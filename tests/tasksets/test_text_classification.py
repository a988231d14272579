"""Recurrent classifiers of text: their loss written out, readouts, and every seed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tasksets.families.rnn_text_classification import FAMILY, build
from tasksets.fixed.text_rnn_classification import FIXED
from tasksets.names import UnknownNameError, override, parse
from tasksets.task import Task

KEY = jax.random.key(13)
TINY = "core_size=6&embedding_size=4&patch_length=7&batch_size=5"


def _get(name: str) -> Task:
    parsed = parse(name)
    plain = (
        FIXED.configs[parsed.family]
        if parsed.seed is None
        else FAMILY.sample(parsed.seed)
    )
    config, canonical = override(plain, parsed)
    return Task(*build(config), name=str(canonical))


def _tiny(seed: int, fields: str = "vocab_size=50") -> Task:
    return _get(f"{FAMILY.name}/seed{seed}@python_docs/subwords8k?{TINY}&{fields}")


READ = {
    "last": lambda outputs: outputs[-1],
    "avg": lambda outputs: outputs.mean(axis=0),
    "max": lambda outputs: outputs.max(axis=0),
}


@pytest.mark.parametrize("readout", READ)
def test_the_loss_is_that_of_the_network_written_out(readout):
    # seed 102: a vanilla core with tanh, and a start of 0
    task = _tiny(102, f"vocab_size=50&readout={readout}")
    params, batch = task.init(KEY), task.batch("train", KEY)
    w = jax.tree.map(np.asarray, params)
    h, outputs = np.zeros((5, 6)), []
    for tokens in np.minimum(np.asarray(batch.tokens), 49).T:
        x = w["embedding"]["w"][tokens]
        first, second = w["cell"]["in_to_hidden"], w["cell"]["hidden_to_hidden"]
        h = np.tanh(x @ first["w"] + first["b"] + h @ second["w"] + second["b"])
        outputs.append(h)
    logits = READ[readout](np.stack(outputs)) @ w["output"]["w"] + w["output"]["b"]
    log_chance = np.asarray(jax.nn.log_softmax(logits))
    labels = np.asarray(batch.labels)
    expected = -log_chance[np.arange(5), labels].mean()
    np.testing.assert_allclose(task.loss(params, batch, KEY), expected, rtol=1e-4)
    accuracy = np.mean(np.argmax(logits, axis=1) == labels)
    found = task.metrics(params, batch, KEY)["accuracy"]
    np.testing.assert_allclose(found, accuracy, rtol=1e-6)


def test_what_is_served_is_not_what_was_sampled():
    config = FAMILY.sample(109)
    assert config.sampled_dataset == "imdb_reviews/subwords8kimdb_reviews/bytes"
    assert config.dataset == "imdb_reviews/subwords8k"
    assert config.sampled_just_train and not config.just_train
    configs = [FAMILY.sample(seed) for seed in range(1000)]
    assert {config.dataset for config in configs} == {"imdb_reviews/subwords8k"}
    assert len({config.sampled_dataset for config in configs}) == 9
    assert not any(config.just_train for config in configs)
    assert abs(np.mean([c.sampled_just_train for c in configs]) - 0.2) < 0.06
    for readout in READ:
        share = np.mean([config.readout == readout for config in configs])
        assert abs(share - 1 / 3) < 0.06


def test_the_vocabulary_is_bounded_by_the_largest_token():
    rows = lambda task: task.init(KEY)["embedding"]["w"].shape[0]
    assert rows(_tiny(0, "vocab_size=9000")) == 8185
    assert rows(_tiny(0, "vocab_size=9000&max_token=none")) == 9000
    assert rows(_tiny(0, "vocab_size=300")) == 300


def test_a_sane_start_is_near_the_log_of_the_classes():
    task = _tiny(102, "vocab_size=200&initializer=glorot_uniform")
    num_classes = task.data.info.num_classes
    np.testing.assert_allclose(
        task.numbers.initial_loss, np.log(num_classes), rtol=1e-6
    )
    losses = [
        task.loss(task.init(key), task.batch("train", key), key)
        for key in jax.random.split(KEY, 6)
    ]
    np.testing.assert_allclose(np.mean(losses), np.log(num_classes), atol=0.5)


@jax.jit
def _step(task: Task):
    params, batch = task.init(KEY), task.batch("train", KEY)
    return params, *jax.value_and_grad(task.loss)(params, batch, KEY)


def _start(seed: int) -> None:
    task = _tiny(seed)
    params, loss, grads = _step(task)
    assert loss.shape == () and loss.dtype == jnp.float32 and np.isfinite(loss)
    for grad in jax.tree.leaves(grads):
        assert grad.dtype == jnp.float32 and np.isfinite(grad).all()
    assert ("state" in params) == FAMILY.sample(seed).trainable_state


@pytest.mark.parametrize("seed", [0, 1, 10, 11, 101, 103])
def test_every_kind_of_seed_starts_finite(seed):
    _start(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200, 250))
def test_fifty_seeds_start_finite(seed):
    _start(seed)


PARAMETERS = {
    "patch32_LSTM128_bs128": 640000 + (64 + 128 + 1) * 512 + 256 + 129 * 2,
    "patch128_LSTM128_embed128_bs64": 1280000 + (128 + 128 + 1) * 512 + 256 + 258,
    "patch32_GRU64_avg_bs128": 640000 + 3 * 64 * (64 + 64 + 1) + 64 + 65 * 2,
    "patch32_IRNN64_relu_avg_bs128": 640000 + 64 * (64 + 64 + 2) + 64 + 65 * 2,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_fixed_classifier_has_the_parameters_that_it_has_in_taskset(name):
    config = FIXED.configs[f"FixedTextRNNClassification_imdb_{name}"]
    # python_docs has more classes than the two of imdb
    problem, numbers, _ = build(dataclasses.replace(config, dataset="python_docs"))
    info = dataclasses.replace(problem.texts.info, num_classes=2)
    texts = dataclasses.replace(problem.texts, info=info)
    problem = dataclasses.replace(problem, texts=texts)
    shapes = jax.eval_shape(lambda key: problem.init(numbers, key), KEY)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETERS[name]


def test_the_names_of_the_twelve_say_what_they_are():
    assert len(FIXED.configs) == 12
    for name, config in FIXED.configs.items():
        _, _, patch, core, *rest = name.split("_")
        assert patch == f"patch{config.patch_length}"
        assert core[-len(str(config.core_size)) :] == str(config.core_size)
        kind = core.removesuffix(str(config.core_size)).lower()
        assert config.core == {"vrnn": "vanilla", "irnn": "vanilla"}.get(kind, kind)
        assert rest[-1] == f"bs{config.batch_size}"
        assert config.readout == ("avg" if "avg" in rest else "last")
        assert config.embedding_size == (128 if {"E128", "embed128"} & {*rest} else 64)
        if config.core == "vanilla":
            assert config.core_activation in rest
        laws = dict(config.core_initializers)
        assert (("identity", None) in laws.values()) == (kind == "irnn")


def test_errors_name_what_is_wrong():
    with pytest.raises(UnknownNameError, match="last"):
        _tiny(0, "vocab_size=50&readout=lats")
