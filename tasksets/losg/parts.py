"""What the problems of this folder share: how they are served and how they are scored.

Most losses here fall to zero and by many orders of magnitude on the way, so that their
scale of progress is log(max(loss, 0) + 1e-8). The initial loss is its expectation over
the start where that has a closed form. Where the tails are heavy, some without a mean
(1 / min x^2), it is a median.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tasksets.data import draw_indices
from tasksets.task import Problem, SplitName

_FLOOR = 1e-8

Point = dict[str, Float[Array, "dims"]]
Built = tuple[Problem, Any]  # a problem and its numbers


class Batchless(Problem):
    """A problem whose loss takes parameters only: its batches are empty."""

    def take(
        self, numbers: Any, data: tuple[()], split: SplitName, drawn: Any
    ) -> tuple[()]:
        del numbers, data, split, drawn
        return ()


@dataclass(frozen=True)
class Sampled(Problem):
    """A problem over `numbers.samples`, a pytree of samples; its four splits are one."""

    batch_size: int

    def draw(
        self, numbers: Any, data: tuple[()], split: SplitName, key: PRNGKeyArray
    ) -> Int[Array, "batch"]:
        del data, split
        num_samples = len(jax.tree.leaves(numbers.samples)[0])
        return draw_indices(num_samples, self.batch_size, key)

    def take(
        self,
        numbers: Any,
        data: tuple[()],
        split: SplitName,
        drawn: Int[Array, "batch"],
    ) -> Any:
        del data, split
        return jax.tree.map(
            lambda leaf: leaf.at[drawn].get(mode="promise_in_bounds"), numbers.samples
        )


def normal_point(dims: int, key: PRNGKeyArray) -> Point:
    """The start of most problems here."""
    return {"x": jax.random.normal(key, (dims,))}


def log_scale(loss: Float[Array, "..."]) -> Float[Array, "..."]:
    """The scale of progress of losses that fall to zero."""
    return jnp.log(jnp.maximum(loss, 0.0) + _FLOOR)


def typical_loss(
    loss: Callable[[Float[np.ndarray, "starts dims"]], Float[np.ndarray, "starts"]],
    dims: int,
) -> Float[Array, ""]:
    """The median of `loss` over 256 standard normal starts, the same on every machine."""
    starts = np.random.RandomState(0).randn(256, dims)
    return jnp.float32(np.median(loss(starts)))
