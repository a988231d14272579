"""Adam with two penalties and two decays: TaskSet's eight-number Adam.

    g  = gradient + l1 sign(p) + 2 l2 p          (of the loss + l1 |p|_1 + l2 |p|_2^2)
    m' = b1 m + (1 - b1) g,   v' = b2 v + (1 - b2) g^2
    p' = p - lr_s m'/(1 - b1^t) / (sqrt(v'/(1 - b2^t) + 1e-10) + eps)
    lr_s = lr max(1 - linear_decay s, 0) exp(-exponential_decay s)

``s = (t - 1) / num_steps`` is the share of the run that lies behind. Metz et al. 2020,
2002.11887, appendix on the optimizer families; without the penalties it is their
six-number Adam. They state both decays per step of a run of 10,000; here they are for
the whole run, 10,000 times as large, and stretch with it.

``theta`` holds logarithms, so that every real vector is a valid optimizer. A number of
0 becomes 1e-10, which is too little to act.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt import checks, moments
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals, require_num_steps


class PenaltyTheta(NamedTuple):
    """Meta-parameters of the penalties: natural logarithms, scalars."""

    log_l1: Float[Array, ""]
    log_l2: Float[Array, ""]


class Adam8pTheta(NamedTuple):
    """Meta-parameters: natural logarithms, scalars."""

    log_learning_rate: Float[Array, ""]
    log_one_minus_b1: Float[Array, ""]
    log_one_minus_b2: Float[Array, ""]
    log_eps: Float[Array, ""]
    log_linear_decay: Float[Array, ""]
    log_exponential_decay: Float[Array, ""]
    penalties: PenaltyTheta | None  # None: no penalties


class Adam8pSlots(NamedTuple):
    m: Field  # mean of gradients
    v: Field  # mean of squared gradients


class Adam8pState(NamedTuple):
    step: Int[Array, ""]
    slots: Adam8pSlots


@dataclasses.dataclass(frozen=True)
class Adam8p(Rule):
    """TaskSet's Adam; 8 meta-parameters, 6 without penalties (``l1 = l2 = 0``).

    ``init`` gives the numbers named here. Needs ``num_steps``.

    Attributes:
      learning_rate: > 0, at the first step.
      b1: decay of the gradient's mean, in [0, 1).
      b2: decay of the squared gradient's mean, in [0, 1).
      eps: > 0, added to the denominator.
      l1: weight of the penalty ``l1 |p|_1`` on the loss, >= 0.
      l2: weight of the penalty ``l2 |p|_2^2`` on the loss, >= 0.
      linear_decay: share of the rate that a straight line takes over the run, >= 0;
        above 1 the rate reaches 0 before the end.
      exponential_decay: logarithm of the factor the rate loses over the run, >= 0.
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    l1: float = 1e-7
    l2: float = 1e-7
    linear_decay: float = 0.0
    exponential_decay: float = 0.0

    def __post_init__(self) -> None:
        checks.require_numbers(
            self,
            **checks.ADAM,
            l1="[0, inf)",
            l2="[0, inf)",
            linear_decay="[0, inf)",
            exponential_decay="[0, inf)",
        )

    def init(self, key: PRNGKeyArray) -> Adam8pTheta:
        del key  # nothing is random
        rates = (self.learning_rate, 1 - self.b1, 1 - self.b2, self.eps)
        rates += (self.linear_decay, self.exponential_decay)
        penalties = None
        if self.l1 > 0 or self.l2 > 0:
            penalties = PenaltyTheta(_log(self.l1), _log(self.l2))
        return Adam8pTheta(*(_log(x) for x in rates), penalties=penalties)

    def start(self, theta: Adam8pTheta, params: Field, layout: Layout) -> Adam8pState:
        del theta
        zeros = moments.zeros(params, layout)
        return Adam8pState(jnp.zeros((), jnp.int32), Adam8pSlots(zeros, zeros))

    def advance(
        self,
        theta: Adam8pTheta,
        state: Adam8pState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, Adam8pState]:
        done = state.step.astype(jnp.float32) / require_num_steps(self, signals)
        linear = jnp.maximum(1.0 - jnp.exp(theta.log_linear_decay) * done, 0.0)
        exponential = jnp.exp(-jnp.exp(theta.log_exponential_decay) * done)
        lr = jnp.exp(theta.log_learning_rate) * linear * exponential

        eps = jnp.exp(theta.log_eps)
        rate1 = moments.rate(theta.log_one_minus_b1)
        rate2 = moments.rate(theta.log_one_minus_b2)
        step = state.step + 1
        m_scale, v_scale = moments.debias(step, rate1), moments.debias(step, rate2)

        def update(g: Array, p: Array, m: Array, v: Array) -> tuple[Array, Adam8pSlots]:
            if theta.penalties is not None:
                l1, l2 = (jnp.exp(log) for log in theta.penalties)
                g = g + l1 * jnp.sign(p) + 2.0 * l2 * p
            m, v = moments.toward(m, g, rate1), moments.toward(v, g * g, rate2)
            direction = m_scale * m / (jnp.sqrt(v_scale * v + 1e-10) + eps)
            return -lr * direction, Adam8pSlots(m, v)

        steps, slots = layout.map(update, grads, params, *state.slots)
        return steps, Adam8pState(step, slots)


def _log(number: float) -> Float[Array, ""]:
    return jnp.log(jnp.maximum(jnp.float32(number), 1e-10))
