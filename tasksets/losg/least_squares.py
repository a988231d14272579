"""Objectives of a residual W x - y: least squares, bowls and other norms.

    least squares   f(x) = 1/2 |W x - y|^2
    bowl            the same with W = diag(sqrt(condition), 1) R(angle), y = 0, in 2-D
    norm            f(x) = (sum_i (|W x - y|_i + 1e-6)^p)^(1/p)

W and y have independent standard normal entries, and x starts from them too. A seed
draws the W and y that it draws in TaskSet.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
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


class LeastSquaresNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    matrix: Float[Array, "*lanes dims dims"]  # W
    target: Float[Array, "*lanes dims"]  # y
    initial_loss: Float[Array, "*lanes"]  # the expectation over the start
    best_loss: Float[Array, "*lanes"]  # 0, at W x = y


@dataclass(frozen=True)
class LeastSquares(Batchless):
    """1/2 |W x - y|^2."""

    dims: int

    def init(self, numbers: LeastSquaresNumbers, key: PRNGKeyArray) -> Point:
        return normal_point(self.dims, key)

    def loss(
        self,
        numbers: LeastSquaresNumbers,
        params: Point,
        batch: tuple[()],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del batch, key
        residual = numbers.matrix @ params["x"] - numbers.target
        return 0.5 * jnp.sum(residual**2)

    def progress(
        self, numbers: LeastSquaresNumbers, loss: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        return log_scale(loss)


class NormNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    matrix: Float[Array, "*lanes dims dims"]  # W
    target: Float[Array, "*lanes dims"]  # y
    power: Float[Array, "*lanes"]  # p
    initial_loss: Float[Array, "*lanes"]  # the median over the start
    best_loss: Float[Array, "*lanes"]  # 1e-6 dims^(1/p), at W x = y


@dataclass(frozen=True)
class Norm(Batchless):
    """(sum_i (|W x - y|_i + 1e-6)^p)^(1/p), a norm for p >= 1."""

    dims: int

    def init(self, numbers: NormNumbers, key: PRNGKeyArray) -> Point:
        return normal_point(self.dims, key)

    def loss(
        self, numbers: NormNumbers, params: Point, batch: tuple[()], key: PRNGKeyArray
    ) -> Float[Array, ""]:
        del batch, key
        residual = numbers.matrix @ params["x"] - numbers.target
        return _norm(residual, numbers.power)

    def progress(
        self, numbers: NormNumbers, loss: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """log(loss): the best loss is above zero, and 1e24 for small p."""
        return jnp.log(jnp.maximum(loss, numbers.best_loss))


def _norm(residual: Any, power: Any) -> Any:
    """Over the last axis, of numpy's arrays as of jax's."""
    return ((abs(residual) + _EPSILON) ** power).sum(axis=-1) ** (1 / power)


def least_squares(
    matrix: Float[np.ndarray, "dims dims"], target: Float[np.ndarray, "dims"]
) -> Built:
    """1/2 |W x - y|^2 for a given W and y."""
    # E |W x - y|^2 = |W|_F^2 + |y|^2 for x of independent standard entries.
    initial_loss = 0.5 * (np.sum(matrix**2) + np.sum(target**2))
    return LeastSquares(len(target)), LeastSquaresNumbers(
        matrix=jnp.asarray(matrix, jnp.float32),
        target=jnp.asarray(target, jnp.float32),
        initial_loss=jnp.float32(initial_loss),
        best_loss=jnp.float32(0.0),
    )


def bowl(condition: float, angle: float) -> Built:
    """A bowl of two variables whose Hessian has eigenvalues `condition` and 1."""
    cos, sin, root = math.cos(angle), math.sin(angle), math.sqrt(condition)
    matrix = np.array([[root * cos, -root * sin], [sin, cos]])
    return least_squares(matrix, np.zeros(2))


def norm(dims: int, power: float, seed: int) -> Built:
    """The p-norm of a random residual."""
    matrix, target = normal_system(dims, seed)
    loss = lambda starts: _norm(starts @ matrix.T - target, power)
    return Norm(dims), NormNumbers(
        matrix=jnp.asarray(matrix, jnp.float32),
        target=jnp.asarray(target, jnp.float32),
        power=jnp.float32(power),
        initial_loss=typical_loss(loss, dims),
        best_loss=jnp.float32(_EPSILON * dims ** (1 / power)),
    )


def normal_system(
    dims: int, seed: int
) -> tuple[Float[np.ndarray, "dims dims"], Float[np.ndarray, "dims"]]:
    """W and y of independent standard normal entries."""
    rng = np.random.RandomState(seed)
    return rng.randn(dims, dims), rng.randn(dims)
