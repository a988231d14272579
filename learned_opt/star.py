"""STAR: a learned term on top of a nominal optimizer (Harrison et al. 2022, 2209.11208).

The network and features of `adafactor_mlp`, 39-4-4-3, answer with a direction ``d`` and
two magnitudes. The nominal term is Adam with the mean of three momenta (AggMo, Lucas et
al. 2019, 1804.00325), and what the network adds is divided by the same root:

    nominal = (m_.9 + m_.99 + m_.999) / 3 / sqrt(v_.999 + 1e-6)
    step = - nominal_step exp(.001 m_g) nominal
           - step_size exp(.001 m_b) d / sqrt(v_.999 + 1e-6)

202 meta-parameters: 195 weights and seven decays. With ``theta = 0`` this is the nominal
optimizer, whose stability the paper derives for a noisy quadratic. Its third ingredient,
a heavy weight decay on ``theta``, pulls the rule towards that point; it belongs to the
outer optimizer (``optax.adamw``), not to this file.

The constants are those of google/learned_optimization (``adafac_nominal.py``), where
each part of this rule is an option: the nominal term's magnitude comes from the network
there only if asked for, and a fourth output, here left out, could scale a decay of the
parameters. As there, averages are not debiased: the ratio of ``m`` to ``sqrt(v)`` is of
order one from the first step.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from learned_opt import (
    adafactor_features,
    checks,
    network,
    normalized_network,
    time_features,
)
from learned_opt.adafactor_features import NUM_FEATURES, AdafactorState
from learned_opt.adafactor_mlp import AdafactorDecays
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals

_WIDTHS = (NUM_FEATURES + time_features.NUM_FEATURES, 4, 4, 3)


class StarTheta(NamedTuple):
    """202 meta-parameters."""

    layers: tuple[network.Dense, ...]  # 39-4-4-3
    decays: AdafactorDecays


@dataclasses.dataclass(frozen=True)
class Star(Rule):
    """STAR; 202 meta-parameters.

    Needs neither a loss nor ``num_steps``. State: 4 numbers per parameter, and 3 for
    each row and column (`factored`: every entry of a vector is both).

    Attributes:
      nominal_step: learning rate of the nominal optimizer, >= 0.
      step_size: factor of the learned term, >= 0.
    """

    numbers_held: ClassVar[int] = 32

    nominal_step: float = 1e-3
    step_size: float = 1e-3

    def __post_init__(self) -> None:
        checks.require_numbers(self, nominal_step="[0, inf)", step_size="[0, inf)")

    def init(self, key: PRNGKeyArray) -> StarTheta:
        return StarTheta(network.mlp(key, _WIDTHS), AdafactorDecays.init())

    def start(self, theta: StarTheta, params: Field, layout: Layout) -> AdafactorState:
        del theta
        return adafactor_features.start(params, layout)

    def advance(
        self,
        theta: StarTheta,
        state: AdafactorState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, AdafactorState]:
        del signals
        slots, factored = adafactor_features.accumulate(
            state.slots, state.factored, grads, theta.decays.rates(), layout
        )
        layers = time_features.into_bias(
            theta.layers, time_features.bounded(state.step)
        )

        def step(outputs: list[Array], v: Array, *m: Array) -> Array:
            d, m_b, m_g = outputs
            nominal = self.nominal_step * jnp.exp(0.001 * m_g) * sum(m) / 3
            learned = self.step_size * jnp.exp(0.001 * m_b) * d
            return -(nominal + learned) * jax.lax.rsqrt(v + 1e-6)

        features = adafactor_features.features(grads, params, slots, factored, layout)
        steps = normalized_network.shared(
            layers, features, layout, step, slots.v, *slots.m
        )
        return steps, AdafactorState(state.step + 1, slots, factored)
