"""What keeps one bad estimate, or a collapse, from ruining a run.

*Outliers.* With ``u`` the usual size of the meta-gradient (a running geometric mean), an
update whose gradient has a norm above ``max_gradient_ratio * u`` is skipped. A skipped norm
still moves ``u``, by a bounded step, so gradients that stay large become usual.

*Collapse.* With ``l`` a running mean of the outer loss and ``b`` its lowest value so far,
theta is rolled back when ``l > b + rollback``: theta, its average and the outer optimizer's
state become what they were when ``l`` was ``b``, and all lanes begin new episodes, since
those in progress lived under the theta that collapsed. Then ``l`` and ``b`` start afresh:
if losses are as high with the old theta it was the tasks that became harder, and that
is the new usual. Losses are in units of a task's initial loss and capped, so 0.5 is a lot.

Both are functions of the state alone, part of the compiled update, and repeat exactly.
"""

import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from meta_train.system import choose

_NORM_RATE, _NORM_STEPS = 0.05, 10  # of the running mean; steps before it is trusted
_LOSS_RATE, _LOSS_STEPS = 0.02, 50


@dataclasses.dataclass(frozen=True)
class Safety:
    """When an update is skipped, and when theta is rolled back."""

    max_gradient_ratio: float = 1000.0
    """Updates whose gradient is so many times the usual are skipped; inf: none."""
    rollback: float = 0.5
    """Theta is rolled back when the loss is so far above its lowest; inf: never."""

    def __post_init__(self) -> None:
        if not self.max_gradient_ratio > 1:
            raise ValueError(f"max_gradient_ratio > 1, got {self.max_gradient_ratio}.")
        if not self.rollback > 0:
            raise ValueError(f"rollback must be positive, got {self.rollback}.")


class SafetyState(NamedTuple):
    """What is remembered to judge an update by.

    Attributes:
      norms: gradients seen.
      log_norm: running mean of the logarithm of their norms.
      losses: losses seen since the start or the last roll-back.
      loss: their running mean.
      best_loss: its lowest value.
      best: what to go back to, from when ``loss`` was ``best_loss``.
      rollbacks: how often theta was rolled back.
      restart: whether it was just now, so that lanes must begin new episodes.
    """

    norms: Int[Array, ""]
    log_norm: Float[Array, ""]
    losses: Int[Array, ""]
    loss: Float[Array, ""]
    best_loss: Float[Array, ""]
    best: Any
    rollbacks: Int[Array, ""]
    restart: Bool[Array, ""]


def start(current: Any) -> SafetyState:
    """Before the first step; ``current`` is what would be rolled back."""
    zero, none = jnp.zeros((), jnp.int32), jnp.zeros(())
    return SafetyState(
        norms=zero,
        log_norm=none,
        losses=zero,
        loss=none,
        best_loss=jnp.full((), jnp.inf, jnp.float32),
        best=current,
        rollbacks=zero,
        restart=jnp.zeros((), jnp.bool),
    )


def judge(
    safety: Safety, state: SafetyState, norm: Float[Array, ""]
) -> tuple[Bool[Array, ""], SafetyState]:
    """Whether a gradient of this norm may be applied, and what was learned from it."""
    surprise = jnp.log(norm) - state.log_norm
    trusted = state.norms >= _NORM_STEPS
    usual = ~trusted | (surprise <= math.log(safety.max_gradient_ratio))
    rate = jnp.maximum(_NORM_RATE, 1 / (state.norms + 1))
    change = rate * jnp.where(trusted, jnp.clip(surprise, -1.0, 1.0), surprise)
    informative = jnp.isfinite(surprise)  # not so for a norm of 0 or infinity
    state = state._replace(
        norms=state.norms + informative,
        log_norm=state.log_norm + jnp.where(informative, change, 0.0),
    )
    return usual & jnp.isfinite(norm), state


def watch(
    safety: Safety, state: SafetyState, loss: Float[Array, ""], current: Any
) -> tuple[Any, SafetyState]:
    """What to go on with: ``current``, or the best so far after a collapse.

    Args:
      safety: the config.
      state: from the step before.
      loss: outer loss of this step; ignored where it is not finite.
      current: theta and all that belongs to it after this step.
    """
    seen = jnp.isfinite(loss)
    rate = jnp.maximum(_LOSS_RATE, 1 / (state.losses + 1))
    mean = jnp.where(seen, state.loss + rate * (loss - state.loss), state.loss)
    losses = state.losses + seen
    trusted = losses >= _LOSS_STEPS
    collapsed = trusted & (mean > state.best_loss + safety.rollback)
    is_best = trusted & (mean <= state.best_loss)
    state = SafetyState(
        norms=state.norms,
        log_norm=state.log_norm,
        losses=jnp.where(collapsed, 0, losses),
        loss=mean,
        best_loss=jnp.where(
            collapsed, jnp.inf, jnp.where(is_best, mean, state.best_loss)
        ),
        best=choose(is_best, current, state.best),
        rollbacks=state.rollbacks + collapsed,
        restart=collapsed,
    )
    return choose(collapsed, state.best, current), state
