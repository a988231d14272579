"""What the evolution-strategy estimators share: lanes, antithetic pairs, the guard.

A *lane* is one episode seen by an antithetic pair of particles, which run under
``theta + eps`` and ``theta - eps`` with everything else in common: initial state, data,
resets (common random numbers). A subclass says how one lane spends one window; this base
class runs all lanes at once and averages them, over the devices of a mesh if there is one.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from meta_train.estimators.estimator import Estimate, spread
from meta_train.estimators.lanes import (
    COUNT,
    blank,
    mean_over,
    next_episode,
    require_numbers,
)
from meta_train.estimators.perturbations import Particles, Perturbable
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
from meta_train.truncation import Episodes, Truncation


class Lane(NamedTuple):
    """One episode in progress.

    Attributes:
      system: the states of the particles, ``[particles, ...]``.
      window: windows done since the reset.
      num_windows: windows after which the lane is reset.
      horizon: planned length of the episode in steps, as the system is told.
      xi: what the estimator weighs losses with: for `PES` the sum of the perturbations
        of this episode so far, ``[theta]``; for `NRES` a perturbation.
      eps: the perturbation in force, where it outlives a window and ``xi`` does not tell
        it; otherwise empty.
    """

    system: State
    window: Int[Array, ""]
    num_windows: Int[Array, ""]
    horizon: Float[Array, ""]
    xi: Any
    eps: Any = ()


class WindowResult(NamedTuple):
    """What one lane contributes to the estimate.

    Attributes:
      grad: this lane's estimate, ``[theta]``.
      losses: guarded losses of the two members of the pair, ``[2, steps]``.
      guarded: share of losses that the guard replaced.
      noise: what multiplied the loss difference, ``[theta]``.
      draws: of how many independent perturbations ``noise`` is the sum.
    """

    grad: Float[Array, "theta"]
    losses: Float[Array, "2 steps"]
    guarded: Float[Array, ""]
    noise: Float[Array, "theta"]
    draws: Int[Array, ""] | int


@dataclasses.dataclass(frozen=True)
class EvolutionStrategy(AroundSystem, abc.ABC):
    """An estimator made of antithetic pairs.

    Attributes:
      system: what is unrolled.
      truncation: episode lengths in windows; as `Episodes` they are leaves.
      num_pairs: antithetic pairs, one lane each; a multiple of the number of devices.
      sigma: standard deviation of the perturbations, > 0.
      loss_cap: losses above it, and non-finite ones, count as this much, whatever weights
        the system gave them (`InnerTraining.end_emphasis`); so a diverged
        particle pushes theta away from divergence while its partner is finite, and a
        pair that diverged on both sides contributes nothing. The target is then the
        gradient of the capped loss. Without a cap, a step at which either member is
        non-finite is left out of the difference.
      lane_batch: lanes that a device runs at once, >= 1, the others taking turns; for
        systems so large that all lanes together leave the caches. None runs all at once.
      mesh: one-dimensional mesh with the axis "lanes"; None runs on one device.
      noise_rank: of the perturbations of matrices of over a million numbers, >= 1, see
        `perturbations`; None: all numbers are independent.
    """

    system: System
    truncation: Truncation | Episodes
    num_pairs: int
    sigma: float = 0.01
    loss_cap: float | None = None
    lane_batch: int | None = None
    mesh: Mesh | None = None
    noise_rank: int | None = None

    particles = 2  # per lane
    unrolled = 2  # of a lane, through every window
    whole_episodes = False  # whether one estimate is one episode

    def __post_init__(self) -> None:
        require_numbers(
            self,
            num_pairs=COUNT,
            sigma="(0, inf)",
            loss_cap="(-inf, inf)",
            lane_batch=COUNT,
            noise_rank=COUNT,
        )

    def init(self, theta: Theta, key: PRNGKeyArray) -> Lane:
        """Lanes ``[lanes, ...]`` that have not begun; the first estimate begins them.

        Raises:
          TypeError: ``truncation`` is none.
          ValueError: the pairs do not divide over the devices of the mesh.
        """
        if not isinstance(self.truncation, (Truncation, Episodes)):
            raise TypeError(
                "truncation says how long episodes and windows are, as "
                "`Truncation.constant(horizon=100, window=10)` does; got "
                f"{self.truncation!r}."
            )
        around = self._perturbable(theta)
        lane = jax.eval_shape(lambda key: self._fresh(around, key), key)
        return blank(lane, self.num_pairs, self.mesh)

    def estimate(
        self, theta: Theta, state: Lane, key: PRNGKeyArray
    ) -> tuple[Estimate, Lane]:
        """Advance every lane by one window and average their estimates."""

        def window(shared: Any, lane: Lane, key: PRNGKeyArray):
            estimator, theta = shared
            return estimator._lane(estimator._perturbable(theta), lane, key)

        (grad, metrics), state = mean_over(
            window, (self, theta), state, key, batch=self.lane_batch, mesh=self.mesh
        )
        metrics |= spread(grad, metrics.pop("grad_square"), self.num_pairs)
        variance = metrics.pop("delta_square") - jnp.square(metrics.pop("delta"))
        metrics["delta_std"] = jnp.sqrt(jnp.maximum(variance, 0.0))
        _, unravel = ravel_pytree(theta)
        return Estimate(unravel(grad), metrics["loss"], metrics), state

    def inner_steps(self) -> float:
        """Steps of the system in an estimate, those of all particles.

        Where an estimate is an episode, and their lengths differ, the mean over lengths.
        """
        windows = self.truncation.mean_windows if self.whole_episodes else 1
        return self.num_pairs * self.unrolled * self.truncation.window * windows

    @abc.abstractmethod
    def _window(
        self, theta: Perturbable, lane: Lane, key: PRNGKeyArray
    ) -> tuple[WindowResult, Lane]:
        """One lane, one window."""

    def _lane(self, theta: Perturbable, lane: Lane, key: PRNGKeyArray):
        window_key, episode_key, cut_key = jax.random.split(key, 3)
        fresh = self._fresh(theta, episode_key)
        lane, done = next_episode(self.truncation, lane, fresh, cut_key)
        result, lane = self._window(theta, lane, window_key)
        delta = jnp.mean(result.losses[0] - result.losses[1])
        draws = jnp.asarray(result.draws).astype(jnp.float32)
        expected = self.sigma * jnp.sqrt(theta.size * draws)
        metrics = {
            "loss": jnp.mean(result.losses),
            "grad_square": jnp.sum(result.grad**2),
            "delta": delta,
            "delta_square": delta**2,
            "guarded": result.guarded,
            "guarded_pairs": (result.guarded > 0).astype(jnp.float32),
            "noise_ratio": jnp.linalg.norm(result.noise) / expected,
            "inner_step": lane.window * float(self.truncation.window),
            "resets": done.astype(jnp.float32),
        }
        return (result.grad, metrics), lane

    def _perturbable(self, theta: Theta) -> Perturbable:
        return Perturbable(theta, self.system, self.noise_rank)

    def _fresh(self, theta: Perturbable, key: PRNGKeyArray) -> Lane:
        """A lane at the start of an episode; its particles begin alike."""
        system_key, length_key = jax.random.split(key)
        num_windows = self.truncation.draw(length_key)
        state = self.system.init(system_key)
        return Lane(
            system=jax.tree.map(lambda x: jnp.stack([x] * self.particles), state),
            window=jnp.zeros((), jnp.int32),
            num_windows=num_windows,
            horizon=(num_windows * self.truncation.window).astype(jnp.float32),
            xi=jnp.zeros((theta.size,), jnp.float32),
        )

    def _unroll(
        self,
        particles: Particles,
        states: State,
        lane: Lane,
        window: int | Int[Array, ""],
        key: PRNGKeyArray,
    ) -> tuple[State, Float[Array, "particles steps"]]:
        """Run particles ``[particles, ...]`` through one window with common keys."""
        first_particle = jax.tree.map(lambda x: x[0], states)
        window_key = jax.random.fold_in(key, window)
        xs = inputs(self.system, first_particle, window_key, self.truncation.window)

        def particle(offset: Any, state: State):
            theta = particles.theta(offset)
            begun = begin(self.system, theta, state, lane.horizon)
            first = (lane.window + window) == 0
            return unroll(self.system, theta, choose(first, begun, state), xs)

        return jax.vmap(particle)(particles.offsets, states)


def guard(
    losses: Float[Array, "2 steps"], cap: float | None
) -> tuple[Float[Array, "2 steps"], Float[Array, ""]]:
    """Contain divergence per pair, before averaging; see `EvolutionStrategy.loss_cap`.

    Returns:
      The losses to use, all finite, and the share of them that was replaced.
    """
    bad = ~jnp.isfinite(losses)
    if cap is None:
        bad = jnp.broadcast_to(jnp.any(bad, axis=0), losses.shape)
        guarded = jnp.where(bad, 0.0, losses)
    else:
        bad = bad | (losses > cap)
        guarded = jnp.where(bad, cap, losses)
    return guarded, jnp.mean(bad.astype(jnp.float32))
