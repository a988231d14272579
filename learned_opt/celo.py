"""Celo: VeLO's parts, put together for little meta-training.

Moudgil et al. 2025 (arXiv 2501.12670; constants of the released code). One 30-4-4-3 relu
network sees the features of VeLO (`adafactor_features`). An LSTM(64) sees how far the
run has come (`progress`) and how the loss moves (`relative_loss`), and sets one factor
for all tensors:

    rule:       step = -.001 rms(p) direction exp(.001 magnitude)
    scheduler:  u = W2 x + relu(W1 x),   lr = .1 exp(Linear(LSTM(u)))
    Celo:       lr times the step of the rule

Steps are relative to the size of the tensor. Gradients are clipped at 1000, decays are
fixed, the third output of the network has no use.

Meta-training has two phases, which are two optimizers with thetas of their own:

    rule = CeloRule()                        # phase 1: the rule alone, 159
    scheduler = CeloScheduler(rule_theta)    # phase 2: the rule is fixed, 35,649
    theta = CeloTheta(rule_theta, scheduler_theta)    # of `Celo`, 35,808

In the released code the scheduler runs once for each tensor, on equal inputs: that is
one scheduler. 1,281 more meta-parameters there are read by nothing. `pretrained.load` reads
the files of released weights.
"""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt import (
    adafactor_features,
    checks,
    moments,
    network,
    normalized_network,
    progress,
    relative_loss,
)
from learned_opt.adafactor_features import (
    NUM_VELO_FEATURES,
    AdafactorSlots,
    AdafactorState,
    Rates,
)
from learned_opt.factored import FactoredMoments
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals, require_num_steps, require_value
from learned_opt.relative_loss import RelativeLoss

_WIDTHS = (NUM_VELO_FEATURES, 4, 4, 3)
_HIDDEN = 64
_INPUTS = progress.NUM_FEATURES + relative_loss.NUM_FEATURES
_LARGEST_GRADIENT = 1000.0


class CeloRuleTheta(NamedTuple):
    """159 meta-parameters."""

    layers: tuple[network.Dense, ...]  # 30-4-4-3


class CeloSchedulerTheta(NamedTuple):
    """35,649 meta-parameters."""

    mix: network.Dense  # 18 -> 64, with a relu
    inputs: network.Dense  # 18 -> 64
    lstm: network.Dense  # (inputs, hidden) -> gates (input, candidate, forget, output)
    initial_hidden: Float[Array, "hidden"]
    initial_cell: Float[Array, "hidden"]
    step_size: network.Dense  # 64 -> 1


class CeloTheta(NamedTuple):
    """35,808 meta-parameters."""

    rule: CeloRuleTheta
    scheduler: CeloSchedulerTheta


class CeloState(NamedTuple):
    step: Int[Array, ""]
    slots: AdafactorSlots
    factored: FactoredMoments
    hidden: Float[Array, "hidden"]
    cell: Float[Array, "hidden"]
    losses: RelativeLoss


@dataclasses.dataclass(frozen=True)
class CeloRule(Rule):
    """Celo without a scheduler, as in its first phase; 159 meta-parameters.

    Needs neither a loss nor ``num_steps``. State: 4 numbers per parameter, and 3 for
    each row and column (`factored`: every entry of a vector is both).
    """

    numbers_held: ClassVar[int] = 32

    def init(self, key: PRNGKeyArray) -> CeloRuleTheta:
        return CeloRuleTheta(network.mlp(key, _WIDTHS))

    def start(
        self, theta: CeloRuleTheta, params: Field, layout: Layout
    ) -> AdafactorState:
        del theta
        return adafactor_features.start(params, layout)

    def advance(
        self,
        theta: CeloRuleTheta,
        state: AdafactorState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, AdafactorState]:
        del signals
        grads = layout.map(
            lambda g: jnp.clip(g, -_LARGEST_GRADIENT, _LARGEST_GRADIENT), grads
        )
        slots, factored = adafactor_features.accumulate(
            state.slots, state.factored, grads, Rates(), layout
        )
        features = adafactor_features.velo_features(
            grads, params, slots, factored, layout
        )
        p_square = layout.mean(layout.map(jnp.square, params))
        scale = layout.spread(moments.rms(p_square, 1e-9))
        steps = normalized_network.shared(
            theta.layers, features, layout, adafactor_features.velo_step, scale
        )
        return steps, AdafactorState(state.step + 1, slots, factored)


@dataclasses.dataclass(frozen=True)
class Celo(Rule):
    """Celo: the rule and its scheduler; 35,808 meta-parameters.

    Needs ``num_steps`` and the training loss as ``value``. State: that of `CeloRule`,
    and 149 numbers for the whole model.
    """

    numbers_held: ClassVar[int] = 32

    def init(self, key: PRNGKeyArray) -> CeloTheta:
        rule_key, scheduler_key = jax.random.split(key)
        return CeloTheta(CeloRule().init(rule_key), _init_scheduler(scheduler_key))

    def start(self, theta: CeloTheta, params: Field, layout: Layout) -> CeloState:
        rule = CeloRule().start(theta.rule, params, layout)
        scheduler = theta.scheduler
        return CeloState(
            *rule,
            hidden=jnp.asarray(scheduler.initial_hidden),
            cell=jnp.asarray(scheduler.initial_cell),
            losses=relative_loss.start(),
        )

    def advance(
        self,
        theta: CeloTheta,
        state: CeloState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, CeloState]:
        num_steps, value = (
            require_num_steps(self, signals),
            require_value(self, signals),
        )
        largest = relative_loss.largest_mean(state.losses)
        losses = relative_loss.observe(state.losses, value, num_steps, largest)
        x = jnp.concatenate(
            [
                progress.features(state.step, num_steps),
                relative_loss.features(losses),
            ]
        )
        lr, hidden, cell = _schedule(theta.scheduler, x, state.hidden, state.cell)
        steps, rule = CeloRule().advance(
            theta.rule,
            AdafactorState(state.step, state.slots, state.factored),
            grads,
            params,
            layout,
            signals,
        )
        steps = layout.map(lambda step: lr * step, steps)
        return steps, CeloState(*rule, hidden=hidden, cell=cell, losses=losses)


@dataclasses.dataclass(frozen=True, eq=False)
class CeloScheduler(Rule):
    """Celo with a rule that is fixed, as in its second phase; 35,649 meta-parameters.

    Attributes:
      rule: what the first phase has found.
    """

    numbers_held: ClassVar[int] = 32

    rule: CeloRuleTheta

    def __post_init__(self) -> None:
        expected = jax.eval_shape(CeloRule().init, jax.random.key(0))
        checks.require_theta(self.rule, expected, "CeloRule")

    def init(self, key: PRNGKeyArray) -> CeloSchedulerTheta:
        return _init_scheduler(key)

    def start(
        self, theta: CeloSchedulerTheta, params: Field, layout: Layout
    ) -> CeloState:
        return Celo().start(CeloTheta(self.rule, theta), params, layout)

    def advance(
        self,
        theta: CeloSchedulerTheta,
        state: CeloState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, CeloState]:
        whole = CeloTheta(self.rule, theta)
        return Celo().advance(whole, state, grads, params, layout, signals)


def _init_scheduler(key: PRNGKeyArray) -> CeloSchedulerTheta:
    mix_key, input_key, lstm_key, step_key = jax.random.split(key, 4)
    return CeloSchedulerTheta(
        mix=network.dense(mix_key, _INPUTS, _HIDDEN),
        inputs=network.dense(input_key, _INPUTS, _HIDDEN),
        lstm=network.dense(lstm_key, 2 * _HIDDEN, 4 * _HIDDEN),
        initial_hidden=jnp.zeros(_HIDDEN, jnp.float32),
        initial_cell=jnp.zeros(_HIDDEN, jnp.float32),
        step_size=network.dense(step_key, _HIDDEN, 1),
    )


def _schedule(
    theta: CeloSchedulerTheta,
    x: Float[Array, "18"],
    hidden: Float[Array, "hidden"],
    cell: Float[Array, "hidden"],
) -> tuple[Float[Array, ""], Float[Array, "hidden"], Float[Array, "hidden"]]:
    """The factor of the step, > 0, and the next state of the LSTM."""
    apply = lambda layer, x: x @ layer.w + layer.b
    u = apply(theta.inputs, x) + jax.nn.relu(apply(theta.mix, x))
    hidden, cell = network.lstm(theta.lstm, u, hidden, cell)
    return 0.1 * jnp.exp(apply(theta.step_size, hidden)[0]), hidden, cell
