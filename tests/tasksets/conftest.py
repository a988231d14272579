"""Small data sets, written as tensorflow-datasets would have prepared them."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest


class FakePrepared:
    """A folder of prepared data sets, which is the only one there is to the test."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.tfds = pytest.importorskip("tensorflow_datasets")
        self._array_record = pytest.importorskip(
            "array_record.python.array_record_module"
        )

    def write(
        self,
        name: str,
        splits: dict[str, list[dict[str, Any]]],
        features: dict[str, Any],
        supervised: tuple[str, str] | None = None,
        *,
        config: str = "",
        version: str = "1.0.0",
        unshuffled: bool = False,
    ) -> Path:
        """Returns the folder of the version."""
        features_dict = self.tfds.features.FeaturesDict(features)
        root = self.folder / name / config / version
        root.mkdir(parents=True)
        features_dict.save_config(str(root))
        described = []
        for split, records in splits.items():
            path = root / f"{name}-{split}.array_record-00000-of-00001"
            writer = self._array_record.ArrayRecordWriter(str(path), "group_size:1")
            for record in records:
                encoded = features_dict.encode_example(record)
                writer.write(features_dict.serialize_example(encoded))
            writer.close()
            described.append(
                {
                    "name": split,
                    "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                    "numBytes": str(path.stat().st_size),
                    "shardLengths": [str(len(records))],
                }
            )
        description: dict[str, Any] = {
            "name": name,
            "version": version,
            "fileFormat": "array_record",
            "splits": described,
            "disableShuffling": unshuffled,
        }
        if config:
            description["configName"] = config
        if supervised:
            items = [{"featureKey": key} for key in supervised]
            description["supervisedKeys"] = {"tuple": {"items": items}}
        (root / "dataset_info.json").write_text(json.dumps(description))
        return root

    def write_images(
        self,
        name: str,
        sizes: dict[str, int],
        shape: tuple[int, int, int] = (6, 6, 3),
        label: str = "label",
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """Random images of three classes in turn; returns them by split."""
        features = {
            "image": self.tfds.features.Image(shape=shape),
            label: self.tfds.features.ClassLabel(num_classes=3),
        }
        rng = np.random.RandomState(0)
        images = {
            s: rng.randint(0, 256, (n, *shape), np.uint8) for s, n in sizes.items()
        }
        records = {
            split: [{"image": _png(x), label: i % 3} for i, x in enumerate(stored)]
            for split, stored in images.items()
        }
        self.write(name, records, features, ("image", label), **options)
        return images


def _png(image: np.ndarray) -> io.BytesIO:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    file.seek(0)
    return file


@pytest.fixture
def fake_prepared(tmp_path, monkeypatch) -> FakePrepared:
    """A folder of its own for prepared sets, and one for what is decoded."""
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "prepared"))
    monkeypatch.setenv("LEARNED_OPT_CACHE", str(tmp_path / "cache"))
    return FakePrepared(tmp_path / "prepared")
