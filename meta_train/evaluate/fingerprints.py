"""What a name stood for when a result was made, as a few numbers to compare.

A task's are moments of its numbers and of a sample of its data, as somebody's subset of
a data set is not the data set, and its losses at fixed parameters, as code that computes
something else is another task. An optimizer's are the parameters it reaches in three steps
on a fixed problem. Both are compared with a tolerance, since compilers and machines round
differently.

The losses take seconds to trace and compile. Those of the tasks that ship are kept with the
results, under a digest of the code that computes them.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

import tasksets
from meta_train.devices import compile_for, run_once_options
from meta_train.evaluate.cache import Cache
from meta_train.evaluate.contenders import Contender, Kind, Point, digest, stack_numbers
from tasksets import Task, group_by_structure
from tasksets.task import SPLITS

_SAMPLE = 4096  # entries of an array that are looked at
_STEPS = 3
_TOLERANCE = 1e-2

_KNOWN: WeakKeyDictionary[Task, Float[np.ndarray, "numbers"]] = WeakKeyDictionary()


def of_tasks(
    tasks: Sequence[Task], cache: Cache = Cache(None)
) -> list[Float[np.ndarray, "numbers"]]:
    """Size, mean, mean magnitude and a position-dependent mean of every array; losses.

    Found once for a task, several structures at a time: nearly all of it is compiling.

    Args:
      tasks: of any structures.
      cache: where losses are looked up and kept.
    """
    new = [task for task in tasks if task not in _KNOWN]
    moments = {task: _of_arrays(task) for task in new}
    losses = _losses_of(new, moments, cache)
    for task in new:
        both = np.concatenate([moments[task], losses[task]])
        _KNOWN[task] = both.astype(np.float32)
    return [_KNOWN[task] for task in tasks]


def of_points(points: Sequence[Point]) -> Float[np.ndarray, "points numbers"]:
    """Where points of one kind take fixed parameters in three fixed steps."""
    reached = _reached_by(points[0].kind)
    every = jax.vmap(reached, axis_size=len(points))
    return np.asarray(every(stack_numbers(points)))


def by_content(
    contenders: Sequence[Contender],
) -> dict[str, Float[np.ndarray, "numbers"]]:
    """Of every point of contenders that has a content, by that."""
    by_kind: dict[str, list[Point]] = {}
    for point in (point for contender in contenders for point in contender.points):
        if point.content is not None:
            by_kind.setdefault(point.kind.identity, []).append(point)
    return {
        point.content: found
        for points in by_kind.values()
        for point, found in zip(points, of_points(points), strict=True)
        if point.content is not None
    }


def agree(a: Float[np.ndarray, "*any"], b: Float[np.ndarray, "*any"]) -> bool:
    """Whether fingerprints are of the same things."""
    if a.shape != b.shape:
        return False
    return bool(np.allclose(a, b, rtol=_TOLERANCE, atol=1e-6, equal_nan=True))


def _of_arrays(task: Task) -> Float[np.ndarray, "numbers"]:
    named = jax.tree_util.tree_leaves_with_path(task.numbers)
    # The losses that normalise decide nothing about training, and get measured anew.
    leaves = [x for path, x in named if not _normalises(path)]
    leaves += (data := jax.tree.leaves(task.data))
    # Without data it goes without saying.
    one_split = np.ones(int(bool(data) and task.one_split))
    return np.concatenate([one_split, *map(_moments, leaves)])


def _losses_of(
    tasks: Sequence[Task], moments: Mapping[Task, Any], cache: Cache
) -> dict[Task, Float[np.ndarray, "splits"]]:
    keys = {task: _key(task, moments[task]) for task in tasks}
    kept = {task: cache.fingerprint(key) for task, key in keys.items() if key}
    losses = {task: found for task, found in kept.items() if found is not None}
    alike = group_by_structure([task for task in tasks if task not in losses])
    with ThreadPoolExecutor() as pool:
        for group, found in zip(alike, pool.map(_of_alike, alike), strict=True):
            losses.update(zip(group, found, strict=True))
            for task in group:
                if key := keys[task]:
                    cache.keep_fingerprint(key, losses[task])
    return losses


def _key(task: Task, moments: Float[np.ndarray, "numbers"]) -> str | None:
    """Under what the losses of a task are kept; None: its code is somebody else's."""
    if not tasksets.ships(task.name):
        return None
    return digest([task.name, repr(task.problem), moments.tobytes().hex(), _code()])


@cache
def _code() -> str:
    """Digest of the code of tasks, and of the versions of what it is built on."""
    sources = sorted(Path(tasksets.__file__).parent.rglob("*.py"))
    versions = [version(package) for package in ("jax", "flax", "optax", "numpy")]
    return digest([*versions, *(source.read_text("utf8") for source in sources)])


def _of_alike(tasks: Sequence[Task]) -> list[Float[np.ndarray, "splits"]]:
    """Losses of tasks of equal structure."""
    losses = compile_for(_losses, tasks[:1], run_once_options())
    return [np.asarray(losses(task)) for task in tasks]


def _losses(task: Task) -> Float[jax.Array, "splits"]:
    """Near a start, where layers that begin at zero have begun to matter."""
    keys = jax.random.split(jax.random.key(0), 4)
    start = task.init(keys[0])
    noise = optax.tree.random_like(keys[1], start)
    params = optax.tree.add_scale(start, 0.1, noise)
    batches = [partial(task.batch, split) for split in SPLITS]

    def loss(split: Int[jax.Array, ""]) -> Float[jax.Array, ""]:
        batch = jax.lax.switch(split, batches, keys[2])
        return task.loss(params, batch, keys[3])

    return jax.lax.map(loss, jnp.arange(len(SPLITS)))


def _reached_by(kind: Kind) -> Any:
    matrix = jnp.linspace(-1.0, 1.0, 6).reshape(2, 3) ** 3
    first = {
        "matrix": matrix,
        "vector": jnp.array([0.5, -0.2]),
        "unused": jnp.ones(1),
    }

    @jax.jit
    def reached(numbers: Any) -> Float[jax.Array, "numbers"]:
        tx = optax.with_extra_args_support(kind.make(numbers, 10 * _STEPS))
        params, state = first, tx.init(first)
        for step in range(_STEPS):
            grads = jax.tree.map(lambda p, s=step: jnp.sin(3 * p + s), params)
            grads["unused"] = jnp.zeros(1)
            value = jnp.float32(2.0 - 0.3 * step)
            updates, state = tx.update(
                grads, state, params, value=value, valid_value=value
            )
            params = optax.apply_updates(params, updates)
        # Relative to the way gone: a small step must count as much as a large one.
        flat = lambda tree: jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
        way = flat(params) - flat(first)
        length = jnp.linalg.norm(way)
        return jnp.append(way / jnp.maximum(length, 1e-30), jnp.log(length))

    return reached


def _normalises(path: Any) -> bool:
    return getattr(path[-1], "name", "") in ("initial_loss", "best_loss")


def _moments(leaf: Any) -> Float[np.ndarray, "4"]:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    flat = np.asarray(leaf).reshape(-1)
    sample = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64)
    if sample.size == 0:
        return np.zeros(4)
    # Of the second half of the entries only: sorted differently, it is different.
    late = sample[sample.size // 2 :]
    return np.array([flat.size, sample.mean(), np.abs(sample).mean(), late.mean()])
