"""A small rule whose every feature is free of scale: no learning rate to tune.

Each parameter sees twelve dimensionless numbers made of its gradient history
(`_features`) and, through the first bias, how far the run has come. A 12-8-8-2 network
answers with a correction ``d`` and a log step size ``s``:

    step = -decay(t / T) exp(s) (0.07 scale (m_.9 / sqrt(v_.999) + d) + 0.002 p)

with ``scale`` the size of the tensor the parameter belongs to and ``decay`` half a cosine
from 1 to .02. With ``d = s = 0`` this is AdamW with a relative step and a schedule, which
is already hard to beat; training learns the rest. Rescaling all weights rescales all
steps. Rescaling the loss changes nothing (a thousandth of a step at most) as long as
gradients are between 1e-6 and 1e18: 1e-16 is added to their mean squares, so gradients
of 1e-8 and less count as small, and squares of those over 1e19 are infinite. Parameters
without a gradient are not left alone: they decay, by 0.2 % a step at first, and move by
what the network answers to zeros. What is not to be trained is left out (`optax.masked`).

Two details keep it stable far beyond the horizons it was trained on. ``scale`` is
bounded by the tensor's size at initialisation, so relative steps cannot compound; and
time enters only as bounded functions of progress ``t / T``.

``scale`` is at least a tenth of the model's size (RMS) at initialisation, for tensors
that start at zero. A model of nothing else, with an RMS of at most 1e-5, has no size to
be relative to: there it is at least 0.1, which is Adam's step at a rate of 0.007.

The ingredients are known: relative step sizes (You et al. 2017, LARS, 1708.03888; Metz
et al. 2022, VeLO, 2211.09760), a nominal Adam term (Harrison et al. 2022, STAR,
2209.11208), scale-free features with weight reparametrisation in meta-training (Moudgil
et al. 2025, Celo, 2501.12670).
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt import checks, moments, network
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals, require_num_steps

_M_RATES = (0.5, 0.1, 0.01)  # momenta with decays .5, .9, .99
_V_RATES = (0.1, 0.001)  # second moments with decays .9, .999
_NUM_FEATURES = 12
_NUM_TIME = 4
_SMALLEST = 0.1  # least scale of a tensor, in units of the whole model's
_NOTHING = 1e-5  # a model whose RMS is at most this starts at zero
_OF_NOTHING = 0.1  # least scale of its tensors


class ScaleFreeTheta(NamedTuple):
    """226 meta-parameters at hidden width 8."""

    layers: tuple[network.Dense, ...]  # 12-8-8-2
    time: Float[Array, "time hidden"]  # progress features, added to the first bias


class ScaleFreeSlots(NamedTuple):
    m_fast: Field
    m_mid: Field
    m_slow: Field
    v_fast: Field
    v_slow: Field


class ScaleFreeState(NamedTuple):
    step: Int[Array, ""]
    slots: ScaleFreeSlots
    initial_rms: Float[Array, "tensors"]


@dataclasses.dataclass(frozen=True)
class ScaleFree(Rule):
    """The scale-free rule; 226 meta-parameters at the default width.

    Needs ``num_steps``; uses no loss. State: 5 numbers per parameter, 1 per tensor.

    Attributes:
      hidden: width of both hidden layers, 1 to 16 (elementwise code, see `unrolled`).
      step_size: relative step of the untrained rule, > 0.
      weight_decay: share of a parameter that an untrained step takes away, >= 0.
    """

    hidden: int = 8
    step_size: float = 0.07
    weight_decay: float = 0.002

    def __post_init__(self) -> None:
        checks.require_numbers(
            self, hidden="[1, 16]", step_size="(0, inf)", weight_decay="[0, inf)"
        )

    def init(self, key: PRNGKeyArray) -> ScaleFreeTheta:
        layer_key, time_key = jax.random.split(key)
        widths = (_NUM_FEATURES, self.hidden, self.hidden, 2)
        # A small last layer: training starts near the optimizer of ``d = s = 0``.
        layers = network.mlp(layer_key, widths, last_gain=0.03)
        time = network.dense(time_key, _NUM_TIME, self.hidden).w
        return ScaleFreeTheta(layers, time)

    def start(
        self, theta: ScaleFreeTheta, params: Field, layout: Layout
    ) -> ScaleFreeState:
        del theta
        zeros = moments.zeros(params, layout)
        return ScaleFreeState(
            step=jnp.zeros((), jnp.int32),
            slots=ScaleFreeSlots(zeros, zeros, zeros, zeros, zeros),
            initial_rms=_rms_of(params, layout),
        )

    def advance(
        self,
        theta: ScaleFreeTheta,
        state: ScaleFreeState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, ScaleFreeState]:
        num_steps = require_num_steps(self, signals)
        progress = jnp.clip(state.step.astype(jnp.float32) / num_steps, 0.0, 1.0)
        decay = 0.02 + 0.98 * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))
        step = state.step + 1
        m_scale = [moments.debias(step, rate) for rate in _M_RATES]
        v_scale = [moments.debias(step, rate) for rate in _V_RATES]

        # Apart from the other averages: the network needs its means.
        v_slow, (p_square, v_square) = layout.map_and_mean(
            _slow_average, params, grads, state=[state.slots.v_slow]
        )
        rms_p = moments.rms(p_square)
        rms_g = moments.rms(v_scale[1] * v_square, 1e-30)
        scale = jnp.minimum(rms_p, state.initial_rms)
        scale = jnp.maximum(scale, _smallest(state.initial_rms, layout))

        first, *rest = theta.layers
        time = _time_features(progress, num_steps)
        layers = (first._replace(b=first.b + time @ theta.time), *rest)

        def update(g, p, inv_rms_p, inv_rms_g, scale, v_slow, *averages):
            averages = _fast_averages(g, *averages)
            *m, v_fast = averages
            m = [c * x for c, x in zip(m_scale, m, strict=True)]
            v = [c * x for c, x in zip(v_scale, (v_fast, v_slow), strict=True)]
            x = _features(g, p, m, v, inv_rms_p, inv_rms_g)
            d, s = network.unrolled(layers, x)
            rate = decay * jnp.exp(jnp.clip(s, -6.0, 3.0))
            step = self.step_size * scale * (x[2] + d) + self.weight_decay * p
            return -rate * step, averages

        steps, averages = layout.map_network(
            update,
            grads,
            params,
            layout.spread(1.0 / rms_p),
            layout.spread(1.0 / rms_g),
            layout.spread(scale),
            v_slow,
            state=state.slots[:-1],
        )
        slots = ScaleFreeSlots._make([*averages, v_slow])
        return steps, ScaleFreeState(step, slots, state.initial_rms)


def _slow_average(p, g, v_slow) -> tuple[Array, list[Array]]:
    """The slow average of squares; and, only to be averaged, it and the squares of p."""
    v_slow = moments.toward(v_slow, g * g, _V_RATES[1])
    return v_slow, [jnp.square(p), v_slow]


def _fast_averages(g, *averages) -> list[Array]:
    """The three momenta and the fast average of squares."""
    rates = (*_M_RATES, _V_RATES[0])
    news = (g, g, g, g * g)
    steps = zip(averages, news, rates, strict=True)
    return [moments.toward(average, x, rate) for average, x, rate in steps]


def _rms_of(params: Field, layout: Layout) -> Float[Array, "tensors"]:
    return moments.rms(layout.mean(layout.map(jnp.square, params)))


def _of_model(rms: Float[Array, "tensors"], layout: Layout) -> Float[Array, ""]:
    """RMS over all parameters, from those of the tensors."""
    sizes = jnp.array(layout.sizes, jnp.float32)
    return jnp.sqrt(jnp.sum(sizes * rms**2) / jnp.maximum(jnp.sum(sizes), 1.0))


def _smallest(initial_rms: Float[Array, "tensors"], layout: Layout) -> Float[Array, ""]:
    """The least scale of any tensor."""
    model = _of_model(initial_rms, layout)
    return jnp.where(model > _NOTHING, _SMALLEST * model, _OF_NOTHING)


def _time_features(
    progress: Float[Array, ""], num_steps: Float[Array, ""]
) -> Float[Array, "time"]:
    """Progress, its two ends magnified, and the log length of the run; all bounded."""
    length = jnp.clip(jnp.log(num_steps / 400.0) / 3.0, -1.0, 1.0)
    return jnp.stack(
        [progress, jnp.exp(-10 * progress), jnp.exp(-40 * (1 - progress)), length]
    )


def _features(g, p, m, v, inv_rms_p, inv_rms_g) -> list[Array]:
    """Twelve dimensionless arrays, each within +-10."""
    m_fast, m_mid, m_slow = m
    eps = 1e-16
    inv_fast = jax.lax.rsqrt(v[0] + eps)
    inv_slow = jax.lax.rsqrt(v[1] + eps)
    raw = [
        g * inv_slow,
        m_fast * inv_slow,
        m_mid * inv_slow,
        m_slow * inv_slow,
        m_mid * inv_fast,
        m_slow * inv_fast,
        0.5 * jnp.log((v[0] + eps) / (v[1] + eps)),
        p * inv_rms_p,
        0.15 * jnp.log((v[1] + eps) * inv_rms_g**2),
        m_mid * g / (v[1] + eps),
        m_slow * m_fast / (v[1] + eps),
        g * inv_fast,
    ]
    return [jnp.clip(x, -10.0, 10.0) for x in raw]
