"""Networks of flax.linen as networks of tasks: one draw initialises them.

A module's own `init` draws every parameter for itself, and on CPU each draw is a loop
of its own to compile. Here a module only tells the shapes of its parameters, and their
names tell their laws:

    kernel     N(0, (c / sqrt(fan_in))^2),  a tenth of that in the layer "head"
    embedding  N(0, (c / sqrt(features))^2)
    scale      1
    bias       0

so that one vector of normal draws fills them all. c is `init_scale`; the small head
lets a loss start near that of the uniform distribution.
"""

import math
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from tasksets.variation import VariationNumbers

Params = PyTree

_HEAD_SCALE = 0.1


@dataclass(frozen=True)
class LinenNetwork:
    """A network whose module is called with (inputs, activation numbers)."""

    module: nn.Module

    def init(
        self,
        numbers: VariationNumbers,
        shape: tuple[int, ...],
        num_outputs: int,
        key: PRNGKeyArray,
    ) -> Params:
        del num_outputs  # the module knows it
        inputs = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        return init_linen(self.module, numbers, inputs, key)

    def apply(
        self,
        numbers: VariationNumbers,
        params: Params,
        inputs: Float[Array, "batch *shape"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch outputs"]:
        del key
        return apply_linen(self.module, numbers, params, inputs)


def init_linen(
    module: nn.Module,
    numbers: VariationNumbers,
    inputs: jax.ShapeDtypeStruct,
    key: PRNGKeyArray,
) -> Params:
    """Initial parameters, divided by the reparametrisation's scale."""
    # Without values, since under shard_map those of lanes are of another type than inputs.
    activation = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), numbers.activation
    )
    variables = jax.eval_shape(module.init, jax.random.key(0), inputs, activation)
    shapes, treedef = jax.tree_util.tree_flatten_with_path(variables["params"])
    laws = [_law(tuple(k.key for k in path), leaf.shape) for path, leaf in shapes]
    sizes = [
        leaf.size if std else 0
        for (_, leaf), (_, std) in zip(shapes, laws, strict=True)
    ]
    normal = jax.random.normal(key, (sum(sizes),))
    ends = np.cumsum(sizes)
    leaves = [
        mean + numbers.init_scale * std * normal[end - size : end].reshape(leaf.shape)
        if size
        else jnp.full(leaf.shape, mean)
        for (_, leaf), (mean, std), size, end in zip(
            shapes, laws, sizes, ends, strict=True
        )
    ]
    params = jax.tree.unflatten(treedef, leaves)
    return jax.tree.map(lambda leaf: leaf / numbers.reparam_scale, params)


def apply_linen(
    module: nn.Module, numbers: VariationNumbers, params: Params, inputs: Any
) -> Any:
    """The module's output, with parameters times the reparametrisation's scale."""
    scaled = jax.tree.map(lambda leaf: leaf * numbers.reparam_scale, params)
    return module.apply({"params": scaled}, inputs, numbers.activation)


def _law(path: tuple[str, ...], shape: tuple[int, ...]) -> tuple[float, float]:
    """Mean and standard deviation of the parameter at `path`, for c = 1."""
    name = path[-1]
    if name == "kernel":
        fan_in = math.prod(shape[:-1])
        head = _HEAD_SCALE if "head" in path else 1.0
        return 0.0, head / math.sqrt(fan_in)
    if name == "embedding":
        return 0.0, 1 / math.sqrt(shape[-1])
    if name in ("scale", "bias"):
        return (1.0, 0.0) if name == "scale" else (0.0, 0.0)
    raise ValueError(
        f"no law for the parameter {'/'.join(path)}; name it kernel, embedding, scale "
        "or bias"
    )
