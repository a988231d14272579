"""What a training step takes: one run at a time, on one device, with nothing beside it.

The runs of a comparison go side by side, now many and now few, on machines that do other
things too, so how long they took says little about what one of them costs.
"""

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import tasksets
from meta_train.devices import compiler_options
from meta_train.evaluate.comparison import Comparison, Entry
from meta_train.evaluate.contenders import Contender, Kind
from meta_train.evaluate.settings import Settings
from meta_train.evaluate.starts import Start, Step, draw_starts
from meta_train.evaluate.training import step_of
from tasksets import Task
from tasksets.stacking import structure

_STEPS = 50  # in one program
_REPETITIONS = 5


def timed(
    comparison: Comparison,
    contenders: Sequence[Contender],
    *,
    on_timed: Callable[[int, int], None] = lambda done, total: None,
) -> Comparison:
    """A comparison with the time that a step of some of its contenders takes.

    Args:
      comparison: what was found.
      contenders: whose steps to time; all points of one take the same.
      on_timed: told how many tasks are done, and of how many.
    """
    stopwatch, seconds = _Stopwatch(Settings()), []
    for done, entry in enumerate(comparison.entries):
        on_timed(done, len(comparison.entries))
        seconds.append(stopwatch.seconds(entry, contenders))
    by_name = dict(zip((c.name for c in contenders), np.array(seconds).T, strict=True))
    results = [
        dataclasses.replace(result, seconds=by_name.get(name))
        for name, result in zip(comparison.names, comparison.results, strict=True)
    ]
    return dataclasses.replace(comparison, results=tuple(results))


class _Stopwatch:
    """Keeps what it compiled for the tasks of one structure that follow each other."""

    def __init__(self, settings: Settings):
        self._settings = settings
        self._programs: dict[str, Any] = {}
        self._structure: Any = None

    def seconds(self, entry: Entry, contenders: Sequence[Contender]) -> list[float]:
        """Of a step of each contender on one task."""
        if structure(entry.task) != self._structure:
            self._structure = structure(entry.task)
            self._programs.clear()
        device = jax.local_devices()[0]
        stack = jax.device_put(tasksets.stack([entry.task]), device)
        starts = draw_starts(stack, [(0, 0)], _STEPS, self._settings, device)
        found: dict[str, float] = {}
        for contender in contenders:
            point = contender.points[0]
            identity = point.kind.identity
            if identity not in found:
                numbers = jax.device_put(point.numbers, device)
                found[identity] = self._measure(
                    point.kind, entry.num_steps, (stack, starts, numbers)
                )
        return [found[contender.points[0].kind.identity] for contender in contenders]

    def _measure(self, kind: Kind, num_steps: int, arguments: tuple[Any, ...]) -> float:
        key = f"{kind.identity} for {num_steps} steps"
        if key not in self._programs:
            run = jax.jit(
                self._program(kind, num_steps), compiler_options=compiler_options()
            )
            self._programs[key] = run.lower(*arguments).compile()
        run, times = self._programs[key], []
        for _ in range(_REPETITIONS):
            started = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            times.append(time.perf_counter() - started)
        return min(times) / _STEPS  # what else the machine did only ever adds

    def _program(self, kind: Kind, num_steps: int) -> Callable[..., Any]:
        def program(stack: Task, starts: Start, numbers: Any) -> Any:
            tx = optax.with_extra_args_support(kind.make(numbers, num_steps))
            drawn = jax.tree.map(lambda x: x[0], starts.steps)
            step = step_of(stack.lane(0), tx, self._settings)

            def body(carry: Any, x: tuple[Array, Step]) -> tuple[Any, None]:
                return step(carry, *x), None

            params = jax.tree.map(lambda x: x[0], starts.params)
            carry = params, tx.init(params)
            return jax.lax.scan(body, carry, (jnp.arange(_STEPS), drawn))[0]

        return program
