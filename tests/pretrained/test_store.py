"""A trained optimizer comes back as it was saved, or an error says what is wrong."""

import dataclasses
import hashlib
import io
import json
import pickle
import pickletools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import learned_opt
import pretrained
from learned_opt import registry
from pretrained import store

FILES = {"model.safetensors", "config.json", "README.md"}


class Layer(NamedTuple):
    weight: jax.Array
    bias: jax.Array


@dataclasses.dataclass(frozen=True)
class Toy:
    """An optimizer whose theta has every kind of node: dict, list, named tuple."""

    width: int = 3
    decays: tuple[float, ...] = (0.9, 0.99)
    widths: tuple[tuple[int, ...], ...] = ((1, 2), ())
    name: str = "toy"
    clip: float | None = None

    def init(self, key):
        layer = lambda n: Layer(jax.random.normal(key, (n, self.width)), jnp.zeros(n))
        return {
            "layers": [layer(2), layer(1)],
            "log_rate": jnp.float32(-3.0),
            "none": jnp.zeros((0, 4)),
        }

    def transform(self, theta, *, num_steps=None):
        del num_steps
        return optax.with_extra_args_support(optax.sgd(jnp.exp(theta["log_rate"])))


@dataclasses.dataclass(frozen=True)
class Bare(Toy):
    """An optimizer whose theta is one array, not a container."""

    def init(self, key):
        return jax.random.normal(key, (self.width,))


CARD = pretrained.Card(
    summary="A toy.",
    trained_on="Nothing, for *no* steps.",
    command="learned-opt train --seed {0}",
    compute="None.",
    results="| task | loss |\n|---|---|\n| none | ∞ |",
    failures="Everywhere.",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    for cls in (Toy, Bare):
        monkeypatch.setitem(registry._OPTIMIZERS, cls.__name__.lower(), cls)


@pytest.fixture
def saved(tmp_path) -> Path:
    pretrained.save(tmp_path / "toy_one", Toy(), theta_of(Toy()), CARD)
    return tmp_path / "toy_one"


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "weights"
    monkeypatch.setattr(store, "_SHIPPED", folder)
    for name in ("toy_small", "toy_large"):
        card = dataclasses.replace(CARD, summary=f"This is {name}.")
        pretrained.save(folder / name, Toy(), theta_of(Toy()), card)
    return folder


def theta_of(optimizer, seed: int = 0):
    theta = optimizer.init(jax.random.key(seed))
    return jax.tree.map(lambda x: x + jnp.float32(1 / 3), theta)


def assert_identical(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def edit_config(folder: Path, change) -> None:
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def replace_weights(folder: Path, change) -> None:
    """Other weights with a valid checksum, as another version would have saved."""
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    change(arrays)
    content = safetensors.numpy.save(arrays)
    (folder / "model.safetensors").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    edit_config(folder, lambda config: config.update(sha256=sha256))


# Round trips.


@pytest.mark.parametrize("optimizer", [Toy(), Bare(width=4), Toy(5, (), (), "x", 1.0)])
def test_what_is_saved_is_what_is_loaded(tmp_path, optimizer):
    theta = theta_of(optimizer)
    pretrained.save(tmp_path / "mine", optimizer, theta, CARD)
    loaded = pretrained.load(tmp_path / "mine")
    assert loaded.optimizer == optimizer
    assert hash(loaded.optimizer) == hash(optimizer)
    assert loaded.card == CARD
    assert_identical(loaded.theta, theta)


@pytest.mark.parametrize("name", learned_opt.names())
def test_every_optimizer_can_be_saved_and_loaded(tmp_path, name):
    optimizer: Any = learned_opt.get(name)()
    theta = optimizer.init(jax.random.key(1))
    pretrained.save(tmp_path / name, optimizer, theta, CARD)
    loaded = pretrained.load(tmp_path / name)
    assert loaded.optimizer == optimizer
    assert_identical(loaded.theta, theta)
    params = {"w": jnp.ones((2, 3))}
    tx = loaded.transform(num_steps=10)
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, value=jnp.float32(1.0)))
    updates, _ = update(params, tx.init(params), params)
    assert np.isfinite(updates["w"]).all()


@pytest.mark.parametrize("name", learned_opt.names())
def test_what_is_saved_where_float64_is_on_is_loaded_where_it_is_off_and_back(
    tmp_path, name
):
    optimizer: Any = learned_opt.get(name)()
    with jax.enable_x64(True):
        theta = jax.jit(optimizer.init)(jax.random.key(1))
        pretrained.save(tmp_path / name, optimizer, theta, CARD)
        assert_identical(pretrained.load(tmp_path / name).theta, theta)
    assert_identical(pretrained.load(tmp_path / name).theta, theta)


def test_a_shipped_optimizer_is_loaded_where_float64_is_on():
    with jax.enable_x64(True):
        tx = pretrained.optimizer("scale_free", num_steps=3)
        params = {"w": jnp.ones((2, 3))}
        updates, _ = tx.update(params, tx.init(params), params)
    assert np.isfinite(updates["w"]).all()


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    width=st.integers(0, 4),
    decays=st.lists(st.floats(allow_nan=False)).map(tuple),
    name=st.text(),
    clip=st.none() | st.floats(allow_nan=False),
    bits=st.integers(0, 2**32 - 1),
)
def test_any_fields_and_any_bits_of_theta_survive(
    tmp_path, width, decays, name, clip, bits
):
    optimizer = Toy(width=width, decays=decays, name=name, clip=clip)
    number = np.uint32(bits).view(np.float32)
    shapes = jax.eval_shape(optimizer.init, jax.random.key(0))
    theta = jax.tree.map(lambda x: np.full(x.shape, number), shapes)
    pretrained.save(tmp_path / "any", optimizer, theta, CARD, overwrite=True)
    loaded = pretrained.load(tmp_path / "any")
    assert loaded.optimizer == optimizer
    assert_identical(loaded.theta, theta)


def test_a_transposed_theta_is_saved_by_value_not_by_memory(tmp_path):
    theta = theta_of(Toy())
    weight = np.asarray(theta["layers"][0].weight)
    theta["layers"][0] = theta["layers"][0]._replace(weight=np.asfortranarray(weight))
    pretrained.save(tmp_path / "toy", Toy(), theta, CARD)
    loaded = pretrained.load(tmp_path / "toy").theta
    np.testing.assert_array_equal(loaded["layers"][0].weight, weight)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    for name in ("a/toy", "b/toy"):
        pretrained.save(tmp_path / name, Toy(), theta_of(Toy()), CARD)
    for file in FILES:
        contents = [
            (tmp_path / name / file).read_bytes() for name in ("a/toy", "b/toy")
        ]
        assert contents[0] == contents[1]


def test_a_folder_may_be_moved_and_renamed(saved):
    moved = saved.rename(saved.with_name("elsewhere"))
    assert_identical(pretrained.load(moved).theta, theta_of(Toy()))


def test_a_folder_holds_weights_config_and_card_and_nothing_else(saved):
    assert {file.name for file in saved.iterdir()} == FILES
    card = CARD.markdown("toy_one", Toy.__module__)
    assert (saved / "README.md").read_text("utf-8") == card
    config = json.loads((saved / "config.json").read_text())
    weight = config["theta"]["layers/0/weight"]
    assert weight == {"shape": [2, 3], "dtype": "float32"}
    assert config["optimizer"]["name"] == "toy"


def test_nothing_is_pickled(saved, monkeypatch):
    for file in saved.iterdir():
        with pytest.raises((ValueError, UnicodeDecodeError, pickle.UnpicklingError)):
            pickletools.dis(file.read_bytes(), out=io.StringIO())
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.delattr(pickle, name)
    pretrained.load(saved)


# Names and paths.


def test_shipped_optimizers_are_listed_and_loaded_by_name(shipped):
    assert pretrained.available() == {
        "toy_large": "This is toy_large.",
        "toy_small": "This is toy_small.",
    }
    assert pretrained.load("toy_large").card.summary == "This is toy_large."
    tx = pretrained.optimizer("toy_small", num_steps=10)
    params = jnp.ones(2)
    updates, _ = tx.update(params, tx.init(params), params)
    np.testing.assert_allclose(np.asarray(updates), -np.exp(-3 + 1 / 3), rtol=1e-6)


def test_a_name_wins_over_a_folder_and_a_path_does_not(shipped, monkeypatch):
    monkeypatch.chdir(shipped.parent)
    pretrained.save("toy_small", Toy(), theta_of(Toy()), CARD)
    assert pretrained.load("toy_small").card.summary == "This is toy_small."
    for path in ("./toy_small", Path("toy_small")):
        assert pretrained.load(path).card == CARD


def test_what_a_killed_save_left_behind_is_not_listed(shipped):
    left_behind = shipped / ".toy_large.0123456789ab.tmp"
    (shipped / "toy_large").rename(left_behind)
    assert list(pretrained.available()) == ["toy_small"]


def test_an_unknown_name_is_answered_with_the_nearest_and_the_list(shipped):
    with pytest.raises(pretrained.UnknownPretrainedError) as error:
        pretrained.load("toy_smal")
    assert "did you mean toy_small" in str(error.value)
    assert "shipped: toy_large, toy_small" in str(error.value)
    with pytest.raises(pretrained.UnknownPretrainedError, match="toy_large, toy_small"):
        pretrained.load("velo")


def test_an_unknown_path_is_a_missing_folder_not_an_unknown_name(tmp_path):
    for path in (tmp_path / "nothing", str(tmp_path / "nothing"), Path("nothing")):
        with pytest.raises(FileNotFoundError, match="no folder .*nothing"):
            pretrained.load(path)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_folder_without_a_file_says_which(saved, file):
    (saved / file).unlink()
    with pytest.raises(FileNotFoundError, match=f"toy_one .* lacks {file}$"):
        pretrained.load(saved)


def test_a_run_folder_is_told_from_the_folder_of_its_theta(saved):
    run = saved.parent / "run"
    (run / "theta").parent.mkdir()
    saved.rename(run / "theta")
    with pytest.raises(FileNotFoundError, match="did you mean .*run/theta"):
        pretrained.load(run)


def test_a_run_without_a_theta_yet_says_how_to_get_it(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    for path in (tmp_path / "run", tmp_path / "run" / "theta"):
        with pytest.raises(FileNotFoundError, match="run --resume --time-budget 1s"):
            pretrained.load(path)


def test_an_unknown_optimizer_class_is_answered_with_the_nearest(saved):
    edit_config(saved, lambda config: config["optimizer"].update(name="toyy"))
    with pytest.raises(learned_opt.UnknownOptimizerError) as error:
        pretrained.load(saved)
    assert "config.json" in str(error.value) and "'toyy'" in str(error.value)
    assert "toy" in str(error.value).split("did you mean")[1]
    module = type(learned_opt.get("toy")()).__module__
    assert f"registered by {module!r}: import that first" in str(error.value)
    assert f"import {module}" in (saved / "README.md").read_text()


# Damage.


@pytest.mark.parametrize("keep", [0, 7, 60, -1])
def test_truncated_weights_are_refused(saved, keep):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        pretrained.CorruptWeightsError, match="truncated or was changed"
    ):
        pretrained.load(saved)


def test_every_flipped_bit_of_the_weights_is_noticed(saved):
    file = saved / "model.safetensors"
    content = file.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(content), 20):
        flipped = bytearray(content)
        flipped[at] ^= 1
        file.write_bytes(flipped)
        with pytest.raises(pretrained.CorruptWeightsError, match="sha256"):
            pretrained.load(saved)


def test_weights_that_are_another_format_are_refused_even_with_their_checksum(saved):
    (saved / "model.safetensors").write_bytes(b"something else entirely")
    sha256 = hashlib.sha256(b"something else entirely").hexdigest()
    edit_config(saved, lambda config: config.update(sha256=sha256))
    with pytest.raises(pretrained.CorruptWeightsError, match="no safetensors file"):
        pretrained.load(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": 1}', "\x00"])
def test_a_damaged_config_is_refused(saved, content):
    (saved / "config.json").write_text(content)
    with pytest.raises(pretrained.CorruptWeightsError, match="config.json"):
        pretrained.load(saved)


def test_a_newer_format_asks_for_an_upgrade(saved):
    edit_config(saved, lambda config: config.update(format=2))
    with pytest.raises(ValueError, match="format 2.*upgrade learned-opt"):
        pretrained.load(saved)


def test_fields_of_another_version_are_named(saved):
    edit_config(saved, lambda config: config["optimizer"]["fields"].update(depth=2))
    with pytest.raises(ValueError, match="Toy has no depth"):
        pretrained.load(saved)


def test_a_field_that_came_later_has_its_default(saved):
    edit_config(saved, lambda config: config["optimizer"]["fields"].pop("clip"))
    assert pretrained.load(saved).optimizer == Toy()


# Theta that does not fit.


def test_weights_of_another_shape_name_the_leaf(saved):
    replace_weights(saved, lambda w: w.update({"layers/1/bias": np.zeros(7, "f4")}))
    with pytest.raises(ValueError, match=r"'layers/1/bias' is float32\[7\].*\[1\]"):
        pretrained.load(saved)


def test_weights_of_another_dtype_name_the_leaf(saved):
    replace_weights(saved, lambda w: w.update({"log_rate": np.zeros((), "f8")}))
    with pytest.raises(ValueError, match="'log_rate' is float64.*float32"):
        pretrained.load(saved)


def test_missing_and_surplus_leaves_are_named(saved):
    replace_weights(saved, lambda w: w.pop("layers/0/weight"))
    with pytest.raises(ValueError, match="lacks 'layers/0/weight'"):
        pretrained.load(saved)
    replace_weights(
        saved, lambda w: w.update({"layers/0/weight": w["none"], "b": w["none"]})
    )
    with pytest.raises(ValueError, match="also has 'b'"):
        pretrained.load(saved)


def test_an_optimizer_of_another_size_names_the_leaf(saved):
    edit_config(saved, lambda config: config["optimizer"]["fields"].update(width=4))
    with pytest.raises(ValueError, match=r"'layers/0/weight' is .*\[2, 3\].*\[2, 4\]"):
        pretrained.load(saved)


@pytest.mark.parametrize(
    "change, complaint",
    [
        (lambda t: {**t, "log_rate": jnp.zeros(2)}, r"'log_rate' is float32\[2\]"),
        (lambda t: {**t, "log_rate": jnp.zeros((), int)}, "'log_rate' is int32"),
        (lambda t: {**t, "layers": t["layers"][:1]}, "lacks 'layers/1/bias'"),
        (lambda t: {**t, "layers": tuple(t["layers"])}, "has the structure"),
        (lambda t: t["layers"], "does not fit Toy"),
    ],
)
def test_a_theta_that_would_not_load_is_not_saved(tmp_path, change, complaint):
    with pytest.raises(ValueError, match=complaint):
        pretrained.save(tmp_path / "toy", Toy(), change(theta_of(Toy())), CARD)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [[1.0], np.ones(2), float("nan"), {1: 2}, object()])
def test_a_field_that_would_not_come_back_is_not_saved(tmp_path, value):
    with pytest.raises(ValueError, match="Toy.decays cannot be saved"):
        optimizer = Toy(decays=value)
        pretrained.save(tmp_path / "toy", optimizer, theta_of(Toy()), CARD)
    assert not list(tmp_path.iterdir())


def test_two_leaves_with_one_path_are_refused(tmp_path, monkeypatch):
    theta = {"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}}
    monkeypatch.setattr(Toy, "init", lambda self, key: theta)
    with pytest.raises(ValueError, match="same path"):
        pretrained.save(tmp_path / "toy", Toy(), theta, CARD)


def test_an_optimizer_that_is_not_registered_is_not_saved(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Stray(Toy):
        pass

    with pytest.raises(learned_opt.UnknownOptimizerError, match="Stray"):
        pretrained.save(tmp_path / "stray", Stray(), theta_of(Toy()), CARD)


# All or nothing.


class Crash(BaseException):
    """What a person pressing Ctrl-C looks like to the code."""


def crash_at(monkeypatch, count: int) -> None:
    """The ``count``-th write or rename of `store` fails, having done half its work."""
    left = [count]

    def crashing(name, real):
        def method(self, *args):
            left[0] -= 1
            if left[0] == 0:
                if name != "rename":
                    real(self, args[0][: len(args[0]) // 2])
                raise Crash
            return real(self, *args)

        return method

    for name in ("write_bytes", "write_text", "rename"):
        monkeypatch.setattr(Path, name, crashing(name, getattr(Path, name)))


@pytest.mark.parametrize("count", range(1, 5))
def test_a_crash_while_saving_leaves_nothing(tmp_path, monkeypatch, count):
    with monkeypatch.context() as patch:
        crash_at(patch, count)
        with pytest.raises(Crash):
            pretrained.save(tmp_path / "toy", Toy(), theta_of(Toy()), CARD)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", range(1, 6))
def test_a_crash_while_overwriting_leaves_the_old_one(saved, monkeypatch, count):
    with monkeypatch.context() as patch:
        crash_at(patch, count)
        with pytest.raises(Crash):
            theta = theta_of(Toy(), seed=1)
            pretrained.save(saved, Toy(), theta, CARD, overwrite=True)
    assert list(saved.parent.iterdir()) == [saved]
    assert_identical(pretrained.load(saved).theta, theta_of(Toy()))


def test_what_is_there_is_replaced_only_when_asked(saved):
    theta = theta_of(Toy(), seed=1)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        pretrained.save(saved, Toy(), theta, CARD)
    assert_identical(pretrained.load(saved).theta, theta_of(Toy()))
    pretrained.save(saved, Toy(), theta, CARD, overwrite=True)
    assert_identical(pretrained.load(saved).theta, theta)
    assert list(saved.parent.iterdir()) == [saved]


def test_other_peoples_files_are_never_replaced(saved):
    (saved / "thesis.tex").write_text("ten years of work")
    with pytest.raises(FileExistsError, match="not replaced"):
        pretrained.save(saved, Toy(), theta_of(Toy()), CARD, overwrite=True)
    file = saved.parent / "file"
    file.write_text("also work")
    with pytest.raises(FileExistsError, match="not replaced"):
        pretrained.save(file, Toy(), theta_of(Toy()), CARD, overwrite=True)
    assert (saved / "thesis.tex").exists() and file.exists()


# What ships.


@pytest.mark.parametrize("name", sorted(pretrained.available()))
def test_every_shipped_optimizer_is_ready_within_a_second(name):
    pretrained.load(name)  # the first use of a device is not ours to time
    start = time.perf_counter()
    tx = pretrained.optimizer(name, num_steps=100)
    assert time.perf_counter() - start < 1.0
    params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(())}
    updates, _ = tx.update(params, tx.init(params), params, value=jnp.float32(1.0))
    assert jax.tree.all(jax.tree.map(lambda u: jnp.isfinite(u).all(), updates))


def test_importing_pretrained_imports_neither_tasks_nor_meta_training():
    code = (
        "import sys, pretrained; "
        "sys.exit(bool({'tasksets', 'meta_train'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_shipped_optimizer_works_on_the_layout_that_is_asked_for():
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}
    flat = pretrained.optimizer("scale_free", num_steps=9, layout=learned_opt.Flat)
    by_tensor = pretrained.optimizer("scale_free", num_steps=9)
    assert {x.shape for x in jax.tree.leaves(flat.init(params).rule.slots)} == {(8,)}
    updates, _ = flat.update(params, flat.init(params), params)
    expected, _ = by_tensor.update(params, by_tensor.init(params), params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), updates, expected
    )


def test_what_cannot_be_loaded_by_name_is_not_saved(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Stranger(Toy):
        pass

    for optimizer, fix in ((Stranger(), "register"), (Toy, r"a class.*Toy\(\)")):
        with pytest.raises(learned_opt.UnknownOptimizerError, match=fix):
            pretrained.save(tmp_path / "one", optimizer, {}, CARD)  # type: ignore
