"""Inner steps per second of PES on a fixed problem, compile seconds, peak memory.

    python -m benchmarks meta_training
    python -m benchmarks.meta_training --optimizers scale_free --tasks 8 64 512 --devices 1 2

The problem: an MLP 64-32-10 (2,410 parameters, relu, softmax cross-entropy) on batches of
64 drawn by random index from the digits on the device; PES, antithetic, sigma .01;
(a) 8 tasks x windows of 20 steps, (b) 16 tasks x 50. Counted: outer steps x tasks x 2 x
window, in seconds after warm-up; one outer step is in flight while the metrics of the one
before are read, as in training. Every repetition is a process of its own, with a cold
compilation cache. Tables give the median and the range over repetitions.

Operations are all floating-point ones of an outer step (`tasksets.cost`), in matrix
products and not; their rate is also given as a share of what large matrix products reach
on the same devices in the same process.
"""

import dataclasses
import itertools
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table

# google/learned_optimization at commit 32186aa on one kind of 2-core machine (AVX-512,
# Python 3.11, jax 0.10.2), through its estimator: the marks to clear, from another run.
PEER = {
    ("per_parameter_mlp", 8, 20): "3,134 (MLPLOpt)",
    ("hierarchical", 8, 20): "2,271 (RNNMLPLOpt)",
    ("adafactor_mlp", 8, 20): "3,871 (AdafacMLPLOpt)",
    ("adafactor_mlp", 16, 50): "4,758 (AdafacMLPLOpt)",
    ("hyper_v2", 8, 20): "402 (HyperV2)",
}
TASK = "small_mlp/seed3@digits?hidden=32&activation=relu"  # MLP 64-32-10
_MULTIPLIED = 2048  # rows and columns of the matrices that measure matrix products


@dataclasses.dataclass(frozen=True)
class Case:
    """What one process measures."""

    optimizer: str
    tasks: int
    window: int
    devices: int  # 0: all there are
    noise_rank: int | None = None
    lane_batch: int | None = None


CASES = tuple(
    Case(name, *shape, 0)
    for name, shape in (
        ("adam", (8, 20)),
        ("scale_free", (8, 20)),
        ("scale_free", (16, 50)),
        ("adafactor_mlp", (8, 20)),
        ("adafactor_mlp", (16, 50)),
        ("per_parameter_mlp", (8, 20)),
        ("hierarchical", (8, 20)),
        ("hyper_v2", (8, 20)),
    )
)


@dataclasses.dataclass(frozen=True)
class Measure:
    """Measures meta-training; prints a table."""

    optimizers: tuple[str, ...] = ()
    """Registered names; none: the reference cases."""
    tasks: tuple[int, ...] = (16,)
    """How many at a time: half as many as there are lanes. Each of these."""
    window: int = 50
    devices: tuple[int, ...] = (0,)
    """How many to use, 0 for all. Each of these."""
    noise_rank: int | None = None
    """Of the perturbations of large matrices; none: independent numbers."""
    lane_batch: int | None = None
    """Pairs that a device runs at once; none: as many as a run would by default."""
    repetitions: int = 3
    seconds: float = 6.0
    """Of one repetition, without compiling."""

    def __call__(self) -> None:
        swept = itertools.product(self.optimizers, self.tasks, self.devices)
        cases = [Case(name, n, self.window, devices) for name, n, devices in swept]
        table = Table(title="PES, MLP 64-32-10, batch 64: inner steps per second")
        for column in (
            "optimizer",
            "tasks x window",
            "devices",
            "median",
            "range",
            "peer",
            "GFLOP/s",
            "of sgemm",
            "compile s",
            "GiB",
        ):
            table.add_column(column, justify="right")
        for case in cases or CASES:
            case = dataclasses.replace(
                case, noise_rank=self.noise_rank, lane_batch=self.lane_batch
            )
            table.add_row(*self._row(case))
        Console(width=150).print(table)

    def _row(self, case: Case) -> list[str]:
        request = json.dumps([dataclasses.astuple(case), self.seconds])
        command = [sys.executable, "-m", "benchmarks.meta_training", "one", request]
        runs = [
            json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            for _ in range(self.repetitions)
        ]
        middle = lambda what: statistics.median(run[what] for run in runs)
        rates = sorted(run["rate"] for run in runs)
        return [
            case.optimizer,
            f"{case.tasks} x {case.window}",
            str(runs[0]["devices"]),
            f"{middle('rate'):,.0f}",
            f"{rates[0]:,.0f}-{rates[-1]:,.0f}",
            PEER.get((case.optimizer, case.tasks, case.window), "-"),
            f"{middle('gflops'):.1f}",
            f"{middle('share'):.0%}",
            f"{middle('compile_seconds'):.1f}",
            f"{max(run['peak_gib'] for run in runs):.2f}",
        ]


def measure(case: Case, seconds: float) -> dict[str, float]:
    """One repetition, in this process."""
    import jax

    if case.devices:
        jax.config.update("jax_num_cpu_devices", case.devices)
    from meta_train.devices import lane_mesh, use_all_cores

    use_all_cores()
    import optax

    from meta_train import outer
    from meta_train.turns import pairs_at_once
    from tasksets.cost import operations

    mesh = lane_mesh()
    pes, optimizer = problem(case, mesh)
    if case.lane_batch is None:
        own = case.tasks // (1 if mesh is None else mesh.size)
        pes = dataclasses.replace(pes, lane_batch=pairs_at_once(pes.system, own))
    tx = optax.adam(1e-3)
    theta = jax.jit(optimizer.init)(jax.random.key(0))
    state = outer.start((pes,), theta, tx, jax.random.key(1))
    step = outer.make_step(tx)
    whole = dataclasses.replace(pes, mesh=None)
    counted = operations(outer.step_function(tx), (whole,), state).total

    began = time.perf_counter()
    state, metrics = step((pes,), state)
    float(metrics["loss"])
    compile_seconds = time.perf_counter() - began

    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        state, following = step((pes,), state)
        float(metrics["loss"])
        metrics, steps = following, steps + 1
    float(metrics["loss"])
    taken = (time.perf_counter() - began) / steps
    return {
        "rate": case.tasks * 2 * case.window / taken,
        "gflops": counted / taken / 1e9,
        "share": counted / taken / _sgemm(mesh),
        "compile_seconds": compile_seconds,
        "devices": 1 if mesh is None else mesh.size,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def problem(case: Case, mesh: Any, name: str = TASK) -> tuple[Any, Any]:
    """The estimator of a case over a mesh (None: one device), and its optimizer."""
    import learned_opt
    import tasksets
    from meta_train import PES, InnerTraining, Truncation
    from meta_train.devices import replicate

    task = tasksets.get(name)
    optimizer = learned_opt.get(case.optimizer)()
    system = InnerTraining(replicate(task, mesh), optimizer, train_weight=1.0)
    window = case.window
    pes = PES(
        system,
        Truncation.log_uniform(4 * window, 64 * window, window),
        case.tasks,
        sigma=0.01,
        loss_cap=2.0,
        lane_batch=case.lane_batch,
        mesh=mesh,
        noise_rank=case.noise_rank,
    )
    return pes, optimizer


def _sgemm(mesh: Any) -> float:
    """Operations per second of large matrix products, one on each device."""
    import jax
    import jax.numpy as jnp

    count = 1 if mesh is None else mesh.size
    x = jnp.ones((count, _MULTIPLIED, _MULTIPLIED))
    product = lambda x: x @ x
    if mesh is not None:
        x = jax.device_put(x, jax.NamedSharding(mesh, jax.P("lanes")))
        product = jax.shard_map(
            product, mesh=mesh, in_specs=jax.P("lanes"), out_specs=jax.P("lanes")
        )
    product, taken = jax.jit(product), []
    for _ in range(6):
        began = time.perf_counter()
        jax.block_until_ready(product(x))
        taken.append(time.perf_counter() - began)
    return count * 2 * _MULTIPLIED**3 / statistics.median(taken[1:])


def main() -> None:
    """The reference cases."""
    Measure()()


if __name__ == "__main__":
    if sys.argv[1:2] == ["one"]:
        asked, duration = json.loads(sys.argv[2])
        print(json.dumps(measure(Case(*asked), duration)))
    else:
        tyro.cli(Measure)()
