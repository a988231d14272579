"""Data sets that tensorflow-datasets has prepared: finding, reading, caching them."""

import errno
import hashlib
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tasksets
from meta_train import data_command
from tasksets import array_cache, catalogue, prepared, preparing
from tasksets.data import carve
from tasksets.resized import resize
from tasksets.task import SPLITS


def require_real(name):
    pytest.importorskip("array_record")
    if prepared.find(name) is None:
        pytest.skip(f"{name} is not prepared in {prepared.data_folder()}")


def rows(split):
    return [row.tobytes() for row in np.asarray(split.inputs)]


def test_missing_validation_splits_come_from_the_front_of_the_training_examples():
    parts = carve({"train": 100, "test": 30}, 10, "x")
    assert parts["inner_valid"] == ("train", 0, 10)
    assert parts["outer_valid"] == ("train", 10, 20)
    assert parts["train"] == ("train", 20, 100)
    assert parts["test"] == ("test", 0, 30)
    assert carve({"train": 100, "validation": 30}, 10, "x")["test"] == (
        "validation",
        0,
        30,
    )


def test_a_validation_split_is_the_outer_one_where_there_is_a_test_split():
    parts = carve({"train": 100, "validation": 20, "test": 30}, 10, "x")
    assert parts["outer_valid"] == ("validation", 0, 20)
    assert parts["inner_valid"] == ("train", 0, 10)
    assert parts["train"] == ("train", 10, 100)
    assert parts["test"] == ("test", 0, 30)


def test_training_examples_alone_give_all_four_splits():
    parts = carve({"train": 100}, 10, "x")
    assert [parts[s] for s in ("inner_valid", "outer_valid", "test", "train")] == [
        ("train", 0, 10),
        ("train", 10, 20),
        ("train", 20, 30),
        ("train", 30, 100),
    ]


def test_too_few_training_examples_to_carve_is_an_error():
    with pytest.raises(ValueError, match="too few .* inner_valid, outer_valid"):
        carve({"train": 100, "test": 10}, 50, "x")
    assert carve({"train": 100, "test": 10}, 49, "x")["train"] == ("train", 98, 100)


def test_a_split_of_no_examples_is_refused_and_not_the_usual_one(fake_prepared):
    fake_prepared.write_images("some_images", {"train": 20, "test": 5})
    for name in (
        "mlp_family/seed7@some_images?num_per_valid=0",
        "char_rnn_language_model_family/seed0@python_docs?num_per_valid=0",
    ):
        with pytest.raises(ValueError, match="num_per_valid is at least 1, not 0"):
            tasksets.get(name)


def test_images_are_what_is_stored_in_the_order_in_which_it_is(fake_prepared):
    images = fake_prepared.write_images("some_images", {"train": 20, "test": 5})
    data = tasksets.load("some_images", num_per_valid=4)
    np.testing.assert_array_equal(data.inner_valid.inputs, images["train"][:4])
    np.testing.assert_array_equal(data.outer_valid.inputs, images["train"][4:8])
    np.testing.assert_array_equal(data.train.inputs, images["train"][8:])
    np.testing.assert_array_equal(data.test.inputs, images["test"])
    np.testing.assert_array_equal(data.train.labels, np.arange(8, 20) % 3)
    assert data.train.inputs.dtype == np.uint8 and data.train.labels.dtype == np.int32
    assert data.info == tasksets.DatasetInfo("some_images", (6, 6, 3), 3, scale=1 / 255)
    assert tasksets.load("some_images", num_per_valid=4) is data
    assert tasksets.load("some_images", num_per_valid=3).size("train") == 14


def test_any_prepared_image_set_serves_a_task(fake_prepared):
    fake_prepared.write_images("some_images", {"train": 20, "test": 5})
    with pytest.raises(ValueError, match="num_per_valid=N"):
        tasksets.get("mlp_family/seed7@some_images")
    task = tasksets.get("mlp_family/seed7@some_images?num_per_valid=3")
    assert task.data.size("inner_valid") == 3


def test_what_is_stored_unshuffled_is_shuffled_by_a_fixed_permutation(fake_prepared):
    images = fake_prepared.write_images("some_images", {"train": 20}, unshuffled=True)
    data = tasksets.load("some_images", num_per_valid=2)
    order = np.random.RandomState(0).permutation(20)
    splits = [getattr(data, s) for s in ("inner_valid", "outer_valid", "test", "train")]
    got = np.concatenate([np.asarray(split.inputs) for split in splits])
    np.testing.assert_array_equal(got, images["train"][order])
    labels = np.concatenate([np.asarray(split.labels) for split in splits])
    np.testing.assert_array_equal(labels, order % 3)


def test_a_size_in_the_name_resizes_the_images_of_the_parent(fake_prepared):
    images = fake_prepared.write_images("food101", {"train": 9}, (12, 10, 3))
    data = tasksets.load("food101_4x5", num_per_valid=2)
    assert data.info.shape == (4, 5, 3) and data.info.name == "food101_4x5"
    np.testing.assert_array_equal(
        data.inner_valid.inputs[1], resize(images["train"][1], (4, 5))
    )


def test_resizing_keeps_a_constant_and_averages_over_a_checkerboard():
    constant = np.full((64, 48, 3), 77, np.uint8)
    np.testing.assert_array_equal(resize(constant, (8, 6)), constant[:8, :6])
    board = np.uint8(255 * (np.indices((64, 64)).sum(0) % 2))[..., None]
    small = resize(board, (8, 8))
    assert small.shape == (8, 8, 1)
    assert np.abs(small[1:-1, 1:-1].astype(int) - 127).max() <= 1


def test_the_label_is_the_target_that_the_set_declares(fake_prepared):
    fake_prepared.write_images("coil100", {"train": 9}, label="angle_label")
    data = tasksets.load("coil100_6x6", num_per_valid=1)
    np.testing.assert_array_equal(data.train.labels, np.arange(3, 9) % 3)


def test_images_of_no_size_in_particular_need_one_in_the_name(fake_prepared):
    fake_prepared.write(
        "sun397",
        {"train": []},
        {
            "image": fake_prepared.tfds.features.Image(shape=(None, None, 3)),
            "label": fake_prepared.tfds.features.ClassLabel(num_classes=3),
        },
        ("image", "label"),
        config="tfds",
    )
    with pytest.raises(ValueError, match="no training split"):
        tasksets.load("sun397")
    assert catalogue.builder("sun397_32x32") == "sun397/tfds"
    fake_prepared.write_images("food101", {"train": 2})
    path = prepared.find("food101").folder / "features.json"
    path.write_text(path.read_text().replace('"6"', '"-1"'))
    with pytest.raises(ValueError, match="food101_32x32"):
        tasksets.load("food101")


def test_the_newest_complete_version_is_read_and_a_config_is_found(fake_prepared):
    for version in ("2.0.0", "10.0.0"):
        fake_prepared.write_images("some_images", {"train": 9}, version=version)
    (fake_prepared.folder / "some_images" / "11.0.0").mkdir()
    assert prepared.find("some_images").folder.name == "10.0.0"
    assert prepared.find("some_images/2.0.0").folder.name == "2.0.0"
    fake_prepared.write_images("other", {"train": 9}, config="small")
    assert prepared.find("other").folder.parent.name == "small"
    fake_prepared.write_images("other", {"train": 9}, config="large")
    with pytest.raises(ValueError, match="other/large, other/small"):
        prepared.find("other")
    assert prepared.others() == ["other/large", "other/small", "some_images"]


def test_a_second_process_reads_the_cache_and_needs_no_decoder(
    fake_prepared, monkeypatch
):
    fake_prepared.write_images("some_images", {"train": 20, "test": 5})
    found = prepared.find("some_images")
    first = prepared.read_images(found, None)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    again = prepared.read_images(prepared.find("some_images"), None)
    for split in first[0]:
        for a, b in zip(first[0][split], again[0][split], strict=True):
            np.testing.assert_array_equal(a, b)
    assert first[1] == again[1] == 3
    with pytest.raises(ImportError, match=r"pip install 'learned-opt\[data\]'"):
        prepared.import_tfds()


@pytest.mark.parametrize("keep", [0, 50, -1])
def test_a_truncated_cache_is_made_again(fake_prepared, keep):
    images = fake_prepared.write_images("some_images", {"train": 20})
    found = prepared.find("some_images")
    prepared.read_images(found, None)
    (path,) = array_cache.cache_folder().rglob("train-inputs.npy")
    content = path.read_bytes()
    path.write_bytes(content[:keep])
    splits, _ = prepared.read_images(found, None)
    np.testing.assert_array_equal(splits["train"].inputs, images["train"])
    assert path.read_bytes() == content
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "classes.npy",
        "train-inputs.npy",
        "train-labels.npy",
    ]


def test_what_is_cached_may_be_read_by_others(fake_prepared, tmp_path):
    fake_prepared.write_images("some_images", {"train": 20})
    prepared.read_images(prepared.find("some_images"), None)
    (path,) = array_cache.cache_folder().rglob("train-inputs.npy")
    (usual := tmp_path / "file").write_text("")
    assert path.stat().st_mode == usual.stat().st_mode


def test_what_this_user_may_not_read_is_an_error_and_not_damage(
    fake_prepared, monkeypatch
):
    fake_prepared.write_images("some_images", {"train": 20})
    found = prepared.find("some_images")
    prepared.read_images(found, None)

    def refused(path, **options):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(array_cache.np, "load", refused)
    with pytest.raises(PermissionError, match=r"\.npy"):
        prepared.read_images(found, None)


def test_data_prepared_anew_are_not_read_from_the_cache_of_the_old(fake_prepared):
    fake_prepared.write_images("some_images", {"train": 20})
    old = prepared.find("some_images")
    assert len(prepared.read_images(old, None)[0]["train"].labels) == 20
    for path in old.folder.iterdir():
        path.unlink()
    old.folder.rmdir()
    fake_prepared.write_images("some_images", {"train": 12})
    new = prepared.find("some_images")
    assert len(prepared.read_images(new, None)[0]["train"].labels) == 12


def test_a_cache_that_cannot_be_written_is_reported_and_done_without(
    fake_prepared, monkeypatch, tmp_path
):
    fake_prepared.write_images("some_images", {"train": 20})
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LEARNED_OPT_CACHE", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="LEARNED_OPT_CACHE"):
        splits, _ = prepared.read_images(prepared.find("some_images"), None)
    assert len(splits["train"].labels) == 20


def test_a_damaged_shard_is_an_error_that_names_the_folder(fake_prepared):
    fake_prepared.write_images("some_images", {"train": 20})
    found = prepared.find("some_images")
    (path,) = found.folder.glob("*.array_record*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(prepared.DamagedDataError, match=str(found.folder)):
        prepared.read_images(found, None)
    path.unlink()
    with pytest.raises(prepared.DamagedDataError, match=str(found.folder)):
        prepared.read_images(prepared.find("some_images"), None)


def test_another_file_format_is_an_error_that_says_which_would_do(fake_prepared):
    fake_prepared.write_images("some_images", {"train": 20})
    path = prepared.find("some_images").folder / "dataset_info.json"
    path.write_text(path.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(prepared.DamagedDataError, match="tfrecord.*array_record"):
        prepared.read_images(prepared.find("some_images"), None)


@pytest.mark.parametrize("name", [*catalogue.IMAGES])
def test_absent_data_is_an_error_at_once_without_network(name, monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    started = time.monotonic()
    with pytest.raises(tasksets.DataNotFoundError) as caught:
        tasksets.get(f"mlp_family/seed7@{name}")
    assert time.monotonic() - started < 1
    message = str(caught.value)
    assert repr(name) in message and str(tmp_path) in message
    assert f"learned-opt data prepare {name}`" in message
    assert "'mlp_family/seed7@digits'" in message


def test_names_of_text_and_of_nothing_are_errors_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match="is text"):
        tasksets.load("lm1b/bytes")
    with pytest.raises(tasksets.UnknownNameError, match="fashion_mnist"):
        tasksets.load("fashion_mnits")


def test_other_sets_of_tensorflow_datasets_are_known(monkeypatch, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(tasksets.DataNotFoundError, match="data prepare kmnist"):
        tasksets.load("kmnist")
    with pytest.raises(tasksets.UnknownNameError, match="kmnist"):
        tasksets.load("kmnits")


def test_preparing_needs_tensorflow_and_says_so(monkeypatch, tmp_path):
    pytest.importorskip("tensorflow_datasets")
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ImportError, match=r"pip install 'learned-opt\[data,prepare\]'"):
        preparing.prepare("kmnist", tmp_path)
    with pytest.raises(tasksets.UnknownNameError, match="mnist"):
        preparing.prepare("mnits", tmp_path)


def test_what_is_prepared_or_bundled_is_not_prepared_again(fake_prepared, capsys):
    fake_prepared.write_images("food101", {"train": 20})
    data_command.prepare_data("food101_32x32")
    data_command.prepare_data("digits")
    data_command.prepare_data("python_docs/subwords8k")
    printed = capsys.readouterr().out
    assert "train 20 examples" in printed and printed.count("is bundled") == 2


def test_the_list_has_every_set_with_its_status(fake_prepared, capsys, monkeypatch):
    monkeypatch.setattr(data_command.console, "_width", 160)
    fake_prepared.write_images("food101", {"train": 20})
    fake_prepared.write_images("some_images", {"train": 30})
    data_command.list_data()
    lines = capsys.readouterr().out.splitlines()
    line_of = {line.split()[1]: line for line in lines if line.startswith("│")}
    assert {*catalogue.IMAGES, *catalogue.CORPORA, "digits"} <= {*line_of}
    assert "bundled" in line_of["digits"] and "absent" in line_of["mnist"]
    assert "prepared 1.0.0" in line_of["food101_32x32"]
    assert "train 30" in line_of["some_images"]


# sha256 of the first three training images, as they are stored, with their labels.
_FIRST_THREE = {
    "mnist": "cf512c3accf325e0",
    "fashion_mnist": "441c86ebd3a6051f",
    "cifar10": "3c1ca96792e733ab",
}


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_real_images_are_those_of_the_source(name):
    require_real(name)
    num_per_valid = 1000
    data = tasksets.load(name, num_per_valid)
    found = prepared.find(name)
    assert data.info.num_classes == 10
    assert data.size("train") == found.sizes["train"] - 2 * num_per_valid
    assert data.size("test") == found.sizes["test"]
    for split in SPLITS:
        labels = np.bincount(np.asarray(getattr(data, split).labels), minlength=10)
        assert len(labels) == 10 and labels.min() > 0.7 * labels.mean()
    first = np.asarray(data.inner_valid.inputs[:3])
    labels = np.asarray(data.inner_valid.labels[:3])
    digest = hashlib.sha256(first.tobytes() + labels.tobytes()).hexdigest()
    assert digest.startswith(_FIRST_THREE[name])


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist", "cifar10"])
def test_real_splits_share_no_image_and_no_image_is_there_twice(name):
    require_real(name)
    data = tasksets.load(name, 1000)
    contents = [row for split in SPLITS for row in rows(getattr(data, split))]
    assert len(contents) == len(set(contents))


def test_the_real_cache_is_much_faster_than_decoding():
    require_real("cifar10")
    found = prepared.find("cifar10")
    prepared.read_images(found, None)
    started = time.monotonic()
    splits, _ = prepared.read_images(found, None)
    seconds = time.monotonic() - started
    started = time.monotonic()
    for index, record in enumerate(found.records("train")):
        if index == 1000:
            break
        np.testing.assert_array_equal(record["image"], splits["train"].inputs[index])
    assert seconds < 0.2 * (time.monotonic() - started)


def test_the_folder_is_read_when_it_is_needed(monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", "/one")
    assert prepared.data_folder() == Path("/one")
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert prepared.data_folder() == Path("~/tensorflow_datasets").expanduser()
