"""What all runs of one task and seed share: the first parameters and every batch.

Drawn once for all optimizers, so that each of them really starts from the same parameters
and meets the same batches in the same order. All measurements of a run use the same
batches too: a curve has no sampling noise from one measurement to the next.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from meta_train.devices import compiler_options
from meta_train.evaluate.settings import Device, Settings
from tasksets import Task
from tasksets.task import SPLITS, SplitName


class Step(NamedTuple):
    """The chance in one training step."""

    train: Any  # which examples
    inner_valid: Any
    loss_key: Array
    valid_key: Array


class Start(NamedTuple):
    """Where a run starts, and all the chance in it, ``[starts, ...]`` when stacked."""

    params: Any
    steps: Step  # [num_steps, ...]
    measured: Any  # which examples, [eval_batches, splits, ...]
    measured_keys: Array  # [eval_batches, splits]


def draw_starts(
    stack: Task,
    pairs: Sequence[tuple[int, int]],
    num_steps: int,
    settings: Settings,
    device: Device,
) -> Start:
    """The starts of (index of a task in the stack, seed) pairs, in their order."""
    root = jax.random.key(settings.seed)
    tasks = jnp.array([task for task, _ in pairs])
    seeds = jnp.array([seed for _, seed in pairs])

    def draw_all(stack: Task, tasks: Int[Array, "starts"], seeds: Int[Array, "starts"]):
        def one(task: Int[Array, ""], seed: Int[Array, ""]) -> Start:
            key = jax.random.fold_in(root, seed)
            return _draw(stack.lane(task), num_steps, settings, key)

        return jax.vmap(one)(tasks, seeds)

    arguments = jax.device_put((tasks, seeds), device)
    drawn = jax.jit(draw_all, compiler_options=compiler_options())
    return drawn(stack, *arguments)


def _draw(task: Task, num_steps: int, settings: Settings, key: Array) -> Start:
    init_key, train_key, eval_key = jax.random.split(key, 3)

    def step(key: Array) -> Step:
        keys = jax.random.split(key, 4)
        train, valid = task.draw("train", keys[0]), task.draw("inner_valid", keys[1])
        return Step(train, valid, keys[2], keys[3])

    def measurement(key: Array) -> tuple[Any, Array]:
        batch_key, loss_key = jax.random.split(key)

        def of_split(number: int, split: SplitName) -> tuple[Any, Array]:
            keys = (batch_key, loss_key)
            if task.one_split:  # chance must tell them apart
                keys = [jax.random.fold_in(key, number) for key in keys]
            return task.draw(split, keys[0]), keys[1]

        each = [of_split(number, split) for number, split in enumerate(SPLITS)]
        return jax.tree.map(lambda *xs: jnp.stack(xs), *each)

    return Start(
        task.init(init_key),
        jax.vmap(step)(jax.random.split(train_key, num_steps)),
        *jax.vmap(measurement)(jax.random.split(eval_key, settings.eval_batches)),
    )
