"""Finds the seeds whose loss or gradient is not finite at the start, of flows above all.

    python -m benchmarks.finite_starts --num-seeds 200

Absent data are stood in for by data of the same shape (`stand_ins.py`); whether a task
overflows is a matter of its scales, not of what is in the picture. A seed counts
where any of three starts is not. What it prints is `tasksets.excluded`'s.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import tyro

import tasksets
from benchmarks.stand_ins import stand_in
from meta_train.devices import compiler_options
from tasksets.task import Task

_STARTS = 3


@dataclasses.dataclass(frozen=True)
class FiniteStarts:
    """Finds seeds whose loss or gradient is not finite at the start."""

    num_seeds: int = 200
    families: tuple[str, ...] = ("nvp_family", "maf_family")
    """Flows multiply scales through layers, recurrent networks through time."""
    known: bool = False
    """Try the seeds again that are excluded already."""

    def __call__(self) -> None:
        for family in self.families:
            seeds = [
                seed
                for seed in range(self.num_seeds)
                if (self.known or f"{family}/seed{seed}" not in tasksets.EXCLUDED)
                and not starts_finite(family, seed)
            ]
            print(f"{family} ({len(seeds)} of {self.num_seeds}):", *seeds, flush=True)


def starts_finite(family: str, seed: int) -> bool:
    """Whether three starts of a task all have a finite loss and gradient."""
    finite = _are_finite(tasksets.get(stand_in(f"{family}/seed{seed}")))
    jax.clear_caches()
    return bool(jnp.all(finite))


def _are_finite(task: Task) -> jax.Array:
    def start(key: jax.Array) -> jax.Array:
        init_key, batch_key, loss_key = jax.random.split(key, 3)
        batch = task.batch("train", batch_key)
        found = jax.value_and_grad(task.loss)(task.init(init_key), batch, loss_key)
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(found)]
        return jnp.all(jnp.stack(finite))

    starts = jax.random.split(jax.random.key(0), _STARTS)
    options = compiler_options()
    return jax.jit(partial(jax.lax.map, start), compiler_options=options)(starts)


if __name__ == "__main__":
    tyro.cli(FiniteStarts)()
