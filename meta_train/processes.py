"""Processes: several on one machine or on many run different groups and meet in one sum.

Each process has devices, and compiles and runs programs, of its own. Once per outer step
all of them add up what their groups contribute, in one all-reduce of a vector as long as
theta, and then make the same update. `jax.distributed` brings them together: by itself
under SLURM, Kubernetes, MPI and on TPU pods, elsewhere by an address that all are told.
"""

import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from meta_train.outer import Contribution

HEARTBEAT_SECONDS = 20  # a process that was silent for so long is gone


class ProcessLostError(RuntimeError):
    """Another process of the run is gone, and with it its groups."""


def connect(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Join the other processes of a run; call before anything else touches jax.

    Args:
      coordinator: "host:port" of process 0, the same for all.
      num_processes: how many there are.
      process_id: which one this is, from 0.

    What is None is found out where a scheduler tells it (SLURM, Kubernetes, MPI, TPU).

    Raises:
      ValueError: nothing tells what was left out.
    """
    jax.distributed.initialize(
        coordinator,
        num_processes,
        process_id,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=HEARTBEAT_SECONDS,
    )


def is_first() -> bool:
    """Whether this is the process that speaks for all."""
    return jax.process_index() == 0


class DisagreementError(ValueError):
    """The processes were not told the same, or do not see the same."""


class Processes:
    """The processes of a run, seen from one of them; alone where nobody connected.

    Attributes:
      index: of this process, from 0.
      count: of all processes.

    Raises:
      ValueError: they do not have equally many devices.
    """

    def __init__(self) -> None:
        self.index, self.count = jax.process_index(), jax.process_count()
        devices = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
        counts = {
            sum(d.process_index == index for d in devices)
            for index in range(self.count)
        }
        if len(counts) > 1:
            raise ValueError(
                f"all processes must have equally many devices, not {sorted(counts)}."
            )
        grid = np.array(devices).reshape(self.count, -1)
        mesh = Mesh(grid, ("processes", "lanes"))
        self._by_process = NamedSharding(mesh, PartitionSpec("processes"))
        self._everywhere = NamedSharding(mesh, PartitionSpec())

    def share(self, slots: Sequence[int]) -> list[int]:
        """The slots of this process: every ``count``-th.

        Raises:
          ValueError: there are fewer slots than processes.
        """
        if len(slots) < self.count:
            raise ValueError(
                f"{self.count} processes cannot share {len(slots)} groups. Groups that "
                "stay are as many as the structures among the tasks; those that change, "
                f"as many as groups_in_flight. Have at least {self.count}, or start at "
                f"most {len(slots)} processes."
            )
        return [slot for slot in slots if slot % self.count == self.index]

    def sum(
        self, contributions: Sequence[Contribution], numbers: np.ndarray
    ) -> tuple[Sequence[Contribution], Any]:
        """Contributions that add up to those of all processes, and a sum of numbers.

        Args:
          contributions: of this process's groups, at least one.
          numbers: float32, as many in every process.
        """
        if self.count == 1:
            return contributions, numbers
        packed = _pack(contributions, numbers)
        rows = jax.make_array_from_single_device_arrays(
            (self.count, packed.shape[1]),
            self._by_process,
            [shard.data for shard in packed.addressable_shards],
        )
        total = _add(rows, self._everywhere)
        here = jax.make_array_from_single_device_arrays(
            total.shape,
            jax.tree.leaves(contributions[0])[0].sharding,
            [shard.data for shard in total.addressable_shards],
        )
        one, numbers = _unpack(here, contributions[0], len(numbers))
        return [one], numbers

    def any(self, condition: bool) -> bool:
        """Whether it holds in any process; all of them must call this."""
        return bool(np.any(self._gathered(condition)))

    def require_equal(self, name: str, number: int, advice: str) -> None:
        """Raise DisagreementError unless all processes call this with the same number."""
        numbers = self._gathered(number)
        if np.any(numbers != number):
            alike = [int(np.sum(numbers == other)) for other in np.unique(numbers)]
            raise DisagreementError(
                f"the {self.count} processes disagree about {name} ("
                f"{', '.join(f'{n} alike' for n in alike)}): {advice}"
            )

    def _gathered(self, number: int) -> Int[np.ndarray, "processes"]:
        """What each process calls this with."""
        if self.count == 1:
            return np.array([number])
        rows = jax.make_array_from_callback(
            (self.count,),
            self._by_process,
            lambda index: np.full((1,), number, np.int32),
        )
        return np.asarray(_gather(rows, self._everywhere).addressable_data(0))


@jax.jit
def _pack(contributions: Iterable[Contribution], numbers: Any) -> jax.Array:
    total = jax.tree.map(lambda *xs: sum(xs), *contributions)
    return jnp.concatenate([ravel_pytree(total)[0], numbers])[None]


@functools.partial(jax.jit, static_argnums=1)
def _add(rows: jax.Array, everywhere: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(jnp.sum(rows, axis=0), everywhere)


@functools.partial(jax.jit, static_argnums=1)
def _gather(rows: jax.Array, everywhere: NamedSharding) -> jax.Array:
    return jax.lax.with_sharding_constraint(rows, everywhere)


@functools.partial(jax.jit, static_argnums=2)
def _unpack(total: jax.Array, like: Contribution, count: int) -> Any:
    size = total.shape[0] - count
    return ravel_pytree(like)[1](total[:size]), total[size:]
