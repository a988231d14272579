"""Inner steps per second of PES on a fixed problem, compile seconds, peak memory.

    python -m benchmarks meta_training

The problem: an MLP 64-32-10 (2,410 parameters, relu, softmax cross-entropy) on batches of
64 drawn by random index from the digits on the device; PES, antithetic, sigma .01;
(a) 8 tasks x windows of 20 steps, (b) 16 tasks x 50. Counted: outer steps x tasks x 2 x
window, in seconds after warm-up; every repetition is a process of its own, with a cold
compilation cache. Tables give the median and the range over repetitions.
"""

import json
import resource
import statistics
import subprocess
import sys
import time

# google/learned_optimization at commit 32186aa on one kind of 2-core machine (AVX-512,
# Python 3.11, jax 0.10.2), through its estimator: the marks to clear, from another run.
PEER = {
    ("per_parameter_mlp", "a"): "3,134 (MLPLOpt)",
    ("hierarchical", "a"): "2,271 (RNNMLPLOpt)",
    ("scale_free", "a"): "3,871 (AdafacMLPLOpt)",
    ("scale_free", "b"): "4,758 (AdafacMLPLOpt)",
}
SHAPES = {"a": (8, 20), "b": (16, 50)}
CASES = (
    ("adam", "a"),
    ("scale_free", "a"),
    ("scale_free", "b"),
    ("per_parameter_mlp", "a"),
    ("hierarchical", "a"),
)
# Lanes a device runs at once, where all of them together would leave the caches.
LANE_BATCH = {"hierarchical": 2}
REPETITIONS = 3
SECONDS = 6.0


def measure(name: str, shape: str) -> dict[str, float]:
    """One repetition, in this process."""
    from meta_train.devices import lane_mesh, replicate, use_all_cores

    use_all_cores()
    import jax
    import optax

    import learned_opt
    import tasksets
    from meta_train import PES, InnerTraining, Truncation, outer

    num_tasks, window = SHAPES[shape]
    mesh = lane_mesh()
    task = tasksets.get("small_mlp/seed3@digits?hidden=32&activation=relu")
    optimizer = learned_opt.get(name)()
    system = InnerTraining(replicate(task, mesh), optimizer, train_weight=1.0)
    truncation = Truncation.log_uniform(4 * window, 64 * window, window)
    batch = LANE_BATCH.get(name)
    pes = PES(system, truncation, num_tasks, 0.01, 2.0, lane_batch=batch, mesh=mesh)
    estimators = (pes,)
    tx = optax.adam(1e-3)
    theta = jax.jit(optimizer.init)(jax.random.key(0))
    state = outer.start(estimators, theta, tx, jax.random.key(1))
    step = outer.make_step(tx)

    began = time.perf_counter()
    state, metrics = step(estimators, state)
    float(metrics["loss"])
    compile_seconds = time.perf_counter() - began

    steps, began = 0, time.perf_counter()
    while time.perf_counter() - began < SECONDS:
        state, metrics = step(estimators, state)
        float(metrics["loss"])  # one step in flight at most, as in training
        steps += 1
    seconds = time.perf_counter() - began
    return {
        "inner_steps_per_second": steps * num_tasks * 2 * window / seconds,
        "compile_seconds": compile_seconds,
        "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
    }


def main() -> None:
    """Every case in fresh processes; print the table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="PES, MLP 64-32-10, batch 64: inner steps per second")
    for column in ("optimizer", "shape", "median", "range", "peer", "compile s", "GiB"):
        table.add_column(column, justify="right")
    for name, shape in CASES:
        command = [sys.executable, "-m", "benchmarks.meta_training", name, shape]
        runs = [
            json.loads(subprocess.check_output(command, text=True).splitlines()[-1])
            for _ in range(REPETITIONS)
        ]
        rates = sorted(run["inner_steps_per_second"] for run in runs)
        table.add_row(
            name,
            f"({shape}) {SHAPES[shape][0]} x {SHAPES[shape][1]}",
            f"{statistics.median(rates):,.0f}",
            f"{rates[0]:,.0f}-{rates[-1]:,.0f}",
            PEER.get((name, shape), "-"),
            f"{statistics.median(run['compile_seconds'] for run in runs):.1f}",
            f"{max(run['peak_gib'] for run in runs):.2f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:3])))
