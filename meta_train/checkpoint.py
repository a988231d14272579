"""Checkpoints of a run: atomic, a few kept, a bad one never fatal.

    checkpoints/0of1/<step>/state      theta and all that moves with it
    checkpoints/0of1/<step>/group<s>   the lanes of the group in slot s: particles, xi
    checkpoints/0of1/<step>.sha256     of those files, written last

Orbax writes them. Each process of a run writes its own groups into its own folder, the
first one the state too; a run may go on with another number of processes. A
checkpoint that cannot be read is named and passed over for the one before it; one that
another config made, or whose groups hold other tasks, is refused.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from meta_train.config import TrainConfig
from meta_train.engine import Engine
from meta_train.outer import OuterState
from meta_train.preparation import Lanes, Prepared
from meta_train.processes import Processes

_KEPT = 3


class CheckpointError(RuntimeError):
    """There are checkpoints and none of them can be used; the message says why."""


class Found(NamedTuple):
    """A checkpoint that may be usable: of which step, by how many processes."""

    step: int
    processes: int


class Checkpoints:
    """The checkpoints in one folder.

    Args:
      folder: made when missing.
      config: the run's config, stored with every checkpoint and compared on restore.
      processes: of which this one keeps its own part.
      warn: told, in one line each, about checkpoints that were passed over.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        processes: Processes,
        warn: Callable[[str], None],
    ):
        logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save
        self._config = config
        self._processes = processes
        self._warn = warn
        self._folder = folder
        self._part = _part(folder, processes.index, processes.count)
        self._part.mkdir(parents=True, exist_ok=True)
        for path in self._part.iterdir():
            if path.is_dir() and not path.name.isdecimal():
                shutil.rmtree(path)  # what a kill kept orbax from finishing
        # A part is this process's own affair.
        self._context = ocp.Context(
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                primary_host=processes.index,
                active_processes={processes.index},
                barrier_sync_key_prefix=f"part{processes.index}",
            )
        )

    def save(self, engine: Engine) -> None:
        """Write this process's part of a run; returns when it is safely on disk."""
        step = int(engine.state.step)
        saved = _steps(self._part)
        if step in saved:
            return
        pieces: dict[str, Any] = {
            f"group{slot}": lanes for slot, lanes in engine.lanes.items()
        }
        if self._processes.index == 0:
            pieces["state"] = engine.state
        metadata: Any = {
            "config": self._config.text(),
            "groups": json.dumps(_describe(engine.in_flight)),
        }
        path = self._part / str(step)
        shutil.rmtree(path, ignore_errors=True)  # a kill came before its checksum
        with self._context:
            ocp.save_checkpointables(
                str(path.resolve()), _to_host(pieces), custom_metadata=metadata
            )
        _checksum(path).write_text(_digest(path))
        for old in saved[: 1 - _KEPT]:
            _checksum(self._part / str(old)).unlink()
            shutil.rmtree(self._part / str(old))
        if saved and self._processes.index == 0:
            # By now all processes have written the one before, too.
            for part in self._folder.glob("*of*"):
                if not part.name.endswith(f"of{self._processes.count}"):
                    shutil.rmtree(part)

    def restore_state(self, like: OuterState) -> tuple[Found, OuterState] | None:
        """The newest good state, None where no checkpoint was ever written.

        All parts of its checkpoint are whole and made by this config.

        Args:
          like: a state of the same run; gives structure, dtypes and shardings.

        Raises:
          CheckpointError: there are checkpoints, but none that is readable and from
            this config.
        """
        refused = []
        for found in self._candidates():
            try:
                for index in range(found.processes):
                    self._check(found, index)
                return found, self._load(found, 0, "state", like)
            except Exception as error:  # a broken file can fail in any way at all
                reason = str(error).strip().splitlines() or [type(error).__name__]
                where = _part(self._folder, 0, found.processes) / str(found.step)
                refused.append(f"checkpoint {where}: {reason[0]}")
                self._warn(refused[-1])
        if refused:
            raise CheckpointError("no usable checkpoint:\n  " + "\n  ".join(refused))
        return None

    def restore_lanes(self, found: Found, engine: Engine) -> dict[int, Lanes]:
        """Lanes for an engine that is at the step of a checkpoint, by slot.

        Raises:
          CheckpointError: the checkpoint has other groups in flight, or other tasks in
            them: the data sets or the package are not what they were.
        """
        lanes = {}
        for slot, now in _describe(engine.in_flight).items():
            if now["born"] == found.step:
                continue  # it has not begun
            index = int(slot) % found.processes
            was = json.loads(self._metadata(found, index)["groups"])[slot]
            if was != now:
                raise CheckpointError(
                    f"at step {found.step} the group in slot {slot} was {was}, but would "
                    f"be {now}: the data sets on this machine, or this package, have "
                    "changed since."
                )
            like = engine.lanes[int(slot)]
            lanes[int(slot)] = self._load(found, index, f"group{slot}", like)
        return lanes

    def _candidates(self) -> list[Found]:
        """Steps of which every process wrote its part, the newest first."""
        found = []
        for part in self._folder.glob("0of*"):
            count = int(part.name.removeprefix("0of"))
            parts = [_part(self._folder, index, count) for index in range(count)]
            common = set.intersection(*(set(_steps(each)) for each in parts))
            found += [Found(step, count) for step in common]
        return sorted(found, reverse=True)

    def _check(self, found: Found, index: int) -> None:
        """Raise ValueError for a part that is damaged or of another config."""
        made_by = TrainConfig.parse(self._metadata(found, index)["config"])
        differences = made_by.differences(self._config)
        if differences:
            raise ValueError(f"made by another config ({'; '.join(differences)})")
        part = _part(self._folder, index, found.processes)
        path = part / str(found.step)
        if _checksum(path).read_text() != _digest(path):
            raise ValueError("its files are damaged (checksum mismatch)")

    def _metadata(self, found: Found, index: int) -> Mapping[str, str]:
        path = _part(self._folder, index, found.processes) / str(found.step)
        with self._context:
            metadata: Any = ocp.checkpointables_metadata(str(path.resolve()))
        return metadata.custom_metadata or {}

    def _load(self, found: Found, index: int, name: str, like: Any) -> Any:
        path = _part(self._folder, index, found.processes) / str(found.step)
        with self._context:
            pieces = ocp.load_checkpointables(str(path.resolve()), {name: _blank(like)})
        return jax.tree.map(_to_device, pieces[name], like)


def _to_host(tree: Any) -> Any:
    """As arrays of numpy, which belong to one process; keys as their data."""
    return jax.tree.map(lambda x: np.asarray(_data(x)), tree)


def _blank(like: Any) -> Any:
    """What `_to_host` would give, unfilled."""
    shapes = jax.eval_shape(lambda: jax.tree.map(_data, like))
    return jax.tree.map(lambda x: np.empty(x.shape, x.dtype), shapes)


def _to_device(x: np.ndarray, like: jax.Array) -> jax.Array:
    if jnp.issubdtype(like.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(jnp.asarray(x), impl=jax.random.key_impl(like))
        return jax.device_put(key, like.sharding)
    return jax.device_put(x, like.sharding)


def _data(x: jax.Array) -> jax.Array:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return jax.random.key_data(x) if is_key else x


def _part(folder: Path, index: int, count: int) -> Path:
    return folder / f"{index}of{count}"


def _checksum(path: Path) -> Path:
    """Where the checksum of a checkpoint is, without which it does not count."""
    return path.with_name(f"{path.name}.sha256")


def _steps(part: Path) -> list[int]:
    """Of the checkpoints in a part, the oldest first."""
    return sorted(int(path.stem) for path in part.glob("*.sha256"))


def _describe(in_flight: Mapping[int, Prepared]) -> dict[str, Any]:
    """What must be as it was for lanes to go on, by slot."""
    return {
        str(slot): {
            "generation": prepared.group.generation,
            "born": prepared.group.born,
            "ends": prepared.group.ends,
            "windows": prepared.group.windows,
            "tasks": list(prepared.tasks),
        }
        for slot, prepared in in_flight.items()
    }


def _digest(folder: Path) -> str:
    """SHA-256 over the names and contents of all files of a checkpoint."""
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(str(path.relative_to(folder)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
