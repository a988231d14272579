"""What the gradient-based estimators share: lanes of unperturbed episodes, the guard.

A *lane* is one episode run under theta itself. A subclass says how one lane spends one
window and what derivative it takes from it: backwards through the window or the episode
(`TBPTT`, `BPTT`), or forwards, carrying how the state depends on theta (`RTRL`, `UORO`,
`DODGE`). This base class runs all lanes at once and averages them, over the devices of a
mesh if there is one. Episodes, resets and inputs are drawn as the evolution strategies
draw them: the same key gives both the same episodes.

The target is the gradient of the loss itself, not of a smoothed one, so the losses and
states of the system must be differentiable in theta; leaves of a state that are no
floating-point numbers (counters, random keys) are carried along as constants.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from meta_train.estimators.estimator import Estimate, spread
from meta_train.estimators.evolution import guard
from meta_train.estimators.lanes import (
    COUNT,
    blank,
    mean_over,
    next_episode,
    require_numbers,
)
from meta_train.system import (
    AroundSystem,
    State,
    System,
    Theta,
    begin,
    choose,
    inputs,
    unroll,
)
from meta_train.truncation import Truncation


class Episode(NamedTuple):
    """One episode in progress.

    Attributes:
      system: the state of the system.
      window: windows done since the reset.
      num_windows: windows after which the lane is reset.
      horizon: planned length of the episode in steps, as the system is told.
      carried: how ``system`` depends on theta, as far as the estimator knows.
    """

    system: State
    window: Int[Array, ""]
    num_windows: Int[Array, ""]
    horizon: Float[Array, ""]
    carried: Any = ()


class Point(NamedTuple):
    """Meta-parameters as a vector, with the way back to their tree."""

    flat: Float[Array, "theta"]
    unravel: Any


class Slope(NamedTuple):
    """What one lane contributes: its gradient of the mean guarded loss, the guarded
    losses, and the share of them that the guard replaced."""

    grad: Float[Array, "theta"]
    losses: Float[Array, "steps"]
    guarded: Float[Array, ""]


@dataclasses.dataclass(frozen=True)
class AnalyticGradient(AroundSystem, abc.ABC):
    """An estimator that differentiates the system.

    Attributes:
      system: what is unrolled.
      truncation: episode lengths in windows.
      num_lanes: episodes at once; a multiple of the number of devices.
      loss_cap: losses above it, and non-finite ones, count as this much and have no
        gradient: the target is the gradient of the capped loss. Without a cap a
        non-finite loss counts as 0. A lane whose gradient is not finite all the same
        contributes nothing, and its window counts as guarded.
      lane_batch: lanes that a device runs at once, >= 1, the others taking turns; None for
        all.
      mesh: one-dimensional mesh with the axis "lanes"; None runs on one device.
    """

    system: System
    truncation: Truncation
    num_lanes: int
    loss_cap: float | None = None
    lane_batch: int | None = None
    mesh: Mesh | None = None

    whole_episodes = False  # whether one estimate is one episode

    def __post_init__(self) -> None:
        require_numbers(self, num_lanes=COUNT, loss_cap="(-inf, inf)", lane_batch=COUNT)

    def init(self, theta: Theta, key: PRNGKeyArray) -> Episode:
        """Lanes ``[lanes, ...]`` that have not begun; the first estimate begins them.

        Raises:
          ValueError: the lanes do not divide over the devices of the mesh.
        """
        flat, _ = ravel_pytree(theta)
        episode = jax.eval_shape(lambda key: self._fresh(flat, key), key)
        return blank(episode, self.num_lanes, self.mesh)

    def estimate(
        self, theta: Theta, state: Episode, key: PRNGKeyArray
    ) -> tuple[Estimate, Episode]:
        """Advance every lane by one window and average their gradients."""
        flat, unravel = ravel_pytree(theta)

        def window(shared: Any, episode: Episode, key: PRNGKeyArray):
            estimator, flat = shared
            return estimator._lane(Point(flat, unravel), episode, key)

        (grad, metrics), state = mean_over(
            window, (self, flat), state, key, batch=self.lane_batch, mesh=self.mesh
        )
        metrics |= spread(grad, metrics.pop("grad_square"), self.num_lanes)
        return Estimate(unravel(grad), metrics["loss"], metrics), state

    @abc.abstractmethod
    def _window(
        self, theta: Point, episode: Episode, key: PRNGKeyArray
    ) -> tuple[Slope, Episode]:
        """One lane, one window."""

    def _carried(
        self, flat: Float[Array, "theta"], state: State, key: PRNGKeyArray
    ) -> Any:
        """What is known of the dependence of a state made by ``init`` on theta."""
        del flat, state, key
        return ()

    def _lane(self, theta: Point, episode: Episode, key: PRNGKeyArray):
        window_key, episode_key, cut_key = jax.random.split(key, 3)
        fresh = self._fresh(theta.flat, episode_key)
        episode, done = next_episode(self.truncation, episode, fresh, cut_key)
        (grad, losses, guarded), episode = self._window(theta, episode, window_key)
        finite = jnp.all(jnp.isfinite(grad))
        grad = jnp.where(finite, grad, 0.0)
        metrics = {
            "loss": jnp.mean(losses),
            "grad_square": jnp.sum(grad**2),
            "guarded": jnp.where(finite, guarded, 1.0),
            "inner_step": episode.window * float(self.truncation.window),
            "resets": done.astype(jnp.float32),
        }
        return (grad, metrics), episode

    def _fresh(self, flat: Float[Array, "theta"], key: PRNGKeyArray) -> Episode:
        """A lane at the start of an episode."""
        system_key, length_key = jax.random.split(key)
        carried_key = jax.random.fold_in(key, 2)
        num_windows = self.truncation.draw(length_key)
        state = self.system.init(system_key)
        return Episode(
            system=state,
            window=jnp.zeros((), jnp.int32),
            num_windows=num_windows,
            horizon=(num_windows * self.truncation.window).astype(jnp.float32),
            carried=self._carried(flat, state, carried_key),
        )

    def _inputs(
        self, state: State, key: PRNGKeyArray, window: int | Int[Array, ""] = 0
    ) -> Any:
        """The inputs of a window, which do not depend on theta."""
        state = jax.lax.stop_gradient(state)
        key = jax.random.fold_in(key, window)
        return inputs(self.system, state, key, self.truncation.window)

    def _unroll(
        self,
        theta: Theta,
        state: State,
        xs: Any,
        horizon: Float[Array, ""],
        first: Bool[Array, ""],
    ) -> tuple[State, Float[Array, "steps"], Float[Array, ""]]:
        """Run one window: final state, guarded losses, share of them replaced."""
        begun = begin(self.system, theta, state, horizon)
        state = choose(first, begun, state)
        state, losses = unroll(self.system, theta, state, xs)
        guarded, share = guard(losses[None], self.loss_cap)
        return state, guarded[0], share

    def _along(
        self,
        theta: Point,
        episode: Episode,
        xs: Any,
        direction: Float[Array, "theta"],
        tangent: State,
    ) -> tuple[tuple[State, Array, Array], Float[Array, ""], State]:
        """Run one window, and differentiate it along one direction of theta.

        ``tangent`` is the derivative of ``smooth(episode.system)`` in that direction.

        Returns:
          What `_unroll` returns, and the derivatives of the mean loss and of the smooth
          part of the final state.
        """
        constant = rough(episode.system)
        first = episode.window == 0

        def window(flat: Float[Array, "theta"], state: State):
            state = merge(state, constant)
            state, losses, guarded = self._unroll(
                theta.unravel(flat), state, xs, episode.horizon, first
            )
            return (smooth(state), jnp.mean(losses)), (rough(state), losses, guarded)

        (state, _), (tangent, slope), (rest, losses, guarded) = jax.jvp(
            window,
            (theta.flat, smooth(episode.system)),
            (direction, tangent),
            has_aux=True,
        )
        return (merge(state, rest), losses, guarded), slope, tangent


def smooth(state: State) -> State:
    """The floating-point leaves of a state, None in place of the others."""
    return jax.tree.map(lambda x: x if _is_smooth(x) else None, state)


def rough(state: State) -> State:
    """The leaves of a state that have no derivative, None in place of the others."""
    return jax.tree.map(lambda x: None if _is_smooth(x) else x, state)


def merge(smooth: State, rough: State) -> State:
    """The state that was taken apart by `smooth` and `rough`."""
    return jax.tree.map(
        lambda s, r: r if s is None else s, smooth, rough, is_leaf=lambda x: x is None
    )


def _is_smooth(x: Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.inexact)
