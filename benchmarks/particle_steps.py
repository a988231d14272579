"""Particle-steps per second of the evolution strategies, and how they grow with N.

    python -m benchmarks particle_steps

One particle-step is one inner step of one particle. The system is the training of an
MLP 64-32-10 on digits, batch 64, with the rule `ScaleFree`; a window has 20 steps; one
estimate is one compiled call. Medians of `_REPEATS` calls, range in brackets.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import tasksets
from learned_opt import ScaleFree
from meta_train import NRES, PES, FullES, InnerTraining, TruncatedES, Truncation
from meta_train.devices import compiler_options, lane_mesh, use_all_cores

PAIRS = (1, 4, 16, 64, 256)
_WINDOW, _HORIZON = 20, 200
_REPEATS = 9


def main() -> None:
    """Print the table."""
    use_all_cores()
    task = tasksets.get("small_mlp/seed0@digits?hidden=32&batch_size=64")
    optimizer = ScaleFree()
    system = InnerTraining(task, optimizer)
    theta = optimizer.init(jax.random.key(0))
    table = Table("estimator", *(f"N = {2 * pairs}" for pairs in PAIRS))
    table.title = f"particle-steps per second, {len(jax.devices())} devices"
    for kind in (PES, NRES, TruncatedES, FullES):
        rates = [_rate(_make(kind, system, pairs), theta, pairs) for pairs in PAIRS]
        table.add_row(kind.__name__, *rates)
    Console(width=160).print(table)


def _make(kind: Callable[..., Any], system: InnerTraining, pairs: int) -> Any:
    truncation = Truncation.constant(_HORIZON, _WINDOW, stagger=False)
    mesh = lane_mesh() if pairs % len(jax.devices()) == 0 else None
    return kind(system, truncation, pairs, 0.01, mesh=mesh)


def _rate(estimator: Any, theta: Any, pairs: int) -> str:
    estimate = jax.jit(
        lambda estimator, theta, state, key: estimator.estimate(theta, state, key),
        donate_argnums=2,
        compiler_options=compiler_options(),
    )
    state = estimator.init(theta, jax.random.key(0))
    # Truncated ES runs a third particle, which moves the shared state.
    particles = 3 if isinstance(estimator, TruncatedES) else 2
    steps = _HORIZON if estimator.whole_episodes else _WINDOW
    rates = []
    for repeat in range(_REPEATS + 2):
        begun = time.perf_counter()
        found, state = estimate(estimator, theta, state, jax.random.key(repeat))
        jax.block_until_ready((found, state))
        rates.append(pairs * particles * steps / (time.perf_counter() - begun))
    rates = rates[2:]  # after compiling
    return f"{np.median(rates):,.0f} ({min(rates):,.0f}-{max(rates):,.0f})"


if __name__ == "__main__":
    main()
