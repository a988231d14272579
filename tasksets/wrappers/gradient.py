"""Another gradient for the same loss: what the wrappers of gradients share.

    loss(params) as it is,    d loss / d params := g

The rule is attached with `jax.custom_jvp` as the tangent <g, d params>, which serves
forward and reverse mode, and is linear: the gradient of c * loss is c * g. A loss that
is not differentiated costs what it cost before. In everything but the parameters
(numbers, batch) the loss counts as a constant. A second derivative is the derivative of
g as a function of the parameters at fixed chance; each wrapper says what that is.
"""

import abc
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.task import Batch, Params
from tasksets.wrappers.wrapper import WrappedNumbers, WrappedProblem

Value = Float[Array, ""]


class GradientProblem(WrappedProblem):
    """A problem whose gradient is not that of its loss."""

    @abc.abstractmethod
    def value_and_gradient(
        self, numbers: WrappedNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Value, Params]:
        """The loss, and g in place of its gradient."""

    def loss(
        self, numbers: WrappedNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> Value:
        return _loss(self, numbers, params, batch, key)


class ModifiedGradientProblem(GradientProblem):
    """A problem whose gradient is computed and then changed."""

    @abc.abstractmethod
    def modify(self, own: Any, gradient: Params, key: PRNGKeyArray) -> Params:
        """g from the gradient, the wrapper's own numbers and its own key."""

    def value_and_gradient(
        self, numbers: WrappedNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Value, Params]:
        inner_loss = lambda params: self.inner.loss(numbers.inner, params, batch, key)
        loss, gradient = jax.value_and_grad(inner_loss)(params)
        return loss, self.modify(numbers.own, gradient, self.own_key(key))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _loss(
    problem: GradientProblem,
    numbers: WrappedNumbers,
    params: Params,
    batch: Batch,
    key: PRNGKeyArray,
) -> Value:
    return problem.inner.loss(numbers.inner, params, batch, key)


@_loss.defjvp
def _loss_jvp(
    problem: GradientProblem, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Value, Value]:
    numbers, params, batch, key = primals
    _, params_tangent, _, _ = tangents
    loss, gradient = problem.value_and_gradient(numbers, params, batch, key)
    return loss, inner_product(gradient, params_tangent).astype(loss.dtype)


def inner_product(first: Params, second: Params) -> Value:
    """Sum of products in float32; no matrix product, whose precision is a setting."""
    products = jax.tree.map(
        lambda a, b: jnp.sum(a.astype(jnp.float32) * b.astype(jnp.float32)),
        first,
        second,
    )
    return jnp.asarray(sum(jax.tree.leaves(products)), jnp.float32)


def direction_and_norm(gradient: Params) -> tuple[Params, Value]:
    """g / |g| in float32 and |g| over all tensors; the direction of 0 is 0.

    Squares are taken relative to the largest entry, so that they neither overflow nor
    vanish for any finite gradient.
    """
    entries = [jnp.max(jnp.abs(g), initial=0.0) for g in jax.tree.leaves(gradient)]
    largest = jnp.max(jnp.stack(entries)).astype(jnp.float32)
    divisor = jnp.where(largest == 0, 1.0, largest)
    relative = jax.tree.map(lambda g: g.astype(jnp.float32) / divisor, gradient)
    square = inner_product(relative, relative)
    # The root of 1 where the gradient is 0, because the root has no derivative at 0.
    norm = jnp.sqrt(jnp.where(largest == 0, 1.0, square))
    return jax.tree.map(lambda r: r / norm, relative), largest * norm


def normal_like(tree: Params, key: PRNGKeyArray) -> Params:
    """Standard normal float32 draws in the shape of `tree`."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    draws = [
        jax.random.normal(leaf_key, leaf.shape)
        for leaf_key, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, draws)
