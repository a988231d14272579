"""What an outer step of PES becomes on a GPU that is not here: kernels, bytes moved, memory.

    JAX_PLATFORMS=cpu python -m benchmarks.gpu_meta_training
    JAX_PLATFORMS=cpu python -m benchmarks.gpu_meta_training --tasks 4096 --lane-batch 512

The problem of `meta_training`, compiled for an H100 and read as in `gpu_program`, where
it is told what has to be installed. Nothing is run. Per optimizer and number of tasks,
each a pair of lanes:

* launches: kernels for each inner step (of all lanes), what an outer step begins and ends
  with included;
* numbers moved: float32 that kernels read from and write to memory, for each parameter of
  each lane in each inner step. `--optimizers sgd` tells how many are the task's;
* at most: inner steps per second, all lanes together, if nothing but the bandwidth of
  the memory were to limit them (3.35 TB/s; what stays in the cache is faster);
* lanes, other: GiB of the lanes' state, and of what an outer step needs besides.
"""

import dataclasses
import itertools

import jax
import optax
import tyro
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_program import BANDWIDTH, compile_for_h100, traffic
from benchmarks.meta_training import Case, problem
from meta_train import outer


@dataclasses.dataclass(frozen=True)
class Measure:
    """Compiles outer steps for an H100; prints a table."""

    optimizers: tuple[str, ...] = (
        "scale_free",
        "adafactor_mlp",
        "per_parameter_mlp",
        "hierarchical",
        "hyper_v2",
    )
    tasks: tuple[int, ...] = (64, 512)
    """How many at a time: half as many as there are lanes. Each of these."""
    window: int = 50
    lane_batch: int | None = None
    """Pairs run at once, the others taking turns; none: all."""
    noise_rank: int | None = None
    """Of the perturbations of large matrices; none: independent numbers."""

    def __call__(self) -> None:
        table = Table(title="PES, MLP 64-32-10, batch 64, compiled for an H100")
        columns = ["launches", "numbers moved", "at most", "lanes", "other"]
        for column in ("optimizer", "tasks x window", *columns, "compile s"):
            table.add_column(column, justify="right")
        for name, tasks in itertools.product(self.optimizers, self.tasks):
            case = Case(name, tasks, self.window, 1, self.noise_rank, self.lane_batch)
            table.add_row(name, f"{tasks} x {self.window}", *_cells(case))
        Console(width=110).print(table)


def _cells(case: Case) -> list[str]:
    pes, optimizer = problem(case, mesh=None)
    tx = optax.adam(1e-3)
    state = jax.eval_shape(
        lambda key: outer.start((pes,), optimizer.init(key), tx, key),
        jax.random.key(0),
    )
    step = outer.step_function(tx)
    compiled, seconds = compile_for_h100(step, ((pes,), state), (1,))
    launches, moved = traffic(compiled.as_text())
    memory = compiled.memory_analysis()
    model = jax.eval_shape(pes.system.task.init, jax.random.key(0))
    inner_steps = case.tasks * 2 * case.window
    params = sum(x.size for x in jax.tree.leaves(model))
    gib = lambda size: f"{size / 2**30:.2f}"
    return [
        f"{launches / case.window:.0f}",
        f"{moved / 4 / inner_steps / params:.0f}",
        f"{inner_steps / moved * BANDWIDTH:,.0f}",
        gib(memory.output_size_in_bytes),
        gib(memory.temp_size_in_bytes),
        f"{seconds:.1f}",
    ]


def main() -> None:
    """The reference problem, with few lanes and with many."""
    Measure()()


if __name__ == "__main__":
    tyro.cli(Measure)()
