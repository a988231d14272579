"""How long an episode lasts, in windows, and when lanes start.

An episode of ``T`` steps is cut into ``T / K`` windows of ``K`` steps; an estimator makes
one estimate per window. Lanes are reset between windows only, so every loss belongs
to exactly one episode and the cost of a reset is paid once a window.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class Truncation:
    """Episodes of log-uniform length in whole windows (constant where min equals max).

    Attributes:
      window: steps per window, K >= 1.
      min_horizon: shortest episode in steps, a multiple of ``window``.
      max_horizon: longest episode in steps, a multiple of ``window``.
      stagger: cut each lane's first episode at a uniformly random window, so that lanes
        spread over inner time instead of moving in lockstep. The gradient of the cut
        episode is unbiased for the cut episode; no burn-in is needed.
    """

    window: int
    min_horizon: int
    max_horizon: int
    stagger: bool = True

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1 step, got {self.window}.")
        if not 1 <= self.min_horizon <= self.max_horizon:
            raise ValueError(
                "horizons must satisfy 1 <= min_horizon <= max_horizon, got "
                f"{self.min_horizon} and {self.max_horizon}."
            )
        for name in ("min_horizon", "max_horizon"):
            steps = getattr(self, name)
            if steps % self.window:
                below = steps // self.window * self.window
                near = f"{below} or {below + self.window}" if below else self.window
                raise ValueError(
                    f"{name}={steps} is not a whole number of windows of {self.window} "
                    f"steps; the nearest that are: {near}."
                )

    @classmethod
    def constant(
        cls, horizon: int, window: int, *, stagger: bool = True
    ) -> "Truncation":
        """Every episode has ``horizon`` steps."""
        return cls(window, horizon, horizon, stagger)

    @classmethod
    def log_uniform(
        cls, min_horizon: int, max_horizon: int, window: int, *, stagger: bool = True
    ) -> "Truncation":
        """The logarithm of the episode's length is uniform between the two bounds."""
        return cls(window, min_horizon, max_horizon, stagger)

    @property
    def max_windows(self) -> int:
        """Windows in the longest episode."""
        return self.max_horizon // self.window

    @property
    def mean_windows(self) -> float:
        """Windows in an episode, on average."""
        return _mean(self.min_horizon // self.window, self.max_windows)

    def draw(self, key: PRNGKeyArray) -> Int[Array, ""]:
        """Length of a new episode, in windows."""
        return _log_uniform(key, self.min_horizon // self.window, self.max_windows)

    def first_cut(
        self, key: PRNGKeyArray, num_windows: Int[Array, ""]
    ) -> Int[Array, ""]:
        """After how many windows a lane's very first episode is reset."""
        return _uniform(key, num_windows) if self.stagger else num_windows


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("min_windows", "max_windows"),
    meta_fields=("window", "stagger"),
)
@dataclasses.dataclass(frozen=True)
class Episodes:
    """A `Truncation` whose bounds are arrays, for estimators that draw from it.

    They are arguments of a compiled program, so one program serves every horizon, and
    horizons may change from one window to the next.

    Attributes:
      window: steps per window, K >= 1.
      min_windows: shortest episode, in windows, at least 1.
      max_windows: longest episode, in windows, at least ``min_windows``.
      stagger: see `Truncation`.
    """

    window: int
    min_windows: Int[ArrayLike, ""]
    max_windows: Int[ArrayLike, ""]
    stagger: bool = True

    @property
    def mean_windows(self) -> float:
        """Windows in an episode, on average; the bounds must be known."""
        return _mean(
            int(np.asarray(self.min_windows)), int(np.asarray(self.max_windows))
        )

    def draw(self, key: PRNGKeyArray) -> Int[Array, ""]:
        """Length of a new episode, in windows."""
        return _log_uniform(key, self.min_windows, self.max_windows)

    def first_cut(
        self, key: PRNGKeyArray, num_windows: Int[Array, ""]
    ) -> Int[Array, ""]:
        """After how many windows a lane's very first episode is reset."""
        return _uniform(key, num_windows) if self.stagger else num_windows


def _log_uniform(
    key: PRNGKeyArray, low: Int[ArrayLike, ""], high: Int[ArrayLike, ""]
) -> Int[Array, ""]:
    """Each whole number n from low to high gets the log-uniform mass of [n, n + 1)."""
    log_length = jax.random.uniform(
        key, (), minval=jnp.log(low), maxval=jnp.log(high + 1)
    )
    return jnp.clip(jnp.exp(log_length).astype(jnp.int32), low, high)


def _mean(low: int, high: int) -> float:
    """Of what `_log_uniform` draws."""
    n = np.arange(low, high + 1)
    return float(n @ np.log((n + 1) / n) / np.log((high + 1) / low))


def _uniform(key: PRNGKeyArray, most: Int[Array, ""]) -> Int[Array, ""]:
    """A whole number from 1 to ``most``."""
    return 1 + (jax.random.uniform(key) * most).astype(jnp.int32)
