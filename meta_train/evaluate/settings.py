"""How runs are trained and measured."""

import dataclasses
from typing import Any

Device = Any  # a jax.Device, which type checkers take for a variable


@dataclasses.dataclass(frozen=True)
class Settings:
    """All of it decides what comes out of a run, so all of it is in a result's key."""

    num_evals: int = 25
    """Measurements after the one at step 0, evenly spaced."""
    eval_batches: int = 5
    """Batches per split and measurement; Metz et al. 2020 take 5."""
    valid_every: int = 10
    """Steps between validation losses that the optimizer is shown, as in meta-training."""
    seed: int = 0
    """Of all randomness."""
