"""NAdamW with a schedule: the family that TaskSet tunes (Metz et al. 2020, 2002.11887).

    g  = gradient + l2 p
    m' = b1 m + (1 - b1) g,   v' = b2 v + (1 - b2) g^2
    n  = b1 m'/(1 - b1^(t+1)) + (1 - b1) g/(1 - b1^t)     (Nesterov; else m'/(1 - b1^t))
    p' = p - lr_t (n / (sqrt(v'/(1 - b2^t)) + eps) + weight_decay p)

Adam (Kingma & Ba 2015, 1412.6980) with Nesterov's momentum (Dozat 2016) and decoupled
weight decay (Loshchilov & Hutter 2019, 1711.05101). The learning rate is ``lr`` times
the *smaller* of a linear warm-up and a curve that is 1, then half a cosine down to
``min_lr_mult``; all lengths are fractions of ``num_steps``.

Released implementations of this family disagree in three places. Here ``l2`` pulls
weights towards zero (one of them adds it with the wrong sign), ``nesterov`` is honoured
(one forgets it), and warm-up wins over the constant part (one takes the larger of both,
which skips the warm-up). Bias corrections are optax's.

``theta`` holds logarithms of rates and logits of fractions, so that every real vector
is a valid optimizer. A decay of 0 becomes 1e-10, and fractions stay 1e-6 from 0 and 1. An
``l2`` of 0 becomes 1e-30: of a parameter without gradient it is all that Adam sees, and
of 1e-10 Adam would make a step of usual size.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt import checks, moments
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals, require_num_steps


class ScheduleTheta(NamedTuple):
    """Meta-parameters of the schedule: logits, scalars."""

    logit_warmup_fraction: Float[Array, ""]
    logit_constant_fraction: Float[Array, ""]
    logit_min_lr_mult: Float[Array, ""]


class NAdamWTheta(NamedTuple):
    """Meta-parameters: natural logarithms, scalars."""

    log_learning_rate: Float[Array, ""]
    log_one_minus_b1: Float[Array, ""]
    log_one_minus_b2: Float[Array, ""]
    log_eps: Float[Array, ""]
    log_weight_decay: Float[Array, ""]
    log_l2: Float[Array, ""]
    schedule: ScheduleTheta | None  # None: a constant learning rate


class NAdamWSlots(NamedTuple):
    m: Field  # mean of gradients
    v: Field  # mean of squared gradients


class NAdamWState(NamedTuple):
    step: Int[Array, ""]
    slots: NAdamWSlots


@dataclasses.dataclass(frozen=True)
class NAdamW(Rule):
    """NAdamW; 6 meta-parameters, 9 with a schedule. ``init`` gives the numbers here.

    Needs ``num_steps`` if the learning rate is not constant, which it is without
    warm-up and with ``constant_fraction=1``.

    Attributes:
      learning_rate: > 0.
      b1: decay of the gradient's mean, in [0, 1).
      b2: decay of the squared gradient's mean, in [0, 1).
      eps: > 0, added to the denominator.
      weight_decay: decoupled, scaled by the learning rate, >= 0.
      l2: weight of the penalty ``l2/2 p^2`` on the loss, >= 0.
      nesterov: whether the momentum looks one step ahead.
      warmup_fraction: of the run, in [0, 1).
      constant_fraction: of the run until the cosine starts, in [0, 1].
      min_lr_mult: where the cosine ends, in [0, 1].
    """

    learning_rate: float = 1e-3
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    l2: float = 0.0
    nesterov: bool = True
    warmup_fraction: float = 0.0
    constant_fraction: float = 1.0
    min_lr_mult: float = 0.0

    def __post_init__(self) -> None:
        checks.require_numbers(
            self,
            **checks.ADAM,
            weight_decay="[0, inf)",
            l2="[0, inf)",
            warmup_fraction="[0, 1)",
            constant_fraction="[0, 1]",
            min_lr_mult="[0, 1]",
        )

    def init(self, key: PRNGKeyArray) -> NAdamWTheta:
        del key  # nothing is random
        rates = (self.learning_rate, 1 - self.b1, 1 - self.b2, self.eps)
        logs = [jnp.log(jnp.float32(x)) for x in rates]
        may_be_zero = ((self.weight_decay, 1e-10), (self.l2, 1e-30))
        logs += [
            jnp.log(jnp.maximum(jnp.float32(x), least)) for x, least in may_be_zero
        ]
        if self.warmup_fraction == 0 and self.constant_fraction == 1:
            return NAdamWTheta(*logs, schedule=None)
        fractions = (self.warmup_fraction, self.constant_fraction, self.min_lr_mult)
        logits = [_logit(jnp.float32(x)) for x in fractions]
        return NAdamWTheta(*logs, schedule=ScheduleTheta(*logits))

    def start(self, theta: NAdamWTheta, params: Field, layout: Layout) -> NAdamWState:
        del theta
        zeros = moments.zeros(params, layout)
        return NAdamWState(jnp.zeros((), jnp.int32), NAdamWSlots(zeros, zeros))

    def advance(
        self,
        theta: NAdamWTheta,
        state: NAdamWState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, NAdamWState]:
        lr, eps = jnp.exp(theta.log_learning_rate), jnp.exp(theta.log_eps)
        rate1 = moments.rate(theta.log_one_minus_b1)
        rate2 = moments.rate(theta.log_one_minus_b2)
        weight_decay, l2 = jnp.exp(theta.log_weight_decay), jnp.exp(theta.log_l2)
        step = state.step + 1
        if theta.schedule is not None:
            num_steps = require_num_steps(self, signals)
            lr = lr * _multiplier(theta.schedule, step, num_steps)

        ahead = step + 1 if self.nesterov else step
        m_scale = moments.debias(ahead, rate1)
        g_scale = moments.debias(step, rate1)
        v_scale = moments.debias(step, rate2)

        def update(g: Array, p: Array, m: Array, v: Array) -> tuple[Array, NAdamWSlots]:
            g = g + l2 * p
            m, v = moments.toward(m, g, rate1), moments.toward(v, g * g, rate2)
            n = m_scale * m
            if self.nesterov:
                n = (1.0 - rate1) * n + rate1 * g_scale * g
            direction = n / (moments.root(v_scale * v) + eps) + weight_decay * p
            return -lr * direction, NAdamWSlots(m, v)

        steps, slots = layout.map(update, grads, params, *state.slots)
        return steps, NAdamWState(step, slots)


def _multiplier(
    schedule: ScheduleTheta, step: Int[Array, ""], num_steps: Float[Array, ""]
) -> Float[Array, ""]:
    """The learning rate of update number ``step`` (from 1), relative to its peak."""
    warmup, constant, floor = (jax.nn.sigmoid(logit) for logit in schedule)
    step = step.astype(jnp.float32)
    ramp = step / (warmup * num_steps)
    decayed = jnp.clip(((step - 1) / num_steps - constant) / (1 - constant), 0.0, 1.0)
    curve = floor + (1 - floor) * 0.5 * (1 + jnp.cos(jnp.pi * decayed))
    return jnp.minimum(ramp, curve)


def _logit(fraction: Array) -> Float[Array, ""]:
    fraction = jnp.clip(fraction, 1e-6, 1 - 1e-6)
    return jnp.log(fraction) - jnp.log1p(-fraction)
