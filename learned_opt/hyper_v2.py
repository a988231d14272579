"""VeLO's optimizer: an LSTM per tensor that writes the network of its parameters.

Metz et al. 2022 (arXiv 2211.09760, "hyper_v2" in the authors' code). Each tensor's LSTM
sees how far the run has come (`progress`), how the loss moves (`relative_loss`), and
statistics of the tensor. It answers with 256 controls and a step size. The controls mix a
bank of 256 networks 30-4-4-3 into the one that all parameters of the tensor use, on the
features of `adafactor_features`:

    u = W3 x + max over tensors of relu(W2 x)               tensors hear each other
    controls, lr = Linear(LSTM(u))
    network = 100 mean_k(controls_k bank_k)
    step = -.001 lr rms(p) direction exp(.001 magnitude)

2,302,465 meta-parameters: LSTM 2,099,200 (512 + 512 inputs, 4 x 512 gates), its initial
state 1,024, the two layers of u 29,696, heads 131,328 + 513, bank 40,704. Gradients are
clipped at 1000. All decays are fixed. The third output of the networks has no use.

The tensor's 10 features: with every moment divided by ``rms(p)``, and ``clog(x) =
clip(log(1e-8 + 10 |x|), -5, 5) / 2``: clog(mean v), one of 5 for its rank (axes longer
than 1), clog(var m) for three decays, clog(var v). They are of the moments *before* this
step's gradient. Empty tensors take no part in the max.

Released weights were trained with two mistakes, which ``legacy=True`` reproduces so that
they mean the same here; their theta has 2,048 more (30 inputs of the LSTM's layers):

* the variance of v is taken about the means of m, and is therefore three numbers;
* the bound on new losses is debiased by one step too many (`relative_loss`).

Another layer beside ``mix`` is computed there and overwritten: its 15,872 numbers have no
place in theta. `pretrained.load` reads the file of those weights. Two flags of that code,
"bugged" time constants of the loss and an LSTM state that never changes, concern weights
older than VeLO's.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt import (
    adafactor_features,
    moments,
    network,
    normalized_network,
    progress,
    relative_loss,
)
from learned_opt.adafactor_features import NUM_VELO_FEATURES, AdafactorSlots, Rates
from learned_opt.factored import FactoredMoments
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals, require_num_steps, require_value
from learned_opt.relative_loss import RelativeLoss

_HIDDEN = 512
_BANK = 256
_WIDTHS = (NUM_VELO_FEATURES, 4, 4, 3)
_TENSOR_FEATURES = 10
_LARGEST_GRADIENT = 1000.0


class HyperV2Theta(NamedTuple):
    """2,302,465 meta-parameters."""

    mix: network.Dense  # what a tensor tells all others: inputs -> 512
    inputs: network.Dense  # inputs -> 512
    lstm: network.Dense  # (inputs, hidden) -> gates (input, candidate, forget, output)
    initial_hidden: Float[Array, "hidden"]
    initial_cell: Float[Array, "hidden"]
    controls: network.Dense  # hidden -> 256
    step_size: network.Dense  # hidden -> 1
    bank: tuple[network.Dense, ...]  # 30-4-4-3, each with a leading axis of 256


class HyperV2State(NamedTuple):
    step: Int[Array, ""]
    slots: AdafactorSlots
    factored: FactoredMoments
    hidden: Float[Array, "tensors hidden"]
    cell: Float[Array, "tensors hidden"]
    losses: RelativeLoss


@dataclasses.dataclass(frozen=True)
class HyperV2(Rule):
    """The optimizer of VeLO; 2,302,465 meta-parameters.

    Needs ``num_steps`` and the training loss as ``value``. State: 4 numbers per
    parameter, 3 per row and column (see `factored`), 1,024 per tensor.

    Attributes:
      legacy: compute what the released weights were trained to expect; see above.
    """

    legacy: bool = False

    def init(self, key: PRNGKeyArray) -> HyperV2Theta:
        mix_key, input_key, lstm_key, control_key, step_key, bank_key = (
            jax.random.split(key, 6)
        )
        inputs = progress.NUM_FEATURES + relative_loss.NUM_FEATURES + _TENSOR_FEATURES
        inputs += 2 if self.legacy else 0
        return HyperV2Theta(
            mix=network.dense(mix_key, inputs, _HIDDEN),
            inputs=network.dense(input_key, inputs, _HIDDEN),
            lstm=network.dense(lstm_key, 2 * _HIDDEN, 4 * _HIDDEN),
            initial_hidden=jnp.zeros(_HIDDEN, jnp.float32),
            initial_cell=jnp.zeros(_HIDDEN, jnp.float32),
            controls=network.dense(control_key, _HIDDEN, _BANK),
            step_size=network.dense(step_key, _HIDDEN, 1),
            bank=jax.vmap(lambda k: network.mlp(k, _WIDTHS))(
                jax.random.split(bank_key, _BANK)
            ),
        )

    def start(self, theta: HyperV2Theta, params: Field, layout: Layout) -> HyperV2State:
        every_tensor = (len(layout.shapes), _HIDDEN)
        return HyperV2State(
            *adafactor_features.start(params, layout),
            hidden=jnp.broadcast_to(theta.initial_hidden, every_tensor),
            cell=jnp.broadcast_to(theta.initial_cell, every_tensor),
            losses=relative_loss.start(),
        )

    def shift(
        self, theta: HyperV2Theta, offset: HyperV2Theta, sign: Float[Array, ""]
    ) -> HyperV2Theta:
        without = lambda tree: tree._replace(lstm=tree.lstm._replace(w=None))
        shifted = super().shift(without(theta), without(offset), sign)
        w = network.Shifted(theta.lstm.w, offset.lstm.w, sign)
        return shifted._replace(lstm=shifted.lstm._replace(w=w))

    def advance(
        self,
        theta: HyperV2Theta,
        state: HyperV2State,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, HyperV2State]:
        num_steps, value = (
            require_num_steps(self, signals),
            require_value(self, signals),
        )
        losses = self._observe(state.losses, value, num_steps)
        p_square = layout.mean(layout.map(jnp.square, params))

        shared = jnp.concatenate(
            [
                progress.features(state.step, num_steps),
                relative_loss.features(losses),
            ]
        )
        own = self._tensor_features(state.slots, p_square, layout)
        x = jnp.concatenate(
            [jnp.broadcast_to(shared, (own.shape[0], shared.size)), own], axis=-1
        )
        u = _apply(theta.inputs, x) + _loudest(_apply(theta.mix, x), layout)
        hidden, cell = network.lstm(theta.lstm, u, state.hidden, state.cell)
        layers = _mixture(theta.bank, _apply(theta.controls, hidden))
        lr = _apply(theta.step_size, hidden)[:, 0]

        grads = layout.map(
            lambda g: jnp.clip(g, -_LARGEST_GRADIENT, _LARGEST_GRADIENT), grads
        )
        slots, factored = adafactor_features.accumulate(
            state.slots, state.factored, grads, Rates(), layout
        )
        features = adafactor_features.velo_features(
            grads, params, slots, factored, layout
        )
        scale = layout.spread(lr * moments.rms(p_square, 1e-9))
        steps = normalized_network.by_tensor(
            layers, features, layout, adafactor_features.velo_step, scale
        )
        return steps, HyperV2State(
            state.step + 1, slots, factored, hidden, cell, losses
        )

    def _observe(
        self,
        losses: RelativeLoss,
        value: Float[Array, ""],
        num_steps: Float[Array, ""],
    ) -> RelativeLoss:
        if self.legacy:
            largest = relative_loss.largest_mean_as_released(losses, num_steps)
        else:
            largest = relative_loss.largest_mean(losses)
        return relative_loss.observe(losses, value, num_steps, largest)

    def _tensor_features(
        self, slots: AdafactorSlots, p_square: Float[Array, "tensors"], layout: Layout
    ) -> Float[Array, "tensors features"]:
        scale = jax.lax.rsqrt(jnp.maximum(p_square, 1e-9))
        fields = (slots.v, *slots.m)
        means = layout.means(lambda *x: x, *fields)
        v, m = means[:1], means[1:]
        about = m if self.legacy else v

        # In two passes: the difference of large squares would drown small variances.
        def squares(about: Array, m_mean: Array, v: Array, *m: Array) -> list[Array]:
            of_m = [jnp.square(x - mean) for x, mean in zip(m, m_mean, strict=True)]
            return [*of_m, *(jnp.square(v - mean) for mean in about)]

        variances = layout.means(
            squares, layout.spread(about), layout.spread(m), *fields
        )
        rows = [
            _clipped_log(scale * v),
            _rank(layout),
            _clipped_log(scale**2 * variances),
        ]
        return jnp.concatenate(rows).T


def _apply(layer: network.Dense, x: Array) -> Array:
    return x @ layer.w + layer.b


def _loudest(
    messages: Float[Array, "tensors hidden"], layout: Layout
) -> Float[Array, "hidden"]:
    """The largest positive message, unit by unit, of tensors that are not empty."""
    present = np.array(layout.sizes, np.float32) > 0
    return jnp.max(jax.nn.relu(messages) * present[:, None], axis=0)


def _mixture(
    bank: tuple[network.Dense, ...], controls: Float[Array, "tensors bank"]
) -> tuple[network.Dense, ...]:
    """The network of each tensor, tensors on the last axis."""

    def mix(weights: Float[Array, "bank ..."]) -> Float[Array, "... tensors"]:
        mixed = weights.reshape(_BANK, -1).T @ controls.T
        return (100.0 / _BANK) * mixed.reshape(*weights.shape[1:], -1)

    return jax.tree.map(mix, bank)


def _rank(layout: Layout) -> np.ndarray:
    """One of five: axes longer than 1, up to four, ``[5, tensors]``; static."""
    ranks = [sum(n > 1 for n in shape) for shape in layout.shapes]
    return (np.arange(5)[:, None] == np.array(ranks, int)).astype(np.float32)


def _clipped_log(x: Array) -> Array:
    return 0.5 * jnp.clip(jnp.log(1e-8 + 10.0 * jnp.abs(x)), -5.0, 5.0)
