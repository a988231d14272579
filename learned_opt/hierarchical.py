"""The hierarchical learned optimizer of Metz et al. 2020 (arXiv 2009.11243).

Every tensor has an LSTM that sees statistics of the tensor and the losses; every
parameter has a small MLP that sees its own gradient history; they talk to each other:

    tensor features, from_mlp, from_lstm -> LSTM(64) -> to_lstm -> mean over tensors
                        ^         ^            |                        |
                        |         +------------|-- next step -----------+
                        |                      v to_mlp
    mean over elements -+--- MLP(54-32-32-18) <- parameter features
                                   |
                                   v  (direction, magnitude)
    step = -.001 direction exp(.001 magnitude)

35,799 meta-parameters: LSTM 29,952 (52 + 64 inputs, 4 x 64 gates), its initial state
128, to_mlp 64-17 1,105, to_lstm 64-18 1,170, MLP 3,410, first messages 16 + 18 = 34.

Where the paper leaves a choice, or differs from the authors' later open-source version
with its 54 MLP inputs, this is what holds here:

* decays are fixed, and so are the numbers of the gradient clip (later version; the
  paper meta-learns the latter, two more numbers for the noise of ES to move);
* a parameter's value 100 steps ago is not an input (later version): it would need a
  whole copy of the model;
* the step is subtracted (the paper's appendix and the later version; its text adds);
* normalised features are not clipped (later version): gradients already are;
* both loss averages decay by .9. The paper wants the validation average to be the
  faster one, the later version made it the slower one;
* the norm among the MLP's inputs is a clipped logarithm like all others: fresh biases
  have norm zero;
* of a tensor of rank over 4, the leading axes count as one axis; empty tensors take no
  part in any mean over tensors.
"""

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt import loss_features, moments, network, time_features
from learned_opt.layout import Field, Layout
from learned_opt.loss_features import LossStatistics
from learned_opt.optimizer import Rule, Signals, require_value

_RATES = (0.5, 0.1, 0.01, 0.001, 0.0001)  # of momenta and second moments: 1 - decay
_TENSOR_FEATURES = 18
_PARAM_FEATURES = 3 + 4 * len(_RATES)  # the inputs of the MLP that differ by parameter
_HIDDEN = 64  # units of the LSTM
_FROM_LSTM = 18
_TO_MLP = 17
_FROM_MLP = 16
_WIDTHS = (
    _PARAM_FEATURES + time_features.NUM_FEATURES + 3 + _TO_MLP,
    32,
    32,
    2 + _FROM_MLP,
)
_CLIP = 10.0  # gradients are clipped at this multiple of their running RMS
_CLIP_RATE = 0.01


class HierarchicalTheta(NamedTuple):
    """35,799 meta-parameters."""

    lstm: network.Dense  # (inputs, hidden) -> gates (input, candidate, forget, output)
    initial_hidden: Float[Array, "hidden"]
    initial_cell: Float[Array, "hidden"]
    to_lstm: network.Dense
    to_mlp: network.Dense
    layers: tuple[network.Dense, ...]  # 54-32-32-18
    initial_from_lstm: Float[Array, "18"]
    initial_from_mlp: Float[Array, "16"]


class HierarchicalSlots(NamedTuple):
    m: tuple[Field, ...]  # means of gradients, one per decay
    v: tuple[Field, ...]  # means of squared gradients, one per decay


class HierarchicalState(NamedTuple):
    step: Int[Array, ""]
    slots: HierarchicalSlots
    hidden: Float[Array, "tensors hidden"]
    cell: Float[Array, "tensors hidden"]
    from_lstm: Float[Array, "18"]  # what the tensors told each other, averaged
    from_mlp: Float[Array, "tensors 16"]  # what the parameters told their tensor
    grad_rms: Float[Array, ""]  # running RMS of gradients, for the clip
    losses: LossStatistics


@dataclasses.dataclass(frozen=True)
class Hierarchical(Rule):
    """The optimizer of Metz et al. 2020; 35,799 meta-parameters.

    Needs the training loss as ``value``; uses ``valid_value`` on the steps that have
    one (NaN means none). State: 10 numbers per parameter, 144 per tensor.
    """

    numbers_held: ClassVar[int] = 32

    def init(self, key: PRNGKeyArray) -> HierarchicalTheta:
        lstm_key, to_lstm_key, to_mlp_key, mlp_key, *message_keys = jax.random.split(
            key, 6
        )
        inputs = _TENSOR_FEATURES + _FROM_MLP + _FROM_LSTM
        return HierarchicalTheta(
            lstm=network.dense(lstm_key, inputs + _HIDDEN, 4 * _HIDDEN),
            initial_hidden=jnp.zeros(_HIDDEN, jnp.float32),
            initial_cell=jnp.zeros(_HIDDEN, jnp.float32),
            to_lstm=network.dense(to_lstm_key, _HIDDEN, _FROM_LSTM),
            to_mlp=network.dense(to_mlp_key, _HIDDEN, _TO_MLP),
            layers=network.mlp(mlp_key, _WIDTHS),
            initial_from_lstm=network.dense(message_keys[0], _FROM_LSTM, 1).w[:, 0],
            initial_from_mlp=network.dense(message_keys[1], _FROM_MLP, 1).w[:, 0],
        )

    def start(
        self, theta: HierarchicalTheta, params: Field, layout: Layout
    ) -> HierarchicalState:
        zeros = (moments.zeros(params, layout),) * len(_RATES)

        def every_tensor(x: Array) -> Array:
            return jnp.broadcast_to(x, (len(layout.shapes), *x.shape))

        return HierarchicalState(
            step=jnp.zeros((), jnp.int32),
            slots=HierarchicalSlots(zeros, zeros),
            hidden=every_tensor(theta.initial_hidden),
            cell=every_tensor(theta.initial_cell),
            from_lstm=theta.initial_from_lstm,
            from_mlp=every_tensor(theta.initial_from_mlp),
            grad_rms=jnp.float32(_CLIP_RATE),  # debiased, this is an RMS of 1
            losses=loss_features.start(),
        )

    def advance(
        self,
        theta: HierarchicalTheta,
        state: HierarchicalState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, HierarchicalState]:
        value = require_value(self, signals)
        losses = loss_features.observe(state.losses, value, signals.valid_value)

        limit = _CLIP * state.grad_rms * moments.debias(state.step + 1, _CLIP_RATE)
        grads = layout.map(lambda g: jnp.clip(g, -limit, limit), grads)
        slots = _accumulate(state.slots, grads, layout)
        fields = (grads, params, *slots.m, *slots.v)
        squares = layout.mean_squares(_param_features, *fields)  # [23, tensors]

        tensor_features = _tensor_features(
            layout,
            squares,
            layout.means(_averages, *fields),
            loss_features.features(losses, value),
        )
        messages = jnp.concatenate(
            [
                tensor_features,
                state.from_mlp,
                jnp.broadcast_to(state.from_lstm, (len(layout.shapes), _FROM_LSTM)),
            ],
            axis=-1,
        )
        hidden, cell = network.lstm(theta.lstm, messages, state.hidden, state.cell)
        to_lstm = hidden @ theta.to_lstm.w + theta.to_lstm.b
        to_mlp = hidden @ theta.to_mlp.w + theta.to_mlp.b

        steps, from_mlp = _mlp(
            theta.layers,
            layout,
            fields,
            jax.lax.rsqrt(squares + 1e-5),
            _constant_features(layout, state.step, squares, to_mlp),
        )
        grad_rms = jnp.sqrt(1e-8 + _pool(squares[0], layout))
        return steps, HierarchicalState(
            step=state.step + 1,
            slots=slots,
            hidden=hidden,
            cell=cell,
            from_lstm=_pool(to_lstm.T, layout),
            from_mlp=from_mlp,
            grad_rms=moments.toward(state.grad_rms, grad_rms, _CLIP_RATE),
            losses=losses,
        )


def _accumulate(
    slots: HierarchicalSlots, grads: Field, layout: Layout
) -> HierarchicalSlots:
    def update(g: Array, *averages: Array) -> HierarchicalSlots:
        m, v = averages[: len(_RATES)], averages[len(_RATES) :]
        return HierarchicalSlots(
            tuple(moments.toward(a, g, r) for a, r in zip(m, _RATES, strict=True)),
            tuple(moments.toward(a, g * g, r) for a, r in zip(v, _RATES, strict=True)),
        )

    return layout.map(update, grads, *slots.m, *slots.v)


def _param_features(g: Array, p: Array, *averages: Array) -> list[Array]:
    """The 23 features, before normalisation: g, p, log|p|, m, m rsqrt(v), v, rsqrt(v)."""
    m, v = averages[: len(_RATES)], averages[len(_RATES) :]
    inv = [jax.lax.rsqrt(a + 1e-6) for a in v]
    adam = [a * b for a, b in zip(m, inv, strict=True)]
    return [g, p, _clipped_log(p), *m, *adam, *v, *inv]


def _averages(g: Array, p: Array, *averages: Array) -> list[Array]:
    """What tensors want the means of: p, and the means of m and of v over decays."""
    del g
    m, v = averages[: len(_RATES)], averages[len(_RATES) :]
    return [p, *(sum(x[1:], x[0]) / len(_RATES) for x in (m, v))]


def _tensor_features(
    layout: Layout,
    squares: Float[Array, "23 tensors"],
    means: Float[Array, "3 tensors"],
    losses: Float[Array, "2"],
) -> Float[Array, "tensors 18"]:
    """What the LSTM knows about its tensor; the losses are the same for all tensors."""
    decays = len(_RATES)
    g_square, p_square = squares[0], squares[1]
    m_square = jnp.mean(squares[3 : 3 + decays], axis=0)
    v_square = jnp.mean(squares[3 + 2 * decays : 3 + 3 * decays], axis=0)
    p_mean, m_mean, v_mean = means
    sizes = jnp.asarray(layout.sizes, jnp.float32)

    rows = []
    for mean, square in ((m_mean, m_square), (v_mean, v_square), (p_mean, p_square)):
        rows += [_clipped_log(mean), jnp.sign(mean), _clipped_log(square - mean * mean)]
    rows += [_clipped_log(moments.root(sizes * x)) for x in (p_square, g_square)]
    rows += [jnp.asarray(row) for row in _shape_features(layout.shapes).T]
    rows += [jnp.broadcast_to(x, sizes.shape) for x in losses]
    return jnp.stack(rows, axis=-1)


def _shape_features(shapes: tuple[tuple[int, ...], ...]) -> np.ndarray:
    """Is it a scalar, and the logarithms of its four axes; ``[tensors, 5]``, static."""
    rows = np.zeros((len(shapes), 5), np.float32)
    for row, shape in zip(rows, shapes, strict=True):
        folded = (math.prod(shape[:-3]), *shape[-3:]) if len(shape) > 4 else shape
        axes = np.array((*folded, *(1,) * (4 - len(folded))))
        row[0] = 1.0 if shape == () else -1.0
        row[1:] = np.log(np.maximum(axes, 1)) - 1.0
    return rows


def _constant_features(
    layout: Layout,
    step: Int[Array, ""],
    squares: Float[Array, "23 tensors"],
    to_mlp: Float[Array, "tensors 17"],
) -> Float[Array, "31 tensors"]:
    """The inputs of the MLP that are equal for all parameters of a tensor."""
    sizes = np.array(layout.sizes, np.float32)
    time = time_features.periodic(step)
    count = max(np.count_nonzero(sizes), 1)
    return jnp.concatenate(
        [
            jnp.broadcast_to(time[:, None], (time.shape[0], sizes.shape[0])),
            jnp.full((1, sizes.shape[0]), np.log(count) - 1.0),
            _clipped_log(moments.root(squares[1] * sizes))[None],
            jnp.log(np.maximum(sizes, 1.0))[None],
            to_mlp.T,
        ]
    )


def _mlp(
    layers: tuple[network.Dense, ...],
    layout: Layout,
    fields: tuple[Field, ...],
    scales: Float[Array, "23 tensors"],
    constants: Float[Array, "31 tensors"],
) -> tuple[Field, Float[Array, "tensors 16"]]:
    """The parameters' network: their steps, and the mean of what they tell the tensor.

    Inputs that are constant over a tensor enter as its first bias. Feedback is averaged
    before its linear layer, not after: the mean of 32 hidden units is what is computed.
    """
    first, second, last = layers
    bias = first.w[_PARAM_FEATURES:].T @ constants + first.b[:, None]
    w = first.w[:_PARAM_FEATURES]
    out = network.Dense(last.w[:, :2], last.b[:2])

    def step(scale: Array, bias: Array, *fields: Array) -> tuple[Array, Array]:
        x = jnp.stack(_param_features(*fields)) * scale
        hidden = jax.nn.relu(jnp.tensordot(w, x, axes=((0,), (0,))) + bias)
        hidden = jax.nn.relu(network.stacked([second], hidden))
        direction, magnitude = network.stacked([out], hidden)
        return -0.001 * direction * jnp.exp(0.001 * magnitude), hidden

    steps, hidden = layout.map_in_pieces(
        step, layout.spread(scales), layout.spread(bias), *fields
    )
    return steps, (last.w[:, 2:].T @ hidden + last.b[2:, None]).T


def _pool(values: Float[Array, "... tensors"], layout: Layout) -> Float[Array, "..."]:
    """Mean over tensors, of those that have elements."""
    present = np.array(layout.sizes, np.float32) > 0
    weights = present / np.float32(max(np.count_nonzero(present), 1))
    return values @ weights


def _clipped_log(x: Array) -> Array:
    return jnp.clip(jnp.log(1e-8 + jnp.abs(x)), -5.0, 5.0)
