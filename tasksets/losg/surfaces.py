"""Test functions of two variables: valleys, ridges and many local minima.

As in Surjanovic and Bingham's "Virtual library of simulation experiments", with the
usual starting boxes. Michalewicz is raised by 2 and Styblinski-Tang by 80, so that no
function is negative; the steepness of Michalewicz is 5 where 10 is usual, and it is
lower still outside its box. Ackley and Matyas are written without the cancellations of
their usual forms, so that in float32 too they fall to zero.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.losg.parts import (
    Batchless,
    Built,
    Point,
    log_scale,
    normal_point,
)
from tasksets.names import UnknownNameError

Scalar = Float[Array, ""]


@dataclass(frozen=True)
class Surface:
    """A function of (x, y), the box it is started in, and its least value there."""

    function: Callable[[Scalar, Scalar], Scalar]
    box: tuple[tuple[float, float], tuple[float, float]] | None  # None: N(0, I)
    minimum: float
    median: float  # over starts


def _ackley(x: Scalar, y: Scalar) -> Scalar:
    square = 0.5 * (x**2 + y**2)
    # The slope of the square root is infinite at the minimum; there it is 0 here.
    at_zero = square == 0
    radius = jnp.where(at_zero, 0.0, jnp.sqrt(jnp.where(at_zero, 1.0, square)))
    ripple = jnp.sin(math.pi * x) ** 2 + jnp.sin(math.pi * y) ** 2
    return -20 * jnp.expm1(-0.2 * radius) - math.e * jnp.expm1(-ripple)


def _beale(x: Scalar, y: Scalar) -> Scalar:
    target = zip((1.5, 2.25, 2.625), (y, y**2, y**3), strict=True)
    return sum(((c - x * (1 - power)) ** 2 for c, power in target), jnp.float32(0))


def _branin(x: Scalar, y: Scalar) -> Scalar:
    b, c, t = 5.1 / (4 * math.pi**2), 5 / math.pi, 1 / (8 * math.pi)
    return (y - b * x**2 + c * x - 6) ** 2 + 10 * (1 - t) * jnp.cos(x) + 10


def _log_sum_exp(x: Scalar, y: Scalar) -> Scalar:
    exponents = [x + 3 * y - 0.1, x - 3 * y - 0.1, -x - 0.1, jnp.zeros_like(x)]
    return jax.nn.logsumexp(jnp.stack(exponents), axis=0)


def _matyas(x: Scalar, y: Scalar) -> Scalar:
    return 0.02 * (x**2 + y**2) + 0.24 * (x - y) ** 2


def _michalewicz(x: Scalar, y: Scalar) -> Scalar:
    ridge = lambda i, z: jnp.sin(z) * jnp.sin(i * z**2 / math.pi) ** 10
    return 2 - ridge(1, x) - ridge(2, y)


def _rosenbrock(x: Scalar, y: Scalar) -> Scalar:
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _styblinski_tang(x: Scalar, y: Scalar) -> Scalar:
    quartic = lambda z: 0.5 * (z**4 - 16 * z**2 + 5 * z)
    return quartic(x) + quartic(y) + 80


def _square(low: float, high: float) -> tuple[tuple[float, float], tuple[float, float]]:
    return (low, high), (low, high)


_LOG_SUM_EXP_MINIMUM = math.log(1 + 2 * math.sqrt(2) * math.exp(-0.1))

# By the names that TaskSet's configs have.
SURFACES = {
    "StyblinskiTang": Surface(_styblinski_tang, _square(-5, 5), 1.6676685924571, 58.4),
    "ackley": Surface(_ackley, _square(-32.768, 32.768), 0.0, 20.9),
    "beale": Surface(_beale, _square(-4.5, 4.5), 0.0, 377.0),
    "branin": Surface(_branin, ((-5, 10), (0, 15)), 0.39788735772974, 35.1),
    "logsumexp": Surface(_log_sum_exp, None, _LOG_SUM_EXP_MINIMUM, 2.37),
    "matyas": Surface(_matyas, _square(-10, 10), 0.0, 9.29),
    "michalewicz": Surface(_michalewicz, _square(0, math.pi), 0.19337711465280, 1.892),
    "rosenbrock": Surface(_rosenbrock, _square(-5, 10), 0.0, 14200.0),
}


class SurfaceNumbers(NamedTuple):
    """The two losses; nothing else varies."""

    initial_loss: Float[Array, "*lanes"]  # the median over the start
    best_loss: Float[Array, "*lanes"]  # the least value


@dataclass(frozen=True)
class SurfaceProblem(Batchless):
    """One of `SURFACES`."""

    name: str

    def init(self, numbers: SurfaceNumbers, key: PRNGKeyArray) -> Point:
        box = SURFACES[self.name].box
        if box is None:
            return normal_point(2, key)
        low, high = jnp.array(box).T
        return {"x": jax.random.uniform(key, (2,), minval=low, maxval=high)}

    def loss(
        self,
        numbers: SurfaceNumbers,
        params: Point,
        batch: tuple[()],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del batch, key
        x, y = params["x"]
        return SURFACES[self.name].function(x, y)

    def progress(
        self, numbers: SurfaceNumbers, loss: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        """Logarithmic where the least value is zero; elsewhere float32 hides decades."""
        return log_scale(loss) if SURFACES[self.name].minimum == 0 else loss


def surface(name: str) -> Built:
    """The test function called `name`."""
    if name not in SURFACES:
        raise UnknownNameError("test function", name, SURFACES)
    best_loss = jnp.float32(SURFACES[name].minimum)
    initial_loss = jnp.float32(SURFACES[name].median)
    return SurfaceProblem(name), SurfaceNumbers(initial_loss, best_loss)
