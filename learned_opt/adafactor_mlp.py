"""The small per-parameter network with Adafactor features ("small_fc_lopt").

It is the baseline that Metz et al. 2022 (VeLO, arXiv 2211.09760) and later work compare
with, and that STAR (2209.11208) and mu-LO (2406.00153) start from; its definition is the
code of google/learned_optimization. A 39-4-4-2 relu network sees 28 features of a
parameter (`adafactor_features`), each divided by its root mean square over the tensor,
and eleven bounded functions of time ``tanh(t / s - 1)``. It answers with a direction and
a magnitude:

    step = -.001 direction exp(.001 magnitude)

197 meta-parameters: 190 weights, and one for the decay of each of the seven averages
(`decays`). Averages are not debiased; the normalisation does that.

Upstream's momenta follow a decay under 0 if training should propose one, here all
decays stay in [0, 1), as its other averages do. The run's length, which upstream asks
for, is not used there either.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from learned_opt import (
    adafactor_features,
    network,
    normalized_network,
    time_features,
)
from learned_opt.adafactor_features import NUM_FEATURES, AdafactorState, Rates
from learned_opt.decays import learned_rates
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals

_WIDTHS = (NUM_FEATURES + time_features.NUM_FEATURES, 4, 4, 2)


class AdafactorDecays(NamedTuple):
    """Seven meta-parameters: offsets of decays, see `decays`."""

    m: Float[Array, "3"]  # from .9, .99, .999
    v: Float[Array, "1"]  # from .999
    factored: Float[Array, "3"]  # from .9, .99, .999

    @classmethod
    def init(cls) -> "AdafactorDecays":
        """The decays named above."""
        return cls(*(jnp.zeros(count, jnp.float32) for count in (3, 1, 3)))

    def rates(self) -> Rates:
        """What one step of each average takes."""
        initial = Rates()
        return Rates(
            learned_rates(self.m, jnp.asarray(initial.m)),
            learned_rates(self.v, jnp.asarray(initial.v))[0],
            learned_rates(self.factored, jnp.asarray(initial.factored)),
        )


class AdafactorMLPTheta(NamedTuple):
    """197 meta-parameters."""

    layers: tuple[network.Dense, ...]  # 39-4-4-2
    decays: AdafactorDecays


@dataclasses.dataclass(frozen=True)
class AdafactorMLP(Rule):
    """The per-parameter MLP with Adafactor features; 197 meta-parameters.

    Needs neither a loss nor ``num_steps``. State: 4 numbers per parameter, and 3 for
    each row and column (`factored`: every entry of a vector is both).
    """

    numbers_held: ClassVar[int] = 32

    def init(self, key: PRNGKeyArray) -> AdafactorMLPTheta:
        return AdafactorMLPTheta(network.mlp(key, _WIDTHS), AdafactorDecays.init())

    def start(
        self, theta: AdafactorMLPTheta, params: Field, layout: Layout
    ) -> AdafactorState:
        del theta
        return adafactor_features.start(params, layout)

    def advance(
        self,
        theta: AdafactorMLPTheta,
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

        features = adafactor_features.features(grads, params, slots, factored, layout)
        steps = normalized_network.shared(layers, features, layout, _step)
        return steps, AdafactorState(state.step + 1, slots, factored)


def _step(outputs: list[Array]) -> Array:
    direction, magnitude = outputs
    return -0.001 * direction * jnp.exp(0.001 * magnitude)
