"""Adam (Kingma & Ba 2015, arXiv 1412.6980) with meta-learnable numbers.

    m' = b1 m + (1 - b1) g,   v' = b2 v + (1 - b2) g^2
    p' = p - lr  m'/(1 - b1^t) / (sqrt(v'/(1 - b2^t)) + eps)

``theta`` holds the logarithms of ``lr``, ``1 - b1``, ``1 - b2`` and ``eps``, so that
every real vector is a valid optimizer and equal steps are equal factors.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt import checks, moments
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals


class AdamTheta(NamedTuple):
    """Meta-parameters: natural logarithms, scalars."""

    log_learning_rate: Float[Array, ""]
    log_one_minus_b1: Float[Array, ""]
    log_one_minus_b2: Float[Array, ""]
    log_eps: Float[Array, ""]


class AdamSlots(NamedTuple):
    m: Field  # mean of gradients
    v: Field  # mean of squared gradients


class AdamState(NamedTuple):
    step: Int[Array, ""]
    slots: AdamSlots


@dataclasses.dataclass(frozen=True)
class Adam(Rule):
    """Adam; 4 meta-parameters. ``init`` gives the numbers named here.

    Attributes:
      learning_rate: > 0.
      b1: decay of the gradient's mean, in [0, 1).
      b2: decay of the squared gradient's mean, in [0, 1).
      eps: > 0, added to the denominator.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self) -> None:
        checks.require_numbers(self, **checks.ADAM)

    def init(self, key: PRNGKeyArray) -> AdamTheta:
        del key  # nothing is random
        numbers = (self.learning_rate, 1 - self.b1, 1 - self.b2, self.eps)
        return AdamTheta(*(jnp.log(jnp.float32(x)) for x in numbers))

    def start(self, theta: AdamTheta, params: Field, layout: Layout) -> AdamState:
        del theta
        zeros = moments.zeros(params, layout)
        return AdamState(jnp.zeros((), jnp.int32), AdamSlots(zeros, zeros))

    def advance(
        self,
        theta: AdamTheta,
        state: AdamState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, AdamState]:
        del params, signals
        lr, eps = jnp.exp(theta.log_learning_rate), jnp.exp(theta.log_eps)
        rate1 = moments.rate(theta.log_one_minus_b1)
        rate2 = moments.rate(theta.log_one_minus_b2)
        step = state.step + 1
        m_scale, v_scale = moments.debias(step, rate1), moments.debias(step, rate2)

        def update(g: Array, m: Array, v: Array) -> tuple[Array, AdamSlots]:
            m, v = moments.toward(m, g, rate1), moments.toward(v, g * g, rate2)
            return -lr * m_scale * m / (moments.root(v_scale * v) + eps), AdamSlots(
                m, v
            )

        steps, slots = layout.map(update, grads, *state.slots)
        return steps, AdamState(step, slots)
