"""Objectives that are sums over a mini-batch of sampled vectors d_b.

    sum of quadratics      f(x) = sum_b |x - d_b|^2 - |d_b|^2
    projected quadratics   f(x) = sum_b |x * d_b|^2
    outward snake          f(x) = sum_b d_b0 / (|x| + 1e-6)
                                  + sum_b sum_{i>=1} (d_bi (x_i - pi cos x_{i-1}))^2

Sums, not means, so that the batch size scales the loss; that of the config, where a
batch is only a part (`+reduced_batch`). The quadratics' samples are
standard normal and come with their negatives: over all samples x = 0 is best, while a
batch can be below 0 elsewhere. The snake is a path out to infinity along which every
coordinate follows the one ahead of it. Its samples are fair bits as in Wichrowska et
al.; with TaskSet's normal ones the first term has no sign, and on half of the seeds
pulls with 1e6 towards the origin where it should push away from it.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.losg.parts import (
    Built,
    Point,
    Sampled,
    log_scale,
    normal_point,
)

_EPSILON = 1e-6


class SampleNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    samples: Float[Array, "*lanes samples dims"]
    initial_loss: Float[Array, "*lanes"]  # the expectation over starts and batches
    best_loss: Float[Array, "*lanes"]  # 0 over all samples


@dataclass(frozen=True)
class SumOfQuadratics(Sampled):
    """sum_b |x - d_b|^2 - |d_b|^2."""

    dims: int

    def init(self, numbers: SampleNumbers, key: PRNGKeyArray) -> Point:
        return normal_point(self.dims, key)

    def loss(
        self,
        numbers: SampleNumbers,
        params: Point,
        batch: Float[Array, "batch dims"],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        x = params["x"]
        # Multiplied out: the difference of two large sums has no digits near 0.
        return _of_whole_batch(self, batch) * jnp.sum(x * (x - 2 * batch))


@dataclass(frozen=True)
class ProjectedQuadratic(Sampled):
    """sum_b |x * d_b|^2."""

    dims: int

    def init(self, numbers: SampleNumbers, key: PRNGKeyArray) -> Point:
        return normal_point(self.dims, key)

    def loss(
        self,
        numbers: SampleNumbers,
        params: Point,
        batch: Float[Array, "batch dims"],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        return _of_whole_batch(self, batch) * jnp.sum((params["x"] * batch) ** 2)

    def progress(
        self, numbers: SampleNumbers, loss: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        return log_scale(loss)


@dataclass(frozen=True)
class OutwardSnake(Sampled):
    """A winding path out to infinity, where the loss is 0."""

    dims: int

    def init(self, numbers: SampleNumbers, key: PRNGKeyArray) -> Point:
        return normal_point(self.dims, key)

    def loss(
        self,
        numbers: SampleNumbers,
        params: Point,
        batch: Float[Array, "batch dims"],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        x = params["x"]
        radius = jnp.sqrt(jnp.sum(x**2))
        off_path = x[1:] - math.pi * jnp.cos(x[:-1])
        outward = jnp.sum(batch[:, 0]) / (radius + _EPSILON)
        total = outward + jnp.sum((off_path * batch[:, 1:]) ** 2)
        return _of_whole_batch(self, batch) * total

    def progress(
        self, numbers: SampleNumbers, loss: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        return log_scale(loss)


def sum_of_quadratics(dims: int, batch_size: int, num_samples: int, seed: int) -> Built:
    """A sum of unit bowls around the samples."""
    samples = _symmetric_samples(dims, num_samples, seed)
    # E |x - d|^2 - |d|^2 = E |x|^2 = dims, for the samples' mean is 0.
    numbers = _numbers(samples, initial_loss=batch_size * dims)
    return SumOfQuadratics(batch_size, dims), numbers


def projected_quadratic(
    dims: int, batch_size: int, num_samples: int, seed: int
) -> Built:
    """A bowl that every sample stretches along the axes."""
    samples = _symmetric_samples(dims, num_samples, seed)
    # E |x * d|^2 = |d|^2 over the start.
    initial_loss = batch_size * np.mean(np.sum(samples**2, axis=1))
    numbers = _numbers(samples, initial_loss)
    return ProjectedQuadratic(batch_size, dims), numbers


def outward_snake(dims: int, batch_size: int, num_samples: int, seed: int) -> Built:
    """A snake of `dims` coordinates."""
    bits = np.random.RandomState(seed).randint(2, size=(num_samples, dims))
    ones = bits.mean(axis=0)
    # E 1/|x| of a normal x, and E (x_i - pi cos x_{i-1})^2 with E cos^2 = (1 + e^-2) / 2.
    inverse_radius = math.exp(math.lgamma((dims - 1) / 2) - math.lgamma(dims / 2))
    inverse_radius /= math.sqrt(2)
    off_path = 1 + math.pi**2 * (1 + math.exp(-2)) / 2
    initial_loss = batch_size * (ones[0] * inverse_radius + ones[1:].sum() * off_path)
    return OutwardSnake(batch_size, dims), _numbers(bits, initial_loss)


def _of_whole_batch(problem: Sampled, batch: Float[Array, "batch dims"]) -> float:
    """What makes of a sum over a batch that over one of the problem's size."""
    return problem.batch_size / len(batch)


def _symmetric_samples(
    dims: int, num_samples: int, seed: int
) -> Float[np.ndarray, "samples dims"]:
    """Standard normal vectors and their negatives; an odd number loses one."""
    half = np.random.RandomState(seed).normal(size=(num_samples // 2, dims))
    return np.concatenate([half, -half])


def _numbers(samples: np.ndarray, initial_loss: float) -> SampleNumbers:
    return SampleNumbers(
        samples=jnp.asarray(samples, jnp.float32),
        initial_loss=jnp.float32(initial_loss),
        best_loss=jnp.float32(0.0),
    )
