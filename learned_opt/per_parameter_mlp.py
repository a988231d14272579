"""The per-parameter MLP of Metz et al. 2019 (arXiv 1810.10180).

A 19-32-32-2 relu network looks at one parameter at a time: its gradient, its value, six
momenta, and eleven bounded functions of time ``tanh(t / s - 1)``. It answers with a
direction and a magnitude:

    step = -.001 direction exp(.001 magnitude)

1,762 meta-parameters. Each of the first eight features is divided by its root mean
square over the tensor. Time is not: it is the same for all elements, so dividing would
leave only its sign. It therefore enters as part of the first bias. Momenta are not
debiased; normalisation does that.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from learned_opt import moments, network, time_features
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals

_RATES = (0.9, 0.5, 0.1, 0.01, 0.001, 0.0001)  # of momenta: 1 - decay
_PARAM_FEATURES = 2 + len(_RATES)
_WIDTHS = (_PARAM_FEATURES + time_features.NUM_FEATURES, 32, 32, 2)


class PerParameterMLPTheta(NamedTuple):
    """1,762 meta-parameters."""

    layers: tuple[network.Dense, ...]  # 19-32-32-2


class PerParameterMLPState(NamedTuple):
    step: Int[Array, ""]
    slots: tuple[Field, ...]  # means of gradients, one per decay


@dataclasses.dataclass(frozen=True)
class PerParameterMLP(Rule):
    """The MLP of Metz et al. 2019; 1,762 meta-parameters.

    Needs neither a loss nor ``num_steps``. State: 6 numbers per parameter.
    """

    numbers_held: ClassVar[int] = 32

    def init(self, key: PRNGKeyArray) -> PerParameterMLPTheta:
        return PerParameterMLPTheta(network.mlp(key, _WIDTHS))

    def start(
        self, theta: PerParameterMLPTheta, params: Field, layout: Layout
    ) -> PerParameterMLPState:
        del theta
        zeros = moments.zeros(params, layout)
        return PerParameterMLPState(jnp.zeros((), jnp.int32), (zeros,) * len(_RATES))

    def advance(
        self,
        theta: PerParameterMLPTheta,
        state: PerParameterMLPState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, PerParameterMLPState]:
        del signals

        def accumulate(g: Array, *momenta: Array) -> tuple[Array, ...]:
            pairs = zip(momenta, _RATES, strict=True)
            return tuple(moments.toward(m, g, rate) for m, rate in pairs)

        slots = layout.map(accumulate, grads, *state.slots)
        features = (grads, params, *slots)
        squares = layout.mean_squares(lambda *x: x, *features)  # [8, tensors]

        layers = time_features.into_bias(
            theta.layers, time_features.bounded(state.step)
        )

        def update(scale: Array, *x: Array) -> tuple[Array, None]:
            direction, magnitude = network.stacked(layers, jnp.stack(x) * scale)
            return -0.001 * direction * jnp.exp(0.001 * magnitude), None

        scales = layout.spread(jax.lax.rsqrt(squares + 1e-5))
        steps, _ = layout.map_in_pieces(update, scales, *features)
        return steps, PerParameterMLPState(state.step + 1, slots)
