"""Pytrees of arrays in one file of safetensors, whole or not there at all, with a checksum.

    arrays = on_host({"state": state})                   # a copy, at once
    write(path, arrays, {"config": text})                # later, from any thread
    with opened(path) as stored:
        state = stored.load("state", like=state)

The trees themselves are not stored: what is loaded gets the structure of ``like``.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Shaped

from meta_train.whole_file import whole_file

Arrays = dict[str, Shaped[np.ndarray, "..."]]


def on_host(pieces: Mapping[str, Any]) -> Arrays:
    """The leaves of trees by name of the tree and path, copied to the host.

    What then happens to the trees, their donation included, changes nothing here.
    """
    leaves = {
        _name(piece, path): _data(leaf)
        for piece, tree in pieces.items()
        for path, leaf in jax.tree.leaves_with_path(tree)
    }
    # A copy of its own: what `device_get` gives on CPU may be the device's memory.
    return {name: np.array(x) for name, x in jax.device_get(leaves).items()}


def write(path: Path, arrays: Arrays, facts: Mapping[str, Any]) -> None:
    """Write arrays and plain facts; survives the loss of power at any instant.

    Raises:
      OSError: the disk is full, say; then nothing of it is left there.
    """
    # As bytes: the format does not know every type of number.
    stored = {k: np.frombuffer(x.tobytes(), np.uint8) for k, x in arrays.items()}
    header = {
        **facts,
        "leaves": {name: _kind(array) for name, array in arrays.items()},
        "sha256": _digest(stored),
    }
    content = safetensors.numpy.save(stored, {"facts": json.dumps(header)})
    with whole_file(path) as file:
        file.write(content)


class Stored:
    """An open file.

    Attributes:
      facts: what was written beside the arrays.
    """

    def __init__(self, file: Any):
        self.facts: dict[str, Any] = json.loads(file.metadata()["facts"])
        self._file = file

    def check(self) -> None:
        """Raise ValueError for a file whose contents are not what was written."""
        stored = {name: self._file.get_tensor(name) for name in self._file.keys()}
        if self.facts["sha256"] != _digest(stored):
            raise ValueError("it is damaged (checksum mismatch)")

    def leading_axis(self, piece: str) -> int:
        """How long the first axis of a tree's leaves is."""
        kinds = self.facts["leaves"].items()
        shapes = [shape for name, (_, shape) in kinds if name.startswith(f"{piece}/")]
        return shapes[0][0]

    def load(self, piece: str, like: Any) -> Any:
        """A tree with the structure, dtypes and shardings of another.

        Raises:
          ValueError: an array in the file is missing, or of another kind.
        """

        def load(path: Any, like: jax.Array) -> jax.Array:
            name, blank = _name(piece, path), jax.eval_shape(_data, like)
            if self.facts["leaves"].get(name) != _kind(blank):
                raise ValueError(f"{name} is {self.facts['leaves'].get(name)} in it")
            array = self._file.get_tensor(name).view(blank.dtype)
            return _to_device(array.reshape(blank.shape), like)

        return jax.tree.map_with_path(load, like)


@contextmanager
def opened(path: Path) -> Iterator[Stored]:
    """A file that `write` wrote."""
    with safetensors.safe_open(path, framework="numpy") as file:
        yield Stored(file)


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
