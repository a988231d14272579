"""The recurrent optimizer of Andrychowicz et al. 2016 (arXiv 1606.04474).

Every parameter has a two-layer LSTM of its own state, with weights shared by all. It
sees the gradient ``g`` as a size and a sign, and answers with what to add:

    size = log max(|g|, e^-10) / 10,   sign = clip(e^10 g, -1, 1)
    (h1', c1') = LSTM_1((size, sign), h1, c1),   (h2', c2') = LSTM_2(h1', h2, c2)
    p' = p + .1 (w h2' + b)

5,141 meta-parameters: (2 + 20 + 1) 80 = 1,840, (20 + 20 + 1) 80 = 3,280 and 21. The two
inputs are those of appendix A with p = 10, which writes them as two cases: (log|g| / p,
sgn g) for ``|g| >= e^-p``, and (-1, e^p g) below. The factor .1 is that of the paper's
experiments on neural networks; the code released later has .01 and p = 5.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt import checks, network
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals

_UNITS = 20  # of each layer
_LOG_RANGE = 10.0  # gradients below exp(-10) count as small


class RnnTheta(NamedTuple):
    """5,141 meta-parameters."""

    first: network.Dense  # (inputs, hidden) -> gates (input, candidate, forget, output)
    second: network.Dense
    out: network.Dense


class RnnSlots(NamedTuple):
    """The state of both layers: fields with a leading axis, ``[units, *shape]``."""

    hidden_1: Field
    cell_1: Field
    hidden_2: Field
    cell_2: Field


class RnnState(NamedTuple):
    step: Int[Array, ""]
    slots: RnnSlots


@dataclasses.dataclass(frozen=True)
class Rnn(Rule):
    """The LSTM of Andrychowicz et al. 2016; 5,141 meta-parameters.

    Needs neither a loss nor ``num_steps``. State: 80 numbers per parameter.

    Attributes:
      step_size: factor of the network's output, > 0.
    """

    numbers_held: ClassVar[int] = 80

    step_size: float = 0.1

    def __post_init__(self) -> None:
        checks.require_numbers(self, step_size="(0, inf)")

    def init(self, key: PRNGKeyArray) -> RnnTheta:
        first_key, second_key, out_key = jax.random.split(key, 3)
        return RnnTheta(
            first=network.dense(first_key, 2 + _UNITS, 4 * _UNITS),
            second=network.dense(second_key, 2 * _UNITS, 4 * _UNITS),
            out=network.dense(out_key, _UNITS, 1),
        )

    def start(self, theta: RnnTheta, params: Field, layout: Layout) -> RnnState:
        del theta
        fresh = layout.map(_zeros, params)
        return RnnState(jnp.zeros((), jnp.int32), RnnSlots(fresh, fresh, fresh, fresh))

    def advance(
        self,
        theta: RnnTheta,
        state: RnnState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, RnnState]:
        del params, signals

        def update(
            g: Array, hidden_1: Array, cell_1: Array, hidden_2: Array, cell_2: Array
        ) -> tuple[tuple[Array, RnnSlots], None]:
            hidden_1, cell_1 = _lstm(theta.first, _size_and_sign(g), hidden_1, cell_1)
            hidden_2, cell_2 = _lstm(theta.second, hidden_1, hidden_2, cell_2)
            (out,) = network.stacked([theta.out], hidden_2)
            slots = RnnSlots(hidden_1, cell_1, hidden_2, cell_2)
            return (self.step_size * out, slots), None

        (steps, slots), _ = layout.map_in_pieces(update, grads, *state.slots)
        return steps, RnnState(state.step + 1, slots)


def _zeros(param: Array) -> Float[Array, "units ..."]:
    """Sharded like the parameter."""
    return jnp.broadcast_to(jnp.zeros_like(param), (_UNITS, *param.shape))


def _size_and_sign(g: Array) -> Float[Array, "2 ..."]:
    """The gradient's magnitude on a logarithmic scale, from -1, and its sign."""
    size = jnp.log(jnp.maximum(jnp.abs(g), jnp.exp(-_LOG_RANGE))) / _LOG_RANGE
    sign = jnp.clip(jnp.exp(_LOG_RANGE) * g, -1.0, 1.0)
    return jnp.stack([size, sign])


def _lstm(
    gates: network.Dense,
    inputs: Float[Array, "inputs ..."],
    hidden: Float[Array, "units ..."],
    cell: Float[Array, "units ..."],
) -> tuple[Float[Array, "units ..."], Float[Array, "units ..."]]:
    """One step of `network.lstm`, for features on the leading axis."""
    x = network.stacked([gates], jnp.concatenate([inputs, hidden]))
    i, g, f, o = jnp.split(x, 4)
    cell = jax.nn.sigmoid(f + 1.0) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell
