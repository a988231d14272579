"""Heavy-ball momentum (Polyak 1964) with meta-learnable numbers.

    m' = g + b m,   p' = p - lr m'

``theta`` holds the logarithms of ``lr`` and ``1 - b``, so that equal steps are equal
factors of the rate and of the memory's length; ``1 - b`` stops at 1, no memory.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt import checks, moments
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals


class MomentumTheta(NamedTuple):
    """Meta-parameters: natural logarithms, scalars."""

    log_learning_rate: Float[Array, ""]
    log_one_minus_decay: Float[Array, ""]


class MomentumSlots(NamedTuple):
    m: Field  # decaying sum of gradients


class MomentumState(NamedTuple):
    step: Int[Array, ""]
    slots: MomentumSlots


@dataclasses.dataclass(frozen=True)
class Momentum(Rule):
    """Heavy ball; 2 meta-parameters. ``init`` gives the numbers named here.

    Attributes:
      learning_rate: > 0.
      decay: of the sum of gradients, in [0, 1).
    """

    learning_rate: float = 1e-2
    decay: float = 0.9

    def __post_init__(self) -> None:
        checks.require_numbers(self, learning_rate="(0, inf)", decay="[0, 1)")

    def init(self, key: PRNGKeyArray) -> MomentumTheta:
        del key  # nothing is random
        numbers = (self.learning_rate, 1 - self.decay)
        return MomentumTheta(*(jnp.log(jnp.float32(x)) for x in numbers))

    def start(
        self, theta: MomentumTheta, params: Field, layout: Layout
    ) -> MomentumState:
        del theta
        slots = MomentumSlots(moments.zeros(params, layout))
        return MomentumState(jnp.zeros((), jnp.int32), slots)

    def advance(
        self,
        theta: MomentumTheta,
        state: MomentumState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, MomentumState]:
        del params, signals
        lr = jnp.exp(theta.log_learning_rate)
        decay = 1.0 - moments.rate(theta.log_one_minus_decay)

        def update(g: Array, m: Array) -> tuple[Array, MomentumSlots]:
            m = g + decay * m
            return -lr * m, MomentumSlots(m)

        steps, slots = layout.map(update, grads, *state.slots)
        return steps, MomentumState(state.step + 1, slots)
