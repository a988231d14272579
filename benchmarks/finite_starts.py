"""Finds the seeds of the flow families whose loss is not finite at the start.

    python -m benchmarks.finite_starts --num-seeds 200

Absent data are stood in for by data of the same shape (`stand_ins.py`); whether a flow
overflows is a matter of its scales, not of what is in the picture. A seed counts
where any of three starts is not finite. What it prints is `tasksets.excluded`'s.
"""

import dataclasses

import jax
import jax.numpy as jnp
import tyro

import tasksets
from benchmarks.stand_ins import stand_in
from tasksets.task import Task

_FAMILIES = ("nvp_family", "maf_family")
_STARTS = 3


@dataclasses.dataclass(frozen=True)
class FiniteStarts:
    """Finds seeds whose loss is not finite at the start."""

    num_seeds: int = 200

    def __call__(self) -> None:
        for family in _FAMILIES:
            seeds = [s for s in range(self.num_seeds) if not starts_finite(family, s)]
            print(f"{family} ({len(seeds)} of {self.num_seeds}):", *seeds, flush=True)


def starts_finite(family: str, seed: int) -> bool:
    """Whether three starts of a task all have a finite loss."""
    losses = _losses(tasksets.get(stand_in(f"{family}/seed{seed}")))
    jax.clear_caches()
    return bool(jnp.all(jnp.isfinite(losses)))


def _losses(task: Task) -> jax.Array:
    def loss(key: jax.Array) -> jax.Array:
        init_key, batch_key, loss_key = jax.random.split(key, 3)
        batch = task.batch("train", batch_key)
        return task.loss(task.init(init_key), batch, loss_key)

    return jax.jit(lambda keys: jax.lax.map(loss, keys))(
        jax.random.split(jax.random.key(0), _STARTS)
    )


if __name__ == "__main__":
    tyro.cli(FiniteStarts)()
