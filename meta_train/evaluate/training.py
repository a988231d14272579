"""The one program that trains: runs of tasks, seeds and optimizers side by side.

params, state = start
repeat: measure all splits; num_steps / num_evals training steps
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from meta_train.devices import compile_for
from meta_train.evaluate.contenders import Kind, Point, stack_numbers
from meta_train.evaluate.settings import Device, Settings
from meta_train.evaluate.starts import Start, Step
from tasksets import Task
from tasksets.task import SPLITS


class Run(NamedTuple):
    """One training run of a group of tasks of equal structure."""

    point: Point
    task: int  # index in the group
    start: int  # index among the starts of the group


# What a run gives: at every measurement the losses by `tasksets.task.SPLITS`.
Losses = Float[np.ndarray, "splits evals"]


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

    def train(self, stack: Task, starts: Start, runs: Sequence[Run]) -> list[Losses]:
        """The losses of at most ``lanes`` runs.

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
            self._compiled = compile_for(self._train_all, arguments)
        losses = np.asarray(self._compiled(*arguments))
        return list(losses[: len(runs)])

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
        train_step = step_of(task, tx, self._settings)

        def step(carry: Any, number: Int[Array, ""]) -> tuple[Any, None]:
            x = jax.tree.map(lambda drawn: drawn[index, number], starts.steps)
            return train_step(carry, number, x), None

        takes = [partial(task.take, split) for split in SPLITS]
        measured = jax.tree.map(lambda x: x[index], starts.measured)
        measured_keys = starts.measured_keys[index]

        def measure(params: Any) -> Float[Array, "splits"]:
            def batch_losses(x: tuple[Any, Array]) -> Float[Array, "splits"]:
                def loss(x: tuple[Array, Any, Array]) -> Float[Array, ""]:
                    split, drawn, loss_key = x
                    batch = jax.lax.switch(split, takes, drawn)
                    return task.loss(params, batch, loss_key)

                return jax.lax.map(loss, (jnp.arange(len(SPLITS)), *x))

            # One after the other: little memory, and one loss to compile, not many.
            return jnp.mean(
                jax.lax.map(batch_losses, (measured, measured_keys)), axis=0
            )

        num_evals = self._settings.num_evals
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


def step_of(
    task: Task, tx: optax.GradientTransformationExtraArgs, settings: Settings
) -> Callable[[Any, Int[Array, ""], Step], Any]:
    """One training step: from (params, state), its number and its chance to the next."""

    def step(carry: Any, number: Int[Array, ""], x: Step) -> Any:
        params, state = carry
        batch = task.take("train", x.train)
        value, grads = jax.value_and_grad(task.loss)(params, batch, x.loss_key)

        def valid_loss() -> Array:
            valid_batch = task.take("inner_valid", x.inner_valid)
            return task.loss(params, valid_batch, x.valid_key)

        # Dead code for optimizers that do not look at it, and then it costs nothing.
        shown = number % settings.valid_every == 0
        valid_value = jax.lax.cond(shown, valid_loss, lambda: jnp.float32(jnp.nan))
        updates, state = tx.update(
            grads, state, params, value=value, valid_value=valid_value
        )
        return optax.apply_updates(params, updates), state

    return step


def lanes_at_once(num_params: int, platform: str) -> int:
    """Runs to train side by side: what a core's cache holds, what fills an accelerator.

    At least four: below, the overhead of small operations outweighs the cache.
    """
    if platform == "cpu":
        return int(np.clip(2**18 // num_params, 4, 32))
    return int(np.clip(2**27 // num_params, 16, 512))
