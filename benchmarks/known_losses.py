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
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro

import tasksets
from meta_train.devices import compiler_options
from tasksets import known_losses
from tasksets.task import SPLITS, Task

LEARNING_RATES = tuple(float(x) for x in np.geomspace(1e-4, 0.3, 8))
_NUM_INITS = 8
_EVAL_BATCHES = 10
_STEPS_PER_EVAL = 50
_TABLE = Path(tasksets.__file__).with_name("known_losses.csv")


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
    shard: str = "0/1"
    """i/n: every n-th task, from the i-th."""

    def __call__(self) -> None:
        index, count = map(int, self.shard.split("/"))
        deadline = time.monotonic() + self.time_budget
        names = tasksets.names(self.suite)[index::count]
        measured = 0
        for name in names:
            if time.monotonic() > deadline:
                break
            if known_losses.source(name) == "measured":
                continue
            try:
                task = tasksets.get(name)
            except tasksets.DataNotFoundError:
                continue
            initial, best, steps = measure(task, self.num_steps, self.seconds_per_task)
            if not (np.isfinite(initial) and best < initial):
                print(f"{name}: initial {initial}, best {best}: left out", flush=True)
                continue
            with _TABLE.open("a", newline="") as file:
                csv.writer(file).writerow([task.name, f"{initial:.7g}", f"{best:.7g}"])
            measured += 1
            print(f"{name}: {initial:.5g} -> {best:.5g} in {steps} steps", flush=True)
        print(f"measured {measured} tasks", file=sys.stderr)


def measure(task: Task, num_steps: int, seconds: float) -> tuple[float, float, int]:
    """(initial loss, best loss, steps taken) of a task."""
    rates = jnp.array(LEARNING_RATES)
    key = jax.random.key(0)

    @partial(jax.jit, compiler_options=compiler_options())
    def start(task: Task):
        params = task.init(key)
        return jax.vmap(lambda rate: (params, optax.adam(rate).init(params)))(rates)

    @partial(jax.jit, compiler_options=compiler_options())
    def advance(task: Task, states, key):
        """Trains at every rate and evaluates: losses [rates, splits]."""

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
    def initial_loss(task: Task):
        keys = jax.random.split(jax.random.key(1), _NUM_INITS)
        at = lambda key: _mean_loss(task, task.init(key), "train", key)
        return jnp.mean(jax.lax.map(at, keys))

    initial = float(initial_loss(task))
    states = start(task)
    best, steps = np.inf, 0
    begun = None
    while steps < num_steps:
        states, losses = advance(task, states, jax.random.fold_in(key, steps))
        best = min(best, float(jnp.nanmin(losses)))
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
