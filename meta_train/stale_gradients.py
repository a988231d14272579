"""Stale gradients: an optimizer that sees the gradients of n steps ago.

    g_t = gradient at step max(t - n, 0): at those parameters, on that batch

as when workers read parameters, take a gradient, and deliver it n updates later. One of
VeLO's augmentations (Metz et al. 2022, arXiv 2211.09760). A task's loss is a function of
the parameters alone and knows no history, so this wraps what has a state: any optax
transform, or a learned optimizer, and with it `InnerTraining`.

    tx = optax.chain(delay_gradients(4), optax.adam(1e-3))
    system = InnerTraining(task, stale(optimizer, 4))

The loss that an optimizer is shown, the parameters and the first n steps' gradient (the
first of all) are those it would see anyway.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from learned_opt import LearnedOptimizer, Rule, Signals
from learned_opt.layout import Field, Layout
from meta_train.system import Theta
from tasksets import sampling


class DelayState(NamedTuple):
    """The gradients on their way.

    Attributes:
      step: gradients seen so far.
      ring: ``[delay, *shape]`` for every leaf of a gradient; step t is in slot t % delay.
    """

    step: Int[Array, ""]
    ring: Any


def delay_gradients(delay: int) -> optax.GradientTransformation:
    """An optax transform that passes on the gradient of `delay` steps ago."""
    _require_delay(delay)

    def init_fn(params: optax.Params) -> DelayState:
        return _empty(params, delay)

    def update_fn(
        updates: optax.Updates, state: DelayState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, DelayState]:
        del params
        return _push(updates, state, delay)

    return optax.GradientTransformation(init_fn, update_fn)  # type: ignore[arg-type]


def stale(optimizer: LearnedOptimizer, delay: int) -> LearnedOptimizer:
    """The optimizer fed with stale gradients; it has the same theta.

    A `Rule` stays one, and so keeps its flat layout in meta-training.
    """
    _require_delay(delay)
    if isinstance(optimizer, Rule):
        return StaleRule(optimizer, delay)
    return StaleOptimizer(optimizer, delay)


def sample_delay(seed: int) -> int:
    """VeLO's law of the delay: 0 (no delay) with probability .95, else logint 1-8."""
    rng = np.random.RandomState(seed)
    return sampling.log_int(rng, 1, 8) if rng.uniform() < 0.05 else 0


@dataclasses.dataclass(frozen=True)
class StaleOptimizer:
    """A learned optimizer behind a delay, through its public transform."""

    optimizer: LearnedOptimizer
    delay: int  # in steps

    def init(self, key: PRNGKeyArray) -> Theta:
        return self.optimizer.init(key)

    def transform(
        self, theta: Theta, *, num_steps: ArrayLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        inner = self.optimizer.transform(theta, num_steps=num_steps)
        return optax.with_extra_args_support(
            optax.chain(delay_gradients(self.delay), inner)
        )


class StaleRuleState(NamedTuple):
    """The state of the rule, and the gradients on their way to it."""

    rule: Any
    delayed: DelayState

    @property
    def step(self) -> Int[Array, ""]:
        return self.rule.step

    @property
    def slots(self) -> tuple[Any, ...]:
        return self.rule.slots


@dataclasses.dataclass(frozen=True)
class StaleRule(Rule):
    """A rule behind a delay."""

    rule: Rule
    delay: int  # in steps

    @property
    def numbers_held(self) -> int:
        return self.rule.numbers_held + self.delay

    def init(self, key: PRNGKeyArray) -> Theta:
        return self.rule.init(key)

    def shift(self, theta: Theta, offset: Theta, sign: Float[Array, ""]) -> Theta:
        return self.rule.shift(theta, offset, sign)

    def start(self, theta: Theta, params: Field, layout: Layout) -> StaleRuleState:
        rule = self.rule.start(theta, params, layout)
        return StaleRuleState(rule, _empty(params, self.delay))

    def advance(
        self,
        theta: Theta,
        state: StaleRuleState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, StaleRuleState]:
        grads, delayed = _push(grads, state.delayed, self.delay)
        steps, rule = self.rule.advance(
            theta, state.rule, grads, params, layout, signals
        )
        return steps, StaleRuleState(rule, delayed)


def _require_delay(delay: int) -> None:
    if delay < 1:
        raise ValueError(f"delay is at least 1 step, not {delay}")


def _empty(like: Any, delay: int) -> DelayState:
    ring = jax.tree.map(lambda x: jnp.zeros((delay, *jnp.shape(x)), x.dtype), like)
    return DelayState(jnp.zeros((), jnp.int32), ring)


def _push(gradient: Any, state: DelayState, delay: int) -> tuple[Any, DelayState]:
    """Puts a gradient into the ring and takes the one out that is due."""
    slot = state.step % delay
    # Slot 0 holds the first gradient until step `delay` has taken it.
    due = jnp.where(state.step < delay, 0, slot)
    is_first = state.step == 0
    take = lambda g, ring: jnp.where(is_first, g, ring[due])
    put = lambda g, ring: ring.at[slot].set(g)
    delayed = jax.tree.map(take, gradient, state.ring)
    ring = jax.tree.map(put, gradient, state.ring)
    return delayed, DelayState(jnp.asarray(optax.safe_increment(state.step)), ring)
