"""Measures the initial and best-known losses that `Task.normalize` needs.

    python -m benchmarks.known_losses --suite taskset-1k --seconds-per-task 20

For every task of the suite whose data are present and that has no entry yet: Adam at
`LEARNING_RATES`, each for as many steps as the budget allows (at most `--num-steps`),
all in one compiled program. The initial loss is the mean over `_NUM_INITS` draws of the
parameters; the best loss is the lowest mean over `_EVAL_BATCHES` batches that any rate
reached on any split at any of the evaluations. Appends to `tasksets/known_losses.csv`,
so that it can be stopped and run again; `--shard 0/2` takes every second task.
"""

import csv
import dataclasses
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import tasksets
from meta_train.devices import compiler_options
from tasksets.registry import measured
from tasksets.stacking import structure
from tasksets.task import SPLITS, Task

LEARNING_RATES = tuple(float(x) for x in np.geomspace(1e-4, 0.3, 8))
_NUM_INITS = 8
_EVAL_BATCHES = 10
_STEPS_PER_EVAL = 50


@dataclasses.dataclass(frozen=True)
class Measure:
    """Measures a suite's initial and best-known losses."""

    suite: str = "taskset-1k"
    num_steps: int = 1000
    """At most so many steps of training."""
    seconds_per_task: float = 20.0
    """At most so many seconds of processor time for training, beside compiling."""
    time_budget: float = float("inf")
    """Seconds after which no other task is begun."""
    table: Path = Path(tasksets.__file__).with_name("known_losses.csv")
    """Where to append; tasks that the shipped table or this one has are left out."""
    lanes: int = 1
    """Tasks of equal structure that are measured side by side."""
    shard: str = "0/1"
    """i/n: every n-th task, from the i-th."""

    def __call__(self) -> None:
        index, count = map(int, self.shard.split("/"))
        deadline = time.monotonic() + self.time_budget
        measured = 0
        for tasks in self._groups(tasksets.names(self.suite)[index::count]):
            if time.monotonic() > deadline:
                break
            stack = tasksets.stack(tasks)
            found = measure(stack, self.num_steps, self.seconds_per_task * len(tasks))
            with self.table.open("a", newline="") as file:
                for task, initial, best in zip(tasks, *found[:2], strict=True):
                    if not (np.isfinite(initial) and best < initial):
                        print(f"{task.name}: {initial:.5g} -> {best:.5g}: left out")
                        continue
                    row = [task.name, f"{initial:.6g}", f"{best:.6g}"]
                    csv.writer(file).writerow(row)
                    measured += 1
            print(f"{tasks[-1].name}: {len(tasks)} in {found[2]} steps", flush=True)
        print(f"measured {measured} tasks", file=sys.stderr)

    def _groups(self, names: Sequence[str]) -> Iterator[list[Task]]:
        """Tasks to measure, in stacks; a task by itself comes when it is met."""
        waiting: dict[Any, list[Task]] = defaultdict(list)
        here = self.table.read_text().splitlines() if self.table.exists() else []
        done = {line.partition(",")[0] for line in here}
        for name in names:
            if name in done or measured(name) is not None:
                continue
            try:
                task = tasksets.get(name)
            except tasksets.DataNotFoundError:
                continue
            if self.lanes == 1:
                yield [task]
                continue
            group = waiting[structure(task)]
            group.append(task)
            if len(group) == self.lanes:
                yield waiting.pop(structure(task))
        yield from waiting.values()


def measure(
    stack: Task, num_steps: int, seconds: float
) -> tuple[np.ndarray, np.ndarray, int]:
    """(initial losses, best losses, steps taken) of stacked tasks, by lane."""
    rates = jnp.array(LEARNING_RATES)
    lanes = jnp.arange(stack.num_lanes)
    key = jax.random.key(0)
    per_lane = lambda f: jax.vmap(f, (None, 0, 0, None))

    @partial(jax.jit, compiler_options=compiler_options())
    def start(stack: Task):
        def one(lane):
            params = stack.lane(lane).init(key)
            return jax.vmap(lambda rate: (params, optax.adam(rate).init(params)))(rates)

        return jax.vmap(one)(lanes)

    @partial(jax.jit, compiler_options=compiler_options(), donate_argnums=2)
    @per_lane
    def advance(stack: Task, lane, states, key):
        """Trains at every rate and evaluates: losses [rates, splits]."""
        task = stack.lane(lane)

        def step(rate, carry, key):
            params, state = carry
            batch_key, loss_key = jax.random.split(key)
            batch = task.batch("train", batch_key)
            grads = jax.grad(task.loss)(params, batch, loss_key)
            updates, state = optax.adam(rate).update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        def one_rate(rate, carry):
            keys = jax.random.split(key, _STEPS_PER_EVAL)
            carry, _ = jax.lax.scan(lambda c, k: step(rate, c, k), carry, keys)
            return carry, jnp.stack(
                [_mean_loss(task, carry[0], s, key) for s in SPLITS]
            )

        return jax.vmap(one_rate)(rates, states)

    @partial(jax.jit, compiler_options=compiler_options())
    def initial_loss(stack: Task):
        def one(lane):
            task = stack.lane(lane)
            keys = jax.random.split(jax.random.key(1), _NUM_INITS)
            at = lambda key: _mean_loss(task, task.init(key), "train", key)
            return jnp.mean(jax.lax.map(at, keys))

        return jax.vmap(one)(lanes)

    initial = np.asarray(initial_loss(stack))
    states = start(stack)
    best, steps = np.full(stack.num_lanes, np.inf), 0
    begun = None
    while steps < num_steps:
        keys = jax.random.fold_in(key, steps)
        states, losses = advance(stack, lanes, states, keys)
        best = np.fmin(best, np.nanmin(np.asarray(losses), axis=(1, 2)))
        steps += _STEPS_PER_EVAL
        begun = begun or time.process_time()  # after compiling
        if time.process_time() - begun > seconds:
            break
    return initial, best, steps


def _mean_loss(task: Task, params, split, key):
    """The mean over `_EVAL_BATCHES` batches, one after the other."""

    def one(key):
        batch_key, loss_key = jax.random.split(key)
        return task.loss(params, task.batch(split, batch_key), loss_key)

    return jnp.mean(jax.lax.map(one, jax.random.split(key, _EVAL_BATCHES)))


if __name__ == "__main__":
    tyro.cli(Measure)()
