"""Gradient descent on theta, over a grid of learning rates and seeds in one program.

The outer loop of the experiments. Every pair of a learning rate and a seed is a run of its
own; runs are vmapped and outer steps scanned, so that systems far smaller than a
network keep a device busy. A long run is stopped and resumed by giving it a folder.
"""

import dataclasses
import logging
import math
import queue
import shutil
import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray
from orbax.checkpoint import v1 as ocp

from meta_train import outer
from meta_train.devices import compiler_options
from meta_train.estimators import Estimator
from meta_train.system import Theta

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class Trace(NamedTuple):
    """Runs of gradient descent, recorded at intervals.

    Attributes:
      step: outer steps done at each record, ``[records]``.
      theta: the meta-parameters then, ``[rates, seeds, records, ...]``.
      metrics: the estimator's metrics, means over the steps since the record before,
        ``[rates, seeds, records]``.
    """

    step: Float[np.ndarray, "records"]
    theta: Theta
    metrics: dict[str, Float[np.ndarray, "rates seeds records"]]


def descend(
    estimator: Estimator,
    init: Callable[[PRNGKeyArray], Theta],
    *,
    optimizer: Callable[[Array], optax.GradientTransformation] = optax.adam,
    rates: Sequence[float],
    seeds: Sequence[int],
    num_steps: int,
    records: int = 100,
    folder: Path | None = None,
) -> Trace:
    """Descend from ``init(key)`` at every rate with every seed.

    Args:
      estimator: gives the gradients.
      init: the start, from a key that depends on the seed alone.
      optimizer: an outer optimizer for a learning rate.
      rates: learning rates.
      seeds: of the start and of the estimates; every rate has the same ones.
      num_steps: outer steps, a multiple of ``records``.
      records: how often to record; the first record is after ``num_steps / records``.
      folder: keeps what was done, so that a run that was stopped goes on from its
        last record; None forgets.

    Raises:
      ValueError: ``num_steps`` is no multiple of ``records``.
    """
    if num_steps % records:
        raise ValueError(f"{num_steps} steps do not divide into {records} records.")
    every = num_steps // records

    def start(rate: Array, seed: Array, estimator: Estimator):
        theta_key, run_key = jax.random.split(jax.random.key(seed))
        theta = init(theta_key)
        lanes = (estimator.init(theta, run_key),)
        zero = jnp.zeros((), jnp.int32)
        state = optimizer(rate).init(theta)
        return outer.OuterState(zero, zero, theta, theta, state, lanes, run_key)

    def advance(state: outer.OuterState, rate: Array, estimator: Estimator):
        step = outer.step_function(optimizer(rate), clip=math.inf)
        body = lambda state, _: step((estimator,), state)
        state, metrics = jax.lax.scan(body, state, length=every)
        return state, jax.tree.map(lambda x: jnp.mean(x, axis=0), metrics)

    options = compiler_options()
    over_seeds = jax.vmap(start, (None, 0, None))
    begin = jax.jit(jax.vmap(over_seeds, (0, None, None)), compiler_options=options)
    over_seeds = jax.vmap(advance, (0, None, None))
    go_on = jax.jit(jax.vmap(over_seeds, (0, 0, None)), compiler_options=options)

    grid = jnp.array(rates, jnp.float32)
    state = begin(grid, jnp.array(seeds), estimator)
    recorded = jax.tree.map(
        lambda x: np.zeros((*x.shape[:2], records, *x.shape[2:]), x.dtype),
        _record(*go_on.eval_shape(state, grid, estimator)),
    )
    settings = _plain((estimator, getattr(optimizer, "__qualname__", None)))
    told_by = zlib.crc32(repr(settings).encode())
    run = np.array([*rates, *seeds, num_steps, records, told_by], np.float64)
    progress = _Progress(np.zeros((), np.int32), run, state, recorded)
    if folder is not None:
        progress = _restore(folder, progress)
    for record in range(int(progress.done), records):
        state, metrics = go_on(progress.state, grid, estimator)
        for all_records, new in zip(
            jax.tree.leaves(progress.recorded),
            jax.tree.leaves(_record(state, metrics)),
            strict=True,
        ):
            all_records[:, :, record] = new
        done = np.asarray(record + 1, np.int32)
        progress = progress._replace(done=done, state=state)
        if folder is not None:
            _save(folder, progress)
    theta, metrics = progress.recorded
    return Trace(every * np.arange(1, records + 1), theta, metrics)


def concurrently(jobs: Mapping[K, Callable[[], T]]) -> dict[K, T]:
    """Run jobs side by side, one on each device, in their order; their results."""
    free: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for device in jax.local_devices():
        free.put(device)

    def run(job: Callable[[], T]) -> T:
        device = free.get()
        try:
            with jax.default_device(device):
                return job()
        finally:
            free.put(device)

    with ThreadPoolExecutor(len(jax.local_devices())) as pool:
        return dict(zip(jobs, pool.map(run, jobs.values()), strict=True))


class _Progress(NamedTuple):
    """A run so far: what a checkpoint holds.

    Attributes:
      done: records made.
      run: the numbers that tell one run from another.
      state: after the last record, ``[rates, seeds, ...]``.
      recorded: theta and metrics, ``[rates, seeds, records, ...]``.
    """

    done: np.ndarray
    run: np.ndarray
    state: outer.OuterState
    recorded: tuple[Theta, dict[str, np.ndarray]]


def _plain(x: Any) -> Any:
    """What of an estimator is a setting: numbers and words, arrays by their content."""
    if dataclasses.is_dataclass(x):
        fields = [(f.name, _plain(getattr(x, f.name))) for f in dataclasses.fields(x)]
        return type(x).__name__, fields
    if isinstance(x, tuple):
        return [_plain(part) for part in x]
    if isinstance(x, jax.Array | np.ndarray):
        return zlib.crc32(np.asarray(x).tobytes())
    # The address of a function, say, is another one after every start.
    return x if isinstance(x, int | float | str | None) else type(x).__name__


def _record(state: outer.OuterState, metrics: outer.Metrics) -> Any:
    return state.theta, metrics


def _save(folder: Path, progress: _Progress) -> None:
    """Write a checkpoint, then remove those before it."""
    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every save
    before = _checkpoints(folder)
    ocp.save(str(folder.resolve() / f"{progress.done:06d}"), progress)
    for path in before:
        shutil.rmtree(path)


def _restore(folder: Path, start: _Progress) -> _Progress:
    """The newest checkpoint in the folder, the start where there is none.

    Raises:
      ValueError: the folder holds another run.
    """
    for path in reversed(_checkpoints(folder)):
        try:
            progress = ocp.load(str(path.resolve()), jax.tree.map(_abstract, start))
        except (ValueError, KeyError, TypeError):
            progress = None
        if progress is None or not np.array_equal(progress.run, start.run):
            raise ValueError(
                f"{path} belongs to a run with other settings; remove {folder}, or "
                "give another folder."
            )
        return progress
    return start


def _abstract(x: Any) -> Any:
    if isinstance(x, jax.Array):
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    return x  # orbax gives arrays of numpy for arrays of numpy


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]" * 6) if path.is_dir())
