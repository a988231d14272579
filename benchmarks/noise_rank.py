"""How far short trainings of `hyper_v2` come with perturbations of low rank.

    python -m benchmarks.noise_rank

PES, 16 pairs, sigma .01, windows of 20 steps of episodes of 100 to 400, Adam at 3e-4; the
task is an MLP 64-32-10 on the digits. Prints the outer loss of the first 50 and of the last
100 outer steps by rank (0: independent noise) and seed; a run takes about 3 minutes on two
CPU cores.
"""

import dataclasses

import jax
import numpy as np
import optax
import tyro

import learned_opt
import tasksets
from meta_train import PES, InnerTraining, Truncation, outer
from meta_train.devices import lane_mesh, replicate, use_all_cores

_TASK = "small_mlp/seed3@digits?hidden=32&activation=relu"


@dataclasses.dataclass(frozen=True)
class Trainings:
    """Trains `hyper_v2` with noise of several ranks."""

    ranks: tuple[int, ...] = (0, 4, 1)
    """0 for independent noise."""
    seeds: tuple[int, ...] = (0, 1)
    outer_steps: int = 400

    def __call__(self) -> None:
        use_all_cores()
        print("| seed | rank | first 50 | last 100 |\n|---|---|---|---|")
        for seed in self.seeds:
            for rank in self.ranks:
                losses = self._train(rank or None, seed)
                first, last = losses[:50].mean(), losses[-100:].mean()
                print(f"| {seed} | {rank} | {first:.2f} | {last:.2f} |", flush=True)

    def _train(self, rank: int | None, seed: int) -> np.ndarray:
        mesh, optimizer = lane_mesh(), learned_opt.get("hyper_v2")()
        task = replicate(tasksets.get(_TASK), mesh)
        system = InnerTraining(task, optimizer, train_weight=1.0)
        truncation = Truncation.log_uniform(100, 400, 20)
        pes = PES(system, truncation, 16, 0.01, 2.0, mesh=mesh, noise_rank=rank)
        tx = optax.adam(3e-4)
        theta = jax.jit(optimizer.init)(jax.random.key(seed))
        state = outer.start((pes,), theta, tx, jax.random.key(100 + seed))
        step, losses = outer.make_step(tx), []
        for _ in range(self.outer_steps):
            state, metrics = step((pes,), state)
            losses.append(metrics["loss"])
        return np.array(losses)


if __name__ == "__main__":
    tyro.cli(Trainings)()
