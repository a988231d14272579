"""Stochastic gradient descent (Robbins & Monro 1951) with a meta-learnable rate.

    p' = p - lr g

``theta`` is the logarithm of ``lr``: every real number is a valid optimizer.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt import checks
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals


class SgdTheta(NamedTuple):
    log_learning_rate: Float[Array, ""]


class SgdState(NamedTuple):
    step: Int[Array, ""]
    slots: tuple[()] = ()


@dataclasses.dataclass(frozen=True)
class Sgd(Rule):
    """Gradient descent; 1 meta-parameter. ``init`` gives the number named here.

    Attributes:
      learning_rate: > 0.
    """

    learning_rate: float = 1e-2

    def __post_init__(self) -> None:
        checks.require_numbers(self, learning_rate="(0, inf)")

    def init(self, key: PRNGKeyArray) -> SgdTheta:
        del key  # nothing is random
        return SgdTheta(jnp.log(jnp.float32(self.learning_rate)))

    def start(self, theta: SgdTheta, params: Field, layout: Layout) -> SgdState:
        del theta, params, layout
        return SgdState(jnp.zeros((), jnp.int32))

    def advance(
        self,
        theta: SgdTheta,
        state: SgdState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, SgdState]:
        del params, signals
        lr = jnp.exp(theta.log_learning_rate)
        return layout.map(lambda g: -lr * g, grads), SgdState(state.step + 1)
