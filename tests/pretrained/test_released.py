"""Weights that others released compute here what they compute there.

`released.json` has, for each optimizer, the arrays of theta by path and where 20 updates
lead, in float32 on a CPU: per_parameter_mlp and adafactor_mlp by google/learned_optimization
itself (version 0.0.1 with the later 1e-6 in one of the features), the others by what their
published sources compute, with haiku's layers. Theta, parameters, gradients and losses are
the waves below.
"""

import json
import pickle
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

import learned_opt
import pretrained
from learned_opt import Celo, Celo2, HyperV2
from meta_train import TrainConfig
from meta_train.evaluate.by_name import contender

REFERENCE = json.loads(Path(__file__).with_name("released.json").read_text("utf-8"))
SHAPES = {"bias": (7,), "conv": (3, 3, 2, 4), "dense": (5, 7), "scale": ()}
NUMBERS = {  # of the file; some have no effect
    "hyper_v2": 2_320_385,
    "celo": 37_089,
    "celo2": 347,
    "adafactor_mlp": 197,
    "per_parameter_mlp": 1_762,
}
every = pytest.mark.parametrize("name", REFERENCE)


def wave(shape, phase):
    n = int(np.prod(shape))
    i = np.arange(n, dtype=np.float64)
    x = np.sin(1.7 * i + 0.3 * i * i / (1 + n) + phase)
    return x.astype(np.float32).reshape(shape)


def waves(size, phases):
    return {
        name: jnp.asarray(size * wave(shape, phase))
        for (name, shape), phase in zip(SHAPES.items(), phases, strict=True)
    }


def gain(name, path, shape):
    """Of an array of theta: updates are then large enough to be compared."""
    first, last = path.split("/")[0], path.split("/")[-1]
    x = shape[-2] ** -0.5 if len(shape) > 1 else 0.1
    x = 0.02 if first.endswith("_decays") else x
    x *= 20 if last in ("w2", "b2") or "mlp/~/linear_2" in path else 1
    if "rnn_params/step_size" in path:
        x *= 5 if name == "hyper_v2" else 3
    return x


def tree_of(name):
    """The theta of a peer, nested as its haiku modules are."""
    tree = {}
    for path, shape in REFERENCE[name]["layout"].items():
        array = gain(name, path, shape) * wave(shape, zlib.crc32(path.encode()) % 1000)
        *above, leaf = _parts(path)
        inside = tree
        for part in above:
            inside = inside.setdefault(part, {})
        inside[leaf] = array.astype(np.float32)
    return tree


def _parts(path):
    """haiku's names of modules have slashes of their own."""
    for module in ("rnn/linear", *(f"mlp/~/linear_{i}" for i in range(3))):
        path = path.replace(module, module.replace("/", "|"))
    return [part.replace("|", "/") for part in path.split("/")]


def write(path, tree):
    path.write_bytes(serialization.to_bytes(tree))
    return path


@pytest.fixture
def file(tmp_path, name):
    """As meta-training there leaves it, with where it was."""
    state = {"params": tree_of(name), "gen_id": "a", "step": 5}
    return write(tmp_path / "params", state)


@every
@pytest.mark.parametrize("layout", [None, learned_opt.Flat], ids=["by tensor", "flat"])
def test_twenty_updates_lead_where_they_lead_there(file, name, layout):
    tx = pretrained.load(file).transform(num_steps=50, layout=layout)
    params = start = waves(0.5, range(4))
    state = tx.init(params)
    update = jax.jit(tx.update)
    for step in range(20):
        grads = waves(0.3, [10 * i + 0.7 * step for i in range(4)])
        loss = 2.0 * 0.9**step + 0.1 * np.sin(step)
        steps, state = update(grads, state, params, value=loss)
        params = jax.tree.map(jnp.add, params, steps)
    for tensor, expected in REFERENCE[name]["params"].items():
        before = np.ravel(start[tensor])
        moved = np.max(np.abs(np.array(expected) - before))
        assert moved > 5e-4
        np.testing.assert_allclose(
            np.ravel(params[tensor]), expected, rtol=0, atol=1e-4 * moved
        )


@every
def test_every_number_of_a_file_is_used_or_known_to_have_no_effect(file, name):
    arrays = REFERENCE[name]["layout"].values()
    assert sum(int(np.prod(shape)) for shape in arrays) == NUMBERS[name]
    theta = pretrained.load(file).theta
    unread = {"hyper_v2": 15_872, "celo": 1_281}
    used = sum(leaf.size for leaf in jax.tree.leaves(theta))
    assert used == NUMBERS[name] - unread.get(name, 0)


@pytest.mark.parametrize("name", ["celo", "hyper_v2"])
def test_theta_may_lie_alone_in_its_file_or_in_a_tuple(file, name, tmp_path):
    tree, expected = tree_of(name), pretrained.load(str(file)).theta
    for other in (tree, (tree, "", 0)):
        again = pretrained.load(write(tmp_path / "other", other)).theta
        jax.tree.map(np.testing.assert_array_equal, again, expected)


@pytest.mark.parametrize(
    "name, optimizer",
    [("hyper_v2", HyperV2(legacy=True)), ("celo", Celo()), ("celo2", Celo2())],
)
def test_what_was_read_can_be_saved_and_trained_on(file, name, optimizer, tmp_path):
    released = pretrained.load(file)
    assert released.optimizer == optimizer
    pretrained.save(tmp_path / "mine", optimizer, released.theta, released.card)
    saved = pretrained.load(tmp_path / "mine")
    jax.tree.map(np.testing.assert_array_equal, saved.theta, released.theta)
    assert saved.optimizer == optimizer
    config = TrainConfig(optimizer=name, init_from=str(file))
    assert config.learned_optimizer() == optimizer
    jax.tree.map(np.testing.assert_array_equal, config.initial_theta(), released.theta)


def test_a_file_is_the_name_of_a_contender(tmp_path):
    file = write(tmp_path / "theta.state", tree_of("celo2"))
    assert contender(str(file)).name == str(file)


@pytest.fixture
def with_config(tmp_path):
    """Reads VeLO's weights with some text in the config beside them."""
    file = write(tmp_path / "params", tree_of("hyper_v2"))

    def load(text):
        (tmp_path / "config.gin").write_text(f"# parameters\n{text}\n", "utf-8")
        return pretrained.load(file)

    return load


def test_forerunners_of_velo_are_told_by_the_config_beside_them(with_config):
    flag = "HyperV2.use_bugged_loss_features"
    assert with_config(f"{flag} = False").optimizer == HyperV2(legacy=True)
    before_there_was_a_choice = "HyperV2.param_inits = 256"
    for text in (f"a/{flag} = True", before_there_was_a_choice):
        with pytest.raises(ValueError, match="older than VeLO.*use_bugged_loss_feat"):
            with_config(text)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK\x03\x04 a zip", pickle.dumps({"ff_mod_stack": 1}), b"\x81\xa1a"],
)
def test_other_files_are_refused(tmp_path, content):
    file = tmp_path / "weights.pt"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"weights\.pt is not a file of weights"):
        pretrained.load(file)


def test_trees_of_other_optimizers_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has \['nn'\], and weights of VeLO, Celo"):
        pretrained.load(write(tmp_path / "params", {"nn": {"w": np.zeros(3)}}))
    with pytest.raises(ValueError, match="holds ndarray, not a tree of weights"):
        pretrained.load(write(tmp_path / "params", np.zeros(3, np.float32)))


def test_arrays_that_lack_are_too_many_or_too_large_are_named(tmp_path):
    path = tmp_path / "params"
    network = lambda tree: tree["ff_mod_stack"]["~"]
    tree = tree_of("celo2")
    network(tree)["w3"] = np.zeros((3, 3), np.float32)
    with pytest.raises(ValueError, match=r"no use for \['ff_mod_stack/~/w3'\]"):
        pretrained.load(write(path, tree))
    tree = tree_of("celo2")
    del network(tree)["w0__7"]
    with pytest.raises(
        ValueError, match="params: it lacks 'ff_mod_stack/~/w0__7', which"
    ):
        pretrained.load(write(path, tree))
    tree = tree_of("celo2")
    network(tree)["w2"] = np.zeros((8, 2), np.float32)
    with pytest.raises(ValueError, match=r"params: theta does not fit Celo2.*\[8, 2\]"):
        pretrained.load(write(path, tree))
