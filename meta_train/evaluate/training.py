"""The one program that trains: runs of tasks, seeds and optimizers side by side.

params, state = start
repeat: measure all splits; num_steps / num_evals training steps
"""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from meta_train.devices import compiler_options
from meta_train.evaluate.contenders import Kind, Point, stack_numbers
from meta_train.evaluate.settings import Device, Settings
from meta_train.evaluate.starts import Start
from tasksets import Task
from tasksets.task import SPLITS


class Run(NamedTuple):
    """One training run of a group of tasks of equal structure."""

    point: Point
    task: int  # index in the group
    start: int  # index among the starts of the group


class Trained(NamedTuple):
    """What a run gave.

    Attributes:
      losses: at every measurement, by `tasksets.task.SPLITS`, ``[splits, evals]``.
      seconds: of one of its training steps, with their share of the measurements. Runs
        go side by side; this is the time of all divided by their number.
    """

    losses: Float[np.ndarray, "splits evals"]
    seconds: float


class Program:
    """Trains runs of one kind of optimizer, a fixed number at a time.

    Compiles when it is first used.

    Attributes:
      lanes: runs side by side.
    """

    def __init__(
        self,
        kind: Kind,
        lanes: int,
        num_steps: int,
        settings: Settings,
        device: Device,
    ):
        self.lanes = lanes
        self._kind, self._device = kind, device
        self._num_steps, self._settings = num_steps, settings
        self._compiled: Any = None

    def train(self, stack: Task, starts: Start, runs: Sequence[Run]) -> list[Trained]:
        """The results of at most ``lanes`` runs.

        Args:
          stack: tasks of equal structure, on the program's device, as are the starts.
          starts: of the tasks.
          runs: indices into both.
        """
        padded = [*runs, *[runs[-1]] * (self.lanes - len(runs))]
        lanes = (
            stack_numbers([run.point for run in padded]),
            jnp.array([run.task for run in padded]),
            jnp.array([run.start for run in padded]),
        )
        arguments = (stack, starts, *jax.device_put(lanes, self._device))
        if self._compiled is None:
            jitted = jax.jit(self._train_all, compiler_options=compiler_options())
            self._compiled = jitted.lower(*arguments).compile()
        started = time.perf_counter()
        losses = np.asarray(self._compiled(*arguments))
        seconds = (time.perf_counter() - started) / self._num_steps / self.lanes
        return [Trained(x, seconds) for x in losses[: len(runs)]]

    def _train_all(
        self, stack: Task, starts: Start, numbers: Any, tasks: Array, chosen: Array
    ) -> Float[Array, "lanes splits evals"]:
        def one(numbers: Any, task: Int[Array, ""], start: Int[Array, ""]):
            transform = self._kind.make(numbers, self._num_steps)
            return self._train(stack.lane(task), transform, starts, start)

        return jax.vmap(one)(numbers, tasks, chosen)

    def _train(
        self,
        task: Task,
        transform: optax.GradientTransformation,
        starts: Start,
        index: Int[Array, ""],
    ) -> Float[Array, "splits evals"]:
        """One run; losses before training and after each stretch of it."""
        tx = optax.with_extra_args_support(transform)
        valid_every, num_evals = self._settings.valid_every, self._settings.num_evals

        def step(carry: Any, number: Int[Array, ""]) -> tuple[Any, None]:
            params, state = carry
            x = jax.tree.map(lambda drawn: drawn[index, number], starts.steps)
            batch = task.take("train", x.train)
            value, grads = jax.value_and_grad(task.loss)(params, batch, x.loss_key)

            def valid_loss() -> Array:
                valid_batch = task.take("inner_valid", x.inner_valid)
                return task.loss(params, valid_batch, x.valid_key)

            # Dead code for optimizers that do not look at it, and then it costs nothing.
            shown = number % valid_every == 0
            valid_value = jax.lax.cond(shown, valid_loss, lambda: jnp.float32(jnp.nan))
            updates, state = tx.update(
                grads, state, params, value=value, valid_value=valid_value
            )
            return (optax.apply_updates(params, updates), state), None

        takes = [partial(task.take, split) for split in SPLITS]
        measured = jax.tree.map(lambda x: x[index], starts.measured)
        measured_keys = starts.measured_keys[index]

        def measure(params: Any) -> Float[Array, "splits"]:
            def batch_losses(x: tuple[Any, Array]) -> Float[Array, "splits"]:
                drawn, loss_key = x

                def loss(x: tuple[Array, Any]) -> Float[Array, ""]:
                    split, drawn = x
                    batch = jax.lax.switch(split, takes, drawn)
                    return task.loss(params, batch, loss_key)

                return jax.lax.map(loss, (jnp.arange(len(SPLITS)), drawn))

            # One after the other: little memory, and one loss to compile, not many.
            return jnp.mean(
                jax.lax.map(batch_losses, (measured, measured_keys)), axis=0
            )

        per_eval = self._num_steps // num_evals

        def stretch(carry: Any, first: Int[Array, ""]) -> tuple[Any, Array]:
            params, state = carry
            losses = measure(self._kind.measured(state, params))
            train = lambda carry: jax.lax.scan(
                step, carry, first + jnp.arange(per_eval)
            )
            # The last stretch only measures what the ones before it trained.
            carry = jax.lax.cond(
                first < self._num_steps, lambda c: train(c)[0], lambda c: c, carry
            )
            return carry, losses

        params = jax.tree.map(lambda x: x[index], starts.params)
        firsts = jnp.arange(num_evals + 1) * per_eval
        _, losses = jax.lax.scan(stretch, (params, tx.init(params)), firsts)
        return losses.T


def lanes_at_once(num_params: int, platform: str) -> int:
    """Runs to train side by side: what a core's cache holds, what fills an accelerator.

    At least four: below, the overhead of small operations outweighs the cache.
    """
    if platform == "cpu":
        return int(np.clip(2**18 // num_params, 4, 32))
    return int(np.clip(2**27 // num_params, 16, 512))
