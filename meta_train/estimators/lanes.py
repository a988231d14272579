"""Lanes: many episodes side by side, each with an estimate, averaged over all devices."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from learned_opt import checks
from meta_train.system import choose
from meta_train.truncation import Episodes, Truncation

_FEW = 64  # lanes on a device
_LONG = 2**13  # numbers that each of them contributes to one array
_LANES, _EVERYWHERE = PartitionSpec("lanes"), PartitionSpec()

COUNT = "[1, inf)"  # of what there must be

Lane = Any  # a NamedTuple of arrays, one episode in progress


def require_numbers(estimator: Any, **intervals: str) -> None:
    """`checks.require_numbers` of the fields that are not None."""
    given = {k: x for k, x in intervals.items() if getattr(estimator, k) is not None}
    checks.require_numbers(estimator, **given)


def blank(lane: Lane, num_lanes: int, mesh: Mesh | None) -> Lane:
    """Zeros ``[lanes, ...]`` in the shape of a lane, spread over the mesh.

    Raises:
      ValueError: the lanes do not divide over the devices of the mesh.
    """
    devices = 1 if mesh is None else mesh.size
    if num_lanes % devices:
        raise ValueError(
            f"{num_lanes} lanes or antithetic pairs do not divide over {devices} devices."
        )
    sharding = None if mesh is None else NamedSharding(mesh, _LANES)
    return jax.tree.map(
        lambda x: jnp.zeros((num_lanes, *x.shape), x.dtype, device=sharding), lane
    )


def mean_over(
    window: Callable[[Any, Lane, PRNGKeyArray], tuple[Any, Lane]],
    shared: Any,
    lanes: Lane,
    key: PRNGKeyArray,
    *,
    batch: int | None,
    mesh: Mesh | None,
) -> tuple[Any, Lane]:
    """Let every lane spend a window, and average what they contribute.

    Args:
      window: maps ``(shared, lane, key)`` to ``(contribution, lane)``.
      shared: what all lanes see; arrays in it are arguments of the program.
      lanes: ``[lanes, ...]``.
      key: split into one for each lane.
      batch: lanes that a device runs at once, the others taking turns; None for all.
      mesh: over whose axis "lanes" they are spread; None for one device.

    Returns:
      The mean contribution and the lanes after the window.
    """
    num_lanes = jax.tree.leaves(lanes)[0].shape[0]

    def run(shared: Any, lanes: Lane, keys: PRNGKeyArray) -> tuple[Any, Lane]:
        one = lambda lane_and_key: window(shared, *lane_and_key)
        if batch is None:
            sums, lanes = jax.vmap(one)((lanes, keys))
        else:
            sums, lanes = jax.lax.map(one, (lanes, keys), batch_size=batch)
        sums = jax.tree.map(_total, sums)
        return (sums if mesh is None else jax.lax.psum(sums, "lanes")), lanes

    if mesh is not None:
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(_EVERYWHERE, _LANES, _LANES),
            out_specs=(_EVERYWHERE, _LANES),
            check_vma=False,
        )
    sums, lanes = run(shared, lanes, jax.random.split(key, num_lanes))
    return jax.tree.map(lambda x: x / num_lanes, sums), lanes


def _total(x: Float[Array, "lanes ..."]) -> Float[Array, "..."]:
    """The sum over lanes."""
    lanes, *shape = x.shape
    if lanes <= _FEW and math.prod(shape) >= _LONG:
        # On CPU, XLA sums over a short first axis many times slower than it adds.
        return functools.reduce(jnp.add, jnp.unstack(x))
    return jnp.sum(x, axis=0)


def next_episode(
    truncation: Truncation | Episodes, lane: Lane, fresh: Lane, key: PRNGKeyArray
) -> tuple[Lane, Bool[Array, ""]]:
    """The lane, or a fresh one where its episode is over; and whether that is so.

    A lane that has never begun has no windows at all; its first episode is cut, by the key.
    """
    cut = truncation.first_cut(key, fresh.num_windows)
    first = lane.num_windows == 0
    fresh = fresh._replace(num_windows=jnp.where(first, cut, fresh.num_windows))
    done = lane.window >= lane.num_windows
    return choose(done, fresh, lane), done
