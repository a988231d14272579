"""Bootstrap self-training: the optimizer in training comes to train itself.

    updates 1 to N          another optimizer, such as Adam
    updates kN + 1 to kN+N  the learned optimizer with theta as its average was after kN

The theta that trains is frozen for N updates, so that what is trained does not chase
itself from step to step. Exchanging it keeps what the optimizer remembers of past gradients:
to begin anew every N updates would mean the long first steps of a run every time. (Metz et
al. 2020, arXiv 2009.11243, section on self-training, train an optimizer with one
trained before; Metz et al. 2021, arXiv 2101.07367, let a population train itself.)
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Int

from learned_opt import LearnedOptimizer, checks
from meta_train.system import Theta, choose


class BootstrapState(NamedTuple):
    """State of `bootstrap`.

    Attributes:
      updates: made so far.
      theta: what the learned optimizer runs with, no constant of any program.
      before: state of the optimizer of the first updates.
      learned: state of the learned optimizer.
    """

    updates: Int[Array, ""]
    theta: Theta
    before: Any
    learned: Any


def bootstrap(
    optimizer: LearnedOptimizer,
    before: optax.GradientTransformation,
    *,
    every: int,
    num_steps: int,
) -> optax.GradientTransformationExtraArgs:
    """An outer optimizer for the theta of ``optimizer``, which becomes that optimizer.

    Args:
      optimizer: the one in training.
      before: trains it for the first ``every`` updates.
      every: updates between two exchanges of the theta that trains, at least 1.
      num_steps: of the whole run, > ``every``.

    Returns:
      A transform whose ``update`` also takes ``average``, the running average of theta,
      and ``value`` and ``valid_value``, which it shows to the learned optimizer. It raises
      ValueError without ``params``.
    """
    before = optax.with_extra_args_support(before)
    transform = lambda theta: optimizer.transform(theta, num_steps=num_steps - every)

    def init(params: optax.Params) -> BootstrapState:
        zero, learned = jnp.zeros((), jnp.int32), transform(params).init(params)
        return BootstrapState(zero, params, before.init(params), learned)

    def update(
        updates: optax.Updates,
        state: BootstrapState,
        params: optax.Params | None = None,
        *,
        average: Theta,
        value: ArrayLike | None = None,
        valid_value: ArrayLike | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, BootstrapState]:
        del extra
        if params is None:
            raise ValueError(checks.NO_PARAMS)
        by_itself = state.updates >= every
        exchanged = by_itself & (state.updates % every == 0)
        theta = choose(exchanged, average, state.theta)
        tx = transform(theta)
        learned = choose(state.updates == every, tx.init(params), state.learned)

        def by_learned(grads: optax.Updates):
            values = {"value": value, "valid_value": valid_value}
            steps, after = tx.update(grads, learned, params, **values)
            return steps, state.before, after

        def by_other(grads: optax.Updates):
            steps, after = before.update(grads, state.before, params)
            return steps, after, learned

        steps, *states = jax.lax.cond(by_itself, by_learned, by_other, updates)
        return steps, BootstrapState(state.updates + 1, theta, *states)

    return optax.GradientTransformationExtraArgs(init, update)  # type: ignore[arg-type]
