"""Checkpoints of a run: atomic, a few kept, a bad one never fatal.

Orbax writes them. A checkpoint that cannot be read is named and passed over for the one
before it; one that another config made is refused.
"""

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from meta_train.config import TrainConfig
from meta_train.outer import OuterState

_KEPT = 3


class CheckpointError(RuntimeError):
    """There are checkpoints and none of them can be used; the message says why."""


class Checkpoints:
    """The checkpoints in one folder.

    Args:
      folder: made when missing.
      config: the run's config, stored with every checkpoint and compared on restore.
      warn: told, in one line each, about checkpoints that were passed over.
    """

    def __init__(self, folder: Path, config: TrainConfig, warn: Callable[[str], None]):
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save
        self._config = config
        self._warn = warn
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        keep: Any = ocp.training.preservation_policies.LatestN(_KEPT)
        self._checkpointer = ocp.training.Checkpointer(
            str(folder.resolve()),
            preservation_policy=keep,
            cleanup_tmp_directories=True,
        )

    def save(self, state: OuterState) -> None:
        """Write the state under its outer step; returns when it is safely on disk."""
        step = int(state.step)
        if any(
            checkpoint.step == step for checkpoint in self._checkpointer.checkpoints
        ):
            return
        metadata: Any = {"config": json.dumps(dataclasses.asdict(self._config))}
        self._checkpointer.save(step, state, force=True, custom_metadata=metadata)
        digest = _digest(self._folder / str(step))
        path = self._folder / f"{step}.sha256"
        path.write_text(digest + "\n")
        for old in self._folder.glob("*.sha256"):
            if not (self._folder / old.stem).exists():
                old.unlink()

    def restore(self, like: OuterState) -> OuterState | None:
        """The newest good state, None where no checkpoint was ever written.

        Args:
          like: a state of the same run; gives structure, dtypes and shardings.

        Raises:
          CheckpointError: there are checkpoints, but none that is readable and from
            this config.
        """
        refused = []
        steps = [checkpoint.step for checkpoint in self._checkpointer.checkpoints]
        for step in sorted(steps, reverse=True):
            try:
                return self._restore_one(step, like)
            except Exception as error:  # a broken file can fail in any way at all
                reason = str(error).strip().splitlines() or [type(error).__name__]
                refused.append(f"checkpoint {self._folder / str(step)}: {reason[0]}")
                self._warn(refused[-1])
        if refused:
            raise CheckpointError("no usable checkpoint:\n  " + "\n  ".join(refused))
        return None

    def _restore_one(self, step: int, like: OuterState) -> OuterState:
        metadata: Any = self._checkpointer.metadata(step).custom_metadata or {}
        made_by = TrainConfig.parse(metadata["config"])
        differences = made_by.differences(self._config)
        if differences:
            raise ValueError(f"made by another config ({'; '.join(differences)})")
        path = self._folder / f"{step}.sha256"
        if path.exists() and path.read_text().strip() != _digest(
            self._folder / str(step)
        ):
            raise ValueError("its files are damaged (checksum mismatch)")
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        return self._checkpointer.load(step, abstract)

    def close(self) -> None:
        """Wait for orbax to finish."""
        self._checkpointer.close()


def _digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
