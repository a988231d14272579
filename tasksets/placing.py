"""Data of tasks on the device: an array of numpy comes there once, whoever uses it."""

import weakref
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# By identity of arrays of numpy that are alive.
_placed: dict[int, jax.Array] = {}


def on_device(data: Any) -> Any:
    """The same tree with arrays of jax, which alone can be indexed in a compiled program."""
    if not any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(data)):
        return data
    return jax.tree.map(_on_device, data)


def _on_device(array: Any) -> Any:
    if not isinstance(array, np.ndarray):
        return array
    if id(array) not in _placed:
        # A copy, which does not keep the array of numpy alive.
        _placed[id(array)] = jnp.array(array)
        weakref.finalize(array, _placed.pop, id(array), None).atexit = False
    return _placed[id(array)]
