"""Trying a task out: does it build, initialise, and take a gradient step?

    check("mlp_family/seed7@digits")
    # Checked(name, status="ok", parameters=..., compile_seconds=..., step_seconds=...)

A step is a batch, the loss, its gradient and a small step against it, compiled as one.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tasksets.data import DataNotFoundError
from tasksets.excluded import EXCLUDED
from tasksets.registry import get, root_of
from tasksets.task import Params, Task

Status = Literal["ok", "data absent", "excluded", "failed"]

_STEP_SIZE = 1e-6


@dataclass(frozen=True)
class Checked:
    """What was found about a task; numbers are 0 unless the status is ok."""

    name: str
    status: Status
    detail: str = ""  # the missing data set, the reason, or the error
    parameters: int = 0
    loss: float = 0.0  # at the start
    compile_seconds: float = 0.0
    step_seconds: float = 0.0  # the shortest of a few steps


def check(
    name: str,
    num_steps: int = 3,
    compiler_options: Mapping[str, Any] | None = None,
) -> Checked:
    """Builds a task and takes `num_steps` gradient steps, timing the fastest.

    `compiler_options` are XLA's, as `jax.jit` takes them. Never raises for what is
    wrong with a task: that is the status `failed`.
    """
    reason = EXCLUDED.get(root_of(name))
    if reason is not None:
        return Checked(name, "excluded", reason)
    try:
        return _try_out(get(name), num_steps, dict(compiler_options or {}))
    except DataNotFoundError as error:
        return Checked(name, "data absent", error.dataset)
    except Exception as error:  # whatever a task does wrong is what is reported
        return Checked(name, "failed", f"{type(error).__name__}: {error}")


def _try_out(task: Task, num_steps: int, options: dict[str, Any]) -> Checked:
    def step(task: Task, params: Params, key: jax.Array):
        batch_key, loss_key = jax.random.split(key)
        batch = task.batch("train", batch_key)
        loss, grads = jax.value_and_grad(task.loss)(params, batch, loss_key)
        moved = jax.tree.map(lambda p, g: p - _STEP_SIZE * g, params, grads)
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(grads)]
        return moved, loss, jnp.all(jnp.stack(finite))

    key = jax.random.key(0)
    params = jax.jit(Task.init, compiler_options=options)(task, key)
    start = time.perf_counter()
    compiled = jax.jit(step).lower(task, params, key).compile(options)
    compile_seconds = time.perf_counter() - start
    _, loss, finite = jax.block_until_ready(compiled(task, params, key))
    times = []
    for i in range(num_steps):
        start = time.perf_counter()
        jax.block_until_ready(compiled(task, params, jax.random.key(i)))
        times.append(time.perf_counter() - start)
    if not jnp.isfinite(loss):
        return Checked(task.name, "failed", f"the loss at the start is {loss}")
    if not finite:
        return Checked(task.name, "failed", "the gradient at the start is not finite")
    return Checked(
        name=task.name,
        status="ok",
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        loss=float(loss),
        compile_seconds=compile_seconds,
        step_seconds=min(times),
    )
