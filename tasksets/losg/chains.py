"""Objectives in which few parameters have a say at a time.

    dependency chain   f(x) = sum_{i=1..n} x_0^2 + x_i^2 / (x_{i-1}^2 + 1e-6)
    min-max well       f(x) = max_i x_i^2 + 1 / min_i x_i^2 - 2

A parameter of a chain has no reason to go to zero before the one ahead of it is well on
its way; TaskSet's sum, kept here, counts x_0^2 once for each of the n others. The well
has its minimum where the largest and the smallest |x_i| are 1; only these two have a
gradient.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.losg.parts import (
    Batchless,
    Built,
    Point,
    log_scale,
    normal_point,
    typical_loss,
)

_EPSILON = 1e-6


class ChainNumbers(NamedTuple):
    """The two losses; nothing else varies."""

    initial_loss: Float[Array, "*lanes"]  # the median over the start
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class DependencyChain(Batchless):
    """sum_i x_0^2 + x_i^2 / (x_{i-1}^2 + 1e-6)."""

    dims: int  # the n above, one less than there are parameters

    def init(self, numbers: ChainNumbers, key: PRNGKeyArray) -> Point:
        return normal_point(self.dims + 1, key)

    def loss(
        self, numbers: ChainNumbers, params: Point, batch: tuple[()], key: PRNGKeyArray
    ) -> Float[Array, ""]:
        del batch, key
        return _chain(params["x"])

    def progress(
        self, numbers: ChainNumbers, loss: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        return log_scale(loss)


@dataclass(frozen=True)
class MinMaxWell(Batchless):
    """max_i x_i^2 + 1 / min_i x_i^2 - 2."""

    dims: int

    def init(self, numbers: ChainNumbers, key: PRNGKeyArray) -> Point:
        return normal_point(self.dims, key)

    def loss(
        self, numbers: ChainNumbers, params: Point, batch: tuple[()], key: PRNGKeyArray
    ) -> Float[Array, ""]:
        del batch, key
        size = jnp.abs(params["x"])
        # By index. The slope of jnp.min finds its entry by comparing, which fails, and
        # divides by zero, where a compiler computes x twice and not alike.
        return _well(size[jnp.argmin(size)], size[jnp.argmax(size)])

    def progress(
        self, numbers: ChainNumbers, loss: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        return log_scale(loss)


# Both for numpy's arrays as for jax's.


def _chain(x: Any) -> Any:
    """Over the last axis."""
    square = x**2
    links = square[..., 1:] / (square[..., :-1] + _EPSILON)
    return (square[..., :1] + links).sum(axis=-1)


def _well(least: Any, most: Any) -> Any:
    # Differences of squares, because the plain form loses all digits near 0.
    return (most - 1) * (most + 1) + (1 - least) * (1 + least) / least**2


def dependency_chain(dims: int) -> Built:
    """A chain of `dims` + 1 parameters."""
    return DependencyChain(dims), _numbers(typical_loss(_chain, dims + 1))


def min_max_well(dims: int) -> Built:
    """A well of `dims` parameters."""
    loss = lambda starts: _well(abs(starts).min(axis=-1), abs(starts).max(axis=-1))
    return MinMaxWell(dims), _numbers(typical_loss(loss, dims))


def _numbers(initial_loss: Float[Array, ""]) -> ChainNumbers:
    return ChainNumbers(initial_loss, best_loss=jnp.float32(0.0))
