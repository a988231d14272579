"""Checkpoints of a run: atomic, a few kept, a bad one never fatal.

    checkpoints/0of2/<step>.safetensors    state/...    theta and all that moves with it
                                           group<s>/... lanes of the group in slot s

Each process of a run writes its own groups into its own folder, the first one the state
too. All of them read what they need from all folders, so a run may go on with another
number of processes. (Orbax writes arrays that all processes have in common; lanes belong
to one.) A file appears under its name only when it is whole and on disk, and holds a
checksum. A checkpoint that cannot be read is named and passed over for the one before
it; one that another config made, or whose groups hold other tasks, is refused.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from meta_train.config import TrainConfig
from meta_train.engine import Engine
from meta_train.outer import OuterState
from meta_train.preparation import Lanes, Prepared
from meta_train.processes import Processes

_KEPT = 3


class CheckpointError(RuntimeError):
    """There are checkpoints and none of them can be used; the message says why."""


class Saved(Protocol):
    """What of a run is saved: an `Engine`, or a leader, whose workers have the lanes."""

    @property
    def state(self) -> OuterState: ...

    @property
    def lanes(self) -> dict[int, Lanes]: ...

    @property
    def in_flight(self) -> dict[int, Prepared]: ...


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
        self._config = config
        self._processes = processes
        self._warn = warn
        self._folder = folder
        self._part = _part(folder, processes.index, processes.count)
        self._part.mkdir(parents=True, exist_ok=True)

    def save(self, run: Saved) -> None:
        """Write this process's part of a run; returns when it is safely on disk."""
        step = int(run.state.step)
        saved = _steps(self._part)
        if step in saved:
            return
        pieces: dict[str, Any] = {
            f"group{slot}": lanes for slot, lanes in run.lanes.items()
        }
        if self._processes.index == 0:
            pieces["state"] = run.state
        facts = {"config": self._config.text(), "groups": _describe(run.in_flight)}
        _write(_file(self._part, step), pieces, facts)
        for old in saved[: 1 - _KEPT]:
            _file(self._part, old).unlink()
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
                where = _file(_part(self._folder, 0, found.processes), found.step)
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
            with self._open(found, index) as (_, facts):
                was = facts["groups"].get(slot)
            if was is None:
                continue  # the workers of an elastic run keep their lanes
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
        with self._open(found, index) as (file, facts):
            differences = TrainConfig.parse(facts["config"]).differences(self._config)
            if differences:
                raise ValueError(f"made by another config ({'; '.join(differences)})")
            if facts["sha256"] != _digest({k: file.get_tensor(k) for k in file.keys()}):
                raise ValueError("it is damaged (checksum mismatch)")

    def _load(self, found: Found, index: int, piece: str, like: Any) -> Any:
        with self._open(found, index) as (file, facts):

            def load(path: Any, like: jax.Array) -> jax.Array:
                name, blank = _name(piece, path), jax.eval_shape(_data, like)
                if facts["leaves"].get(name) != _kind(blank):
                    raise ValueError(f"{name} is {facts['leaves'].get(name)} in it")
                array = file.get_tensor(name).view(blank.dtype).reshape(blank.shape)
                return _to_device(array, like)

            return jax.tree.map_with_path(load, like)

    @contextmanager
    def _open(self, found: Found, index: int) -> Iterator[tuple[Any, dict[str, Any]]]:
        path = _file(_part(self._folder, index, found.processes), found.step)
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file, json.loads(file.metadata()["facts"])


def _part(folder: Path, index: int, count: int) -> Path:
    return folder / f"{index}of{count}"


def _file(part: Path, step: int) -> Path:
    return part / f"{step}.safetensors"


def _steps(part: Path) -> list[int]:
    """Of the checkpoints in a part, the oldest first."""
    return sorted(int(path.stem) for path in part.glob("*.safetensors"))


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


def _write(path: Path, pieces: dict[str, Any], facts: dict[str, Any]) -> None:
    """Whole or not at all, even if the machine loses power."""
    arrays = {
        _name(piece, leaf_path): np.asarray(_data(leaf))
        for piece, tree in pieces.items()
        for leaf_path, leaf in jax.tree.leaves_with_path(tree)
    }
    # As bytes: the format does not know every type of number.
    stored = {k: np.frombuffer(x.tobytes(), np.uint8) for k, x in arrays.items()}
    facts |= {
        "leaves": {name: _kind(array) for name, array in arrays.items()},
        "sha256": _digest(stored),
    }
    content = safetensors.numpy.save(stored, {"facts": json.dumps(facts)})
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _name(piece: str, path: Any) -> str:
    return piece + "/" + jax.tree_util.keystr(path, simple=True, separator="/")


def _kind(array: Any) -> list[Any]:
    return [array.dtype.name, list(array.shape)]


def _digest(stored: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over the names and contents of all arrays."""
    digest = hashlib.sha256()
    for name in sorted(stored):
        digest.update(name.encode())
        digest.update(stored[name].tobytes())
    return digest.hexdigest()


def _is_key(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _data(x: jax.Array) -> jax.Array:
    """The array itself; of random keys their data."""
    return jax.random.key_data(x) if _is_key(x) else x


def _to_device(x: np.ndarray, like: jax.Array) -> jax.Array:
    array = jnp.asarray(x)
    if _is_key(like):
        array = jax.random.wrap_key_data(array, impl=jax.random.key_impl(like))
    return jax.device_put(array, like.sharding)
