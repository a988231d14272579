"""Problems around another problem.

    noisy       grad = grad f + stdev N(0, I)
    sparse      grad = grad f, each entry 0 with some probability, anew in every call
    rescaled    g(x) = f(x / scale), started at scale times a start of f
    logged      g(x) = log(max(f(x), 0) + 1e-6) - log(1e-6)

The first two change the gradient and leave the value of the loss alone. The score of
`Task.normalize` is that of the problem inside, also for logged.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jax.lax import stop_gradient
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.around import Around
from tasksets.losg.parts import Built
from tasksets.task import Batch, Params

_EPSILON = 1e-6


class NoisyNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    inner: Any
    stdev: Float[Array, "*lanes"]
    initial_loss: Float[Array, "*lanes"]
    best_loss: Float[Array, "*lanes"]


class SparseNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    inner: Any
    zero_probability: Float[Array, "*lanes"]
    initial_loss: Float[Array, "*lanes"]
    best_loss: Float[Array, "*lanes"]


class RescaledNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    inner: Any
    scale: Float[Array, "*lanes"]
    initial_loss: Float[Array, "*lanes"]
    best_loss: Float[Array, "*lanes"]


class LoggedNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    inner: Any
    initial_loss: Float[Array, "*lanes"]
    best_loss: Float[Array, "*lanes"]


@dataclass(frozen=True)
class Noisy(Around):
    """Adds independent normal noise to the gradient."""

    def loss(
        self, numbers: NoisyNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        inner_key, noise_key = jax.random.split(key)
        x, _ = ravel_pytree(params)
        noise = numbers.stdev * jax.random.normal(noise_key, x.shape)
        tilt = jnp.sum(noise * (x - stop_gradient(x)))  # value 0, slope `noise`
        return super().loss(numbers, params, batch, inner_key) + tilt


@dataclass(frozen=True)
class Sparse(Around):
    """Sets entries of the gradient to zero."""

    def loss(
        self, numbers: SparseNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        inner_key, zero_key = jax.random.split(key)
        x, unravel = ravel_pytree(params)
        zeros = jax.random.bernoulli(zero_key, numbers.zero_probability, x.shape)
        held = unravel(jnp.where(zeros, stop_gradient(x), x))
        return super().loss(numbers, held, batch, inner_key)


@dataclass(frozen=True)
class Rescaled(Around):
    """Parameters in other units."""

    def init(self, numbers: RescaledNumbers, key: PRNGKeyArray) -> Params:
        return jax.tree.map(lambda x: x * numbers.scale, super().init(numbers, key))

    def loss(
        self, numbers: RescaledNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        return super().loss(numbers, _divide(params, numbers.scale), batch, key)

    def metrics(
        self, numbers: RescaledNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, ""]]:
        return super().metrics(numbers, _divide(params, numbers.scale), batch, key)


@dataclass(frozen=True)
class Logged(Around):
    """The logarithm of the loss."""

    def loss(
        self, numbers: LoggedNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        return _log(super().loss(numbers, params, batch, key))

    def progress(
        self, numbers: LoggedNumbers, loss: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        inner_loss = jnp.exp(loss + jnp.log(_EPSILON)) - _EPSILON
        return super().progress(numbers, inner_loss)


def _divide(params: Params, scale: Float[Array, ""]) -> Params:
    return jax.tree.map(lambda x: x / scale, params)


def _log(loss: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.log(jnp.maximum(loss, 0.0) + _EPSILON) - jnp.log(_EPSILON)


def noisy(inner: Built, stdev: float) -> Built:
    """Gradient noise of standard deviation `stdev`; the problem itself where it is 0."""
    problem, numbers = inner
    if stdev == 0:
        return inner
    losses = (numbers.initial_loss, numbers.best_loss)
    return Noisy(problem), NoisyNumbers(numbers, jnp.float32(stdev), *losses)


def sparse(inner: Built, zero_probability: float) -> Built:
    """Gradients with entries that are 0 with `zero_probability`."""
    problem, numbers = inner
    losses = (numbers.initial_loss, numbers.best_loss)
    probability = jnp.float32(zero_probability)
    return Sparse(problem), SparseNumbers(numbers, probability, *losses)


def rescaled(inner: Built, scale: float) -> Built:
    """Parameters that are `scale` times larger."""
    problem, numbers = inner
    losses = (numbers.initial_loss, numbers.best_loss)
    return Rescaled(problem), RescaledNumbers(numbers, jnp.float32(scale), *losses)


def logged(inner: Built) -> Built:
    """The logarithm of the loss, with a floor."""
    problem, numbers = inner
    losses = (_log(numbers.initial_loss), _log(numbers.best_loss))
    return Logged(problem), LoggedNumbers(numbers, *losses)
