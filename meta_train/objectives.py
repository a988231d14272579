"""What of an episode is made small: objectives, as systems around a system.

An estimator differentiates the mean over an episode of the losses that a `System` reports.
Other objectives are other losses of the same steps, so each is a system that wraps one,
works under every estimator, and composes with the others.

    mean of the losses              system
    their sum                       Sum(system)
    the loss of the last step       Last(system)
    any number, smooth or not       Measured(system, lambda system, state, x: ...)
    the last loss, bounded          Last(Capped(system, 4.0))

`Last` telescopes: the losses ``p_t = L_t - L_{t-1}`` with ``L_0 = 0`` sum to ``L_T``, so
every window has something to report and an online estimator need not wait for the end.
Credit follows: PES weighs ``p_t`` with all the perturbations until then, and over an episode

    sum_w xi_w p_w = xi_W L_W - sum_w eps_w L_{w-1},

with ``L_w`` the loss at the end of window w. The last term has mean zero (``eps_w`` is drawn
after ``L_{w-1}``), so the estimate is unbiased for ``L_W``; it is not the estimate
``xi_W L_W`` sample by sample, except where the perturbation is reused (`NRES`, `FullES`).
Vicol, Metz & Sohl-Dickstein 2021 (arXiv 2112.13835), appendix on telescoping sums.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from meta_train.system import (
    AroundSystem,
    Driven,
    Loss,
    State,
    System,
    Theta,
    begin,
    inputs,
    shift,
)


class Scored(NamedTuple):
    """An episode in progress and what objectives remember of it.

    Attributes:
      system: the state of the wrapped system.
      num_steps: planned length of the episode, T.
      previous: the loss of the step before, 0 before the first.
    """

    system: State
    num_steps: Float[Array, ""]
    previous: Loss


@dataclasses.dataclass(frozen=True)
class Objective(AroundSystem, abc.ABC):
    """A system with the steps and the randomness of another, and other losses.

    Attributes:
      system: what is unrolled.
    """

    system: System

    def init(self, key: PRNGKeyArray) -> Scored:
        """The wrapped system's start; T is learned when the episode begins."""
        return Scored(self.system.init(key), jnp.ones(()), jnp.zeros(()))

    def begin(self, theta: Theta, state: Scored, num_steps: Float[Array, ""]) -> Scored:
        """Begin the wrapped system where it wants that, and note T."""
        system = begin(self.system, theta, state.system, num_steps)
        return Scored(system, num_steps, jnp.zeros(()))

    def shift(self, theta: Theta, offset: Theta, sign: Float[Array, ""]) -> Theta:
        """``theta + sign * offset``, as the wrapped system takes it."""
        return shift(self.system, theta, offset, sign)

    def inputs(self, state: Scored, key: PRNGKeyArray, num_steps: int) -> Any:
        """The wrapped system's inputs, or a key for each step."""
        return inputs(self.system, state.system, key, num_steps)

    def step(
        self, theta: Theta, state: Scored, key: PRNGKeyArray
    ) -> tuple[Scored, Loss]:
        """One step of the wrapped system and its loss under this objective."""
        xs = self.inputs(state, key, 1)
        return self.advance(theta, state, jax.tree.map(lambda x: x[0], xs))

    def advance(self, theta: Theta, state: Scored, x: Any) -> tuple[Scored, Loss]:
        """One step with its input already drawn."""
        wrapped = self.system
        step = wrapped.advance if isinstance(wrapped, Driven) else wrapped.step
        system, loss = step(theta, state.system, x)
        score = self._score(state, system, loss, x)
        return Scored(system, state.num_steps, loss), score

    @abc.abstractmethod
    def _score(self, before: Scored, system: State, loss: Loss, x: Any) -> Loss:
        """The loss of a step that led from ``before`` to ``system`` with ``loss``."""


class Sum(Objective):
    """The sum of an episode's losses: every loss counts T times in the mean.

    In an episode cut short after C of T steps (see `Truncation`) that is T / C times the
    sum up to there. Bounds belong inside, on the losses (`Capped`), since an estimator's
    own cap would see T times a loss.
    """

    def _score(self, before: Scored, system: State, loss: Loss, x: Any) -> Loss:
        del system, x
        return before.num_steps * loss


class Last(Objective):
    """The loss of an episode's last step, by differences; see the module docstring.

    In an episode cut short after C of T steps (see `Truncation`) that is T / C times the
    loss at the cut. Bounds belong inside, on the losses (`Capped`), since an estimator's
    own cap would see the differences.
    """

    def _score(self, before: Scored, system: State, loss: Loss, x: Any) -> Loss:
        del system, x
        return before.num_steps * (loss - before.previous)


@dataclasses.dataclass(frozen=True)
class Capped(Objective):
    """Losses above ``cap``, and non-finite ones, count as ``cap``.

    The same bound as an estimator's ``loss_cap``, where other objectives can build on it;
    an estimator does not count what is bounded here as guarded.
    """

    cap: float

    def _score(self, before: Scored, system: State, loss: Loss, x: Any) -> Loss:
        del before, system, x
        return jnp.where(jnp.isfinite(loss) & (loss <= self.cap), loss, self.cap)


@dataclasses.dataclass(frozen=True)
class Measured(Objective):
    """Any scalar of the state in place of the loss; evolution needs no derivative.

    Attributes:
      measure: maps the wrapped system, its state after a step and the step's input to
        the number to make small. The input is the step's key, or what a `Driven` system
        drew for it. Arrays come from the system, which compiled code takes as an
        argument, rather than from around the function.
    """

    measure: Callable[[Any, State, Any], Float[Array, ""]]

    def _score(self, before: Scored, system: State, loss: Loss, x: Any) -> Loss:
        del before, loss
        return jnp.asarray(self.measure(self.system, system, x), jnp.float32)
