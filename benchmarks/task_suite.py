"""The cost of the task suite: structures, compile seconds, milliseconds per step.

    python -m benchmarks.task_suite              all tables
    python -m benchmarks.task_suite structures   or costs, or slow

`structures`: how many programs a thousand tasks of a suite need.

`costs`: compile seconds and milliseconds per gradient step, on one core, of every
family at the seed of median and of largest cost among the first 88, by the operations
in its matrix products. A step is a batch, the loss and its gradient, inside a loop.

`slow`: the sampled tasks of `taskset-1k` that take over 100 ms per step on one core,
which Metz et al. 2020 (arXiv 2009.11243, appendix on tasks) leave out. Those with products
of less than 0.4 GFLOP are not, those of more than 20 are; the others are measured.

Absent data are stood in for by data of the same shape (`stand_ins.py`).
"""

import os
import sys
import time
from collections import Counter, defaultdict

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

import meta_train  # noqa: F401 (registers lopt_pes)
import tasksets
from benchmarks.stand_ins import stand_in
from meta_train.devices import compiler_options
from tasksets.stacking import structure
from tasksets.task import Task

console = Console(width=120)
_NUM_SEEDS = 88
_STEPS = 5
_SURELY_FAST, _SURELY_SLOW = 4e8, 2e10  # operations per step


def main() -> None:
    """Prints the tables that the command line names, or all."""
    for table in sys.argv[1:] or ("structures", "costs", "slow"):
        {"structures": structures, "costs": costs, "slow": slow}[table]()


def structures() -> None:
    """Distinct structures among a thousand names of each suite and of each family."""
    table = Table("suite", "tasks", "structures", title="Programs that tasks need")
    for suite in tasksets.suites():
        count = min(1000, len(tasksets.names(suite)))
        names = tasksets.sample_names(count, suite=suite, split=None)
        table.add_row(suite, str(count), str(_num_structures(names)))
    table.add_section()
    for family in tasksets.families():
        names = [f"{family}/seed{seed}" for seed in range(1000)]
        names = [name for name in names if name not in tasksets.EXCLUDED]
        table.add_row(family, str(len(names)), str(_num_structures(names)))
    console.print(table)


def costs() -> None:
    """Compile seconds and milliseconds per step of median and largest configs."""
    _use_one_core()
    table = Table(
        "task", "parameters", "MFLOP/step", "compile s", "ms/step", title="On one core"
    )
    for family in tasksets.families():
        names = [f"{family}/seed{seed}" for seed in range(_NUM_SEEDS)]
        names = [name for name in names if name not in tasksets.EXCLUDED]
        counts = [_flops(tasksets.get(stand_in(name))) for name in names]
        order = np.argsort(counts)
        for place, index in (
            ("median", order[len(order) // 2]),
            ("largest", order[-1]),
        ):
            name = names[index]
            compile_seconds, step, size = _measure(tasksets.get(stand_in(name)))
            table.add_row(
                f"{name} ({place})",
                f"{size:,}",
                f"{counts[index] / 1e6:,.1f}",
                f"{compile_seconds:.1f}",
                f"{step * 1e3:,.1f}",
            )
            jax.clear_caches()
    console.print(table)


def slow() -> None:
    """Sampled tasks over 100 ms per step, by family."""
    _use_one_core()
    table = Table("family", "tasks", "over 100 ms", "which seeds", title="Slow tasks")
    seeds = defaultdict(list)
    counts = Counter()
    for name in tasksets.names("taskset-1k"):
        family, _, seed = name.partition("/seed")
        if not seed:
            continue
        counts[family] += 1
        task = tasksets.get(stand_in(name))
        flop = _flops(task)
        if flop > _SURELY_SLOW or (flop > _SURELY_FAST and _is_slow(task)):
            seeds[family].append(seed)
        jax.clear_caches()
    for family, count in counts.items():
        listed = ", ".join(seeds[family])
        table.add_row(family, str(count), str(len(seeds[family])), listed)
    console.print(table)


def _is_slow(task: Task) -> bool:
    return _measure(task)[1] > 0.1


def _use_one_core() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _num_structures(names: list[str]) -> int:
    # A data set is part of the structure, whatever stands in for it.
    keys = (
        (tasksets.dataset_of(n), structure(tasksets.get(stand_in(n)))) for n in names
    )
    return len({hash(key) for key in keys})


def _gradient(task: Task, params, key):
    batch_key, loss_key = jax.random.split(key)
    batch = task.batch("train", batch_key)
    return jax.value_and_grad(task.loss)(params, batch, loss_key)


def _flops(task: Task) -> int:
    return tasksets.gradient_operations(task).products


def _measure(task: Task) -> tuple[float, float, int]:
    """(compile seconds, seconds per step, parameters) of a loop of gradient steps."""

    def steps(task: Task, params, key):
        def step(params, key):
            _, grads = _gradient(task, params, key)
            return jax.tree.map(lambda p, g: p - 1e-6 * g, params, grads), None

        return jax.lax.scan(step, params, jax.random.split(key, _STEPS))[0]

    key = jax.random.key(0)
    options = compiler_options()
    params = jax.jit(Task.init, compiler_options=options)(task, key)
    start = time.perf_counter()
    compiled = jax.jit(steps).lower(task, params, key).compile(options)
    compile_seconds = time.perf_counter() - start
    times = []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(compiled(task, params, key))
        times.append((time.perf_counter() - start) / _STEPS)
    size = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
    return compile_seconds, min(times), size


if __name__ == "__main__":
    main()
