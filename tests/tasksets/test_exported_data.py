"""Exported data sets: read without tensorflow-datasets, on a machine with nothing else."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tasksets
from meta_train import cli, data_command
from tasksets import catalogue, corpora, exporting, prepared, presence
from tasksets.data import DataNotFoundError


@pytest.fixture
def other_machine(tmp_path, monkeypatch):
    """Moves to a machine that has the exported folder, and no cache and no reader."""

    def move(exported: Path) -> Path:
        there = tmp_path / "there" / "data"
        shutil.copytree(exported, there)
        shutil.rmtree(tmp_path / "prepared")
        monkeypatch.setenv("TFDS_DATA_DIR", str(there))
        monkeypatch.setenv("LEARNED_OPT_CACHE", str(tmp_path / "there" / "cache"))
        monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
        monkeypatch.setitem(sys.modules, "array_record", None)
        monkeypatch.setitem(sys.modules, "sentencepiece", None)
        return there

    return move


def test_images_are_the_same_on_the_other_machine(
    fake_prepared, other_machine, tmp_path
):
    fake_prepared.write_images("food101", {"train": 30, "test": 5})
    splits, classes = prepared.read_images(prepared.find("food101"), (3, 3))
    exporting.export("food101_3x3", tmp_path / "exported")
    other_machine(tmp_path / "exported")
    assert presence.data_present("food101_3x3")
    data = tasksets.load("food101_3x3", num_per_valid=4)
    np.testing.assert_array_equal(data.train.inputs, splits["train"].inputs[8:])
    np.testing.assert_array_equal(data.test.labels, splits["test"].labels)
    assert data.info.num_classes == classes == 3


def test_text_has_the_same_tokens_on_the_other_machine(
    fake_prepared, other_machine, tmp_path
):
    pytest.importorskip("sentencepiece")
    texts = [{"text": f"line {i} of so many lines, " * 3} for i in range(40)]
    features = {"text": fake_prepared.tfds.features.Text()}
    splits = {"train": texts, "test": texts[:5]}
    fake_prepared.write("imdb_reviews", splits, features, config="plain_text")
    names = ["imdb_reviews/bytes", "imdb_reviews/subwords8k"]
    before = [corpora.read(catalogue.read_text_name(name)) for name in names]
    for name in ("imdb_reviews", "imdb_reviews/subwords8k"):  # bytes if it says nothing
        exporting.export(name, tmp_path / "exported")
    other_machine(tmp_path / "exported")
    for name, corpus in zip(names, before, strict=True):
        again = corpora.read(catalogue.read_text_name(name))
        assert again.vocab_size == corpus.vocab_size
        for split, tokens in corpus.splits.items():
            for a, b in zip(tokens, again.splits[split], strict=True):
                np.testing.assert_array_equal(a, b)


def test_what_was_not_exported_is_not_there(fake_prepared, other_machine, tmp_path):
    fake_prepared.write_images("food101", {"train": 30})
    exporting.export("food101_32x32", tmp_path / "exported")
    there = other_machine(tmp_path / "exported")
    assert not presence.data_present("food101_64x64")
    with pytest.raises(DataNotFoundError, match="food101_64x64"):
        tasksets.load("food101_64x64")
    from tasksets import preparing

    with pytest.raises(ValueError, match=f"{there}.* is an export"):
        preparing.prepare("food101_64x64")


def test_an_export_grows_by_the_next_one(fake_prepared, other_machine, tmp_path):
    fake_prepared.write_images("food101", {"train": 30})
    fake_prepared.write_images("mnist", {"train": 30})
    for name in ("food101_3x3", "food101_2x2", "mnist"):
        exporting.export(name, tmp_path / "exported")
    other_machine(tmp_path / "exported")
    for name, side in (("food101_3x3", 3), ("food101_2x2", 2), ("mnist", 6)):
        assert tasksets.load(name, num_per_valid=4).info.shape[0] == side


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_a_damaged_export_says_so(fake_prepared, other_machine, tmp_path, damage):
    fake_prepared.write_images("mnist", {"train": 30})
    exporting.export("mnist", tmp_path / "exported")
    there = other_machine(tmp_path / "exported")
    (path,) = there.rglob("train-inputs.npy")
    path.write_bytes(path.read_bytes()[:-9]) if damage == "truncate" else path.unlink()
    with pytest.raises(prepared.DamagedDataError, match="Export it once more"):
        tasksets.load("mnist", num_per_valid=4)


def test_an_export_that_was_cut_short_does_not_count(
    fake_prepared, other_machine, tmp_path, monkeypatch
):
    fake_prepared.write_images("mnist", {"train": 30})

    def full(path, text):
        raise OSError("No space left on device")

    monkeypatch.setattr(exporting, "_write", full)
    with pytest.raises(OSError, match="No space"):
        exporting.export("mnist", tmp_path / "exported")
    other_machine(tmp_path / "exported")
    assert not presence.data_present("mnist")


def test_data_are_not_exported_into_themselves(fake_prepared):
    fake_prepared.write_images("mnist", {"train": 30})
    with pytest.raises(ValueError, match="another folder"):
        exporting.export("mnist", fake_prepared.folder)


def test_the_command_exports_the_data_sets_of_a_suite_and_lists_them(
    fake_prepared, other_machine, tmp_path, monkeypatch, capsys
):
    tasks = [
        "mlp_family/seed0@mnist",
        "mlp_family/seed1@digits",
        "mlp_family/seed2@cifar10",
    ]
    monkeypatch.setattr(tasksets, "names", lambda suite: tasks)
    fake_prepared.write_images("mnist", {"train": 30})
    command = ["data", "export", "taskset", "--folder", str(tmp_path / "exported")]
    with pytest.raises(SystemExit):
        cli.main(command)
    assert "not prepared here: cifar10." in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / "exported").exists()
    cli.main([*command, "--absent-data", "leave out"])
    out = capsys.readouterr().out
    assert "cifar10: left out" in out and "digits: bundled" in out
    assert f"TFDS_DATA_DIR={tmp_path / 'exported'}" in out
    other_machine(tmp_path / "exported")
    data_command.list_data()
    rows = [row for row in capsys.readouterr().out.splitlines() if "exported" in row]
    assert len(rows) == 1 and "mnist" in rows[0]


def test_evaluation_suites_and_data_sets_are_exported_by_name_and_others_refused():
    assert "fashion_mnist" in data_command._datasets("eval-100")
    assert data_command._datasets("lm1b/bytes") == {"lm1b/bytes"}
    with pytest.raises(LookupError, match="eval-smal.*eval-small"):
        data_command._datasets("eval-smal")


@pytest.mark.slow
def test_a_run_on_real_images_goes_where_tensorflow_datasets_is_not(tmp_path):
    if prepared.find("mnist") is None:
        pytest.skip("mnist is not prepared")
    exporting.export("mnist", tmp_path / "exported")
    program = """
import socket, sys
sys.modules["tensorflow_datasets"] = sys.modules["array_record"] = None
socket.socket.connect = None
from meta_train import cli
cli.main(sys.argv[1:])
"""
    words = ["train", "--optimizer", "sgd", "--outer-steps", "3", "--num-pairs", "2"]
    words += ["--task-options", "dataset=mnist&hidden=4&activation=relu"]
    words += ["--num-tasks", "2", "--folder", str(tmp_path / "run"), "--window", "10"]
    environment = {
        "TFDS_DATA_DIR": str(tmp_path / "exported"),
        "LEARNED_OPT_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "HOME": str(tmp_path),
    }
    subprocess.run(
        [sys.executable, "-c", program, *words],
        env=environment,
        check=True,
        timeout=300,
    )
    assert (tmp_path / "run" / "theta").is_dir()
