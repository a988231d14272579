"""Meta-parameters as named arrays, and back to the tree that the optimizer expects.

The tree itself is never stored: ``optimizer.init`` says what it is, and the names are
the paths in it (``layers/0/w``). So no stored file can make Python run anything.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from learned_opt import LearnedOptimizer


def name_leaves(optimizer: LearnedOptimizer, theta: PyTree) -> dict[str, np.ndarray]:
    """The leaves of ``theta`` by path, in the order of the tree.

    Raises:
      ValueError: ``theta`` is not a tree such as ``optimizer.init`` gives.
    """
    expected, expected_tree = _expected(optimizer)
    arrays = {name: np.array(leaf, order="C") for name, leaf in _paths(theta)}
    owner = type(optimizer).__name__
    _check(arrays, expected, f"theta does not fit {owner}")
    tree = jax.tree.structure(theta)
    if tree != expected_tree:
        raise ValueError(
            f"theta does not fit {owner}: it has the structure {tree}, "
            f"and init gives {expected_tree}"
        )
    return arrays


def restore(
    optimizer: LearnedOptimizer, arrays: dict[str, np.ndarray], origin: str
) -> PyTree:
    """The tree of ``optimizer.init`` with the named arrays as its leaves.

    Raises:
      ValueError: a leaf is missing, unknown, or of another shape or dtype; the message
        starts with ``origin``.
    """
    expected, tree = _expected(optimizer)
    _check(arrays, expected, f"{origin} does not fit {type(optimizer).__name__}")
    return jax.tree.unflatten(tree, [jnp.asarray(arrays[name]) for name in expected])


def _expected(
    optimizer: LearnedOptimizer,
) -> tuple[dict[str, jax.ShapeDtypeStruct], Any]:
    """Names, shapes and dtypes of what ``init`` gives, without running it."""
    with jax.enable_x64(False):  # theta is float32, also where float64 is the default
        theta = jax.eval_shape(lambda: optimizer.init(jax.random.key(0)))
    named = dict(paths := _paths(theta))
    if len(named) != len(paths):
        raise ValueError(
            f"{type(optimizer).__name__}: two leaves of theta have the same path "
            f"among {[name for name, _ in paths]}"
        )
    return named, jax.tree.structure(theta)


def _paths(theta: PyTree) -> list[tuple[str, Any]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(theta)
    path_name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    return [(path_name(path) or "theta", leaf) for path, leaf in leaves]


def _check(
    arrays: dict[str, np.ndarray],
    expected: dict[str, jax.ShapeDtypeStruct],
    complaint: str,
) -> None:
    if missing := expected.keys() - arrays.keys():
        raise ValueError(f"{complaint}: it lacks {_listed(missing)}")
    if unknown := arrays.keys() - expected.keys():
        raise ValueError(f"{complaint}: it also has {_listed(unknown)}")
    for name, want in expected.items():
        have = arrays[name]
        if (have.shape, have.dtype) != (want.shape, want.dtype):
            raise ValueError(
                f"{complaint}: {name!r} is {have.dtype}{list(have.shape)}, "
                f"and init gives {want.dtype}{list(want.shape)}"
            )


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names))
