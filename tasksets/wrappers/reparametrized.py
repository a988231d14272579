"""reparametrized: the same function of differently scaled weights.

    params' = params / s at the start,    loss'(params') = loss(s * params')

with s log-uniform in (low, high): one for all weights, one per tensor, or one per
parameter. It changes nothing that a network computes, and everything about which step
sizes suit it. A second derivative is what it says.

The scales are a hash of (seed, tensor, position), computed where they are needed. Kept
as numbers, one per parameter would give every task of a stack another copy of its
parameters; drawn from a key in every loss, they would cost as much as a small loss. The
hash is a handful of integer operations, and all levels take the same path.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt

from tasksets.hashing import mix, unit_interval
from tasksets.task import Batch, Params, Task
from tasksets.wrappers.wrapper import (
    WrappedNumbers,
    WrappedProblem,
    Wrapper,
    is_positive,
    require,
)

Level = Literal["global", "tensor", "parameter"]
LEVELS: tuple[Level, ...] = get_args(Level)


class ReparametrizedNumbers(NamedTuple):
    """What this wrapper adds to the numbers."""

    seed: UInt[Array, "*lanes"]
    log_low: Float[Array, "*lanes"]
    log_high: Float[Array, "*lanes"]


@dataclass(frozen=True)
class ReparametrizedProblem(WrappedProblem):
    """A problem in scaled weights."""

    level: str

    def init(self, numbers: WrappedNumbers, key: PRNGKeyArray) -> Params:
        params = self.inner.init(numbers.inner, key)
        return jax.tree.map(jnp.divide, params, self.scales(numbers.own, params))

    def loss(
        self, numbers: WrappedNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        weights = self._weights(numbers.own, params)
        return self.inner.loss(numbers.inner, weights, batch, key)

    def metrics(
        self, numbers: WrappedNumbers, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, ""]]:
        weights = self._weights(numbers.own, params)
        return self.inner.metrics(numbers.inner, weights, batch, key)

    def scales(self, own: ReparametrizedNumbers, params: Params) -> Params:
        """s: a scalar, or an array in the tensor's shape, for every tensor."""
        leaves, structure = jax.tree.flatten(params)
        scales = []
        for tensor, leaf in enumerate(leaves):
            stream = 0 if self.level == "global" else tensor
            shape = leaf.shape if self.level == "parameter" else ()
            u = _uniform(own.seed, stream, shape)
            scales.append(jnp.exp(own.log_low + u * (own.log_high - own.log_low)))
        return jax.tree.unflatten(structure, scales)

    def _weights(self, own: ReparametrizedNumbers, params: Params) -> Params:
        scale = lambda s, p: s.astype(p.dtype) * p
        return jax.tree.map(scale, self.scales(own, params), params)


def _uniform(
    seed: UInt[Array, ""], stream: int, shape: tuple[int, ...]
) -> Float[Array, "*shape"]:
    """Numbers in [0, 1): a hash of the seed, the stream and the position."""
    start = mix(mix(seed) + jnp.uint32(stream * _GOLDEN % 2**32))
    position = jnp.arange(np.prod(shape, dtype=int), dtype=jnp.uint32).reshape(shape)
    bits = mix(position ^ start)
    return unit_interval(bits)


_GOLDEN = 0x9E3779B9  # 2^32 over the golden ratio: spreads successive streams


@dataclass(frozen=True)
class Reparametrized(Wrapper):
    """Scales the weights."""

    keyword: ClassVar[str] = "reparametrized"
    level: str  # global, tensor, parameter; 2, 2, 1 in VeLO, and 2 for none
    low: float  # of s; VeLO: (1e-3, 1e3), (1e-2, 1e2) or (.1, 10)
    high: float
    seed: int  # of the scales; U{0..2^32 - 1}

    def __post_init__(self) -> None:
        require(self.level in LEVELS, self, f"level is one of {', '.join(LEVELS)}")
        for bound in (self.low, self.high):
            require(is_positive(bound), self, "low and high are positive and finite")
        require(self.low <= self.high, self, "low is at most high")
        require(0 <= self.seed < 2**32, self, "seed is in 0..2^32 - 1")

    def wrap(self, task: Task) -> tuple[ReparametrizedProblem, ReparametrizedNumbers]:
        own = ReparametrizedNumbers(
            # The hash of 0 is 0, and so would be the first scale's place in its range.
            seed=jnp.uint32(self.seed or _GOLDEN),
            log_low=jnp.float32(np.log(self.low)),
            log_high=jnp.float32(np.log(self.high)),
        )
        return ReparametrizedProblem(task.problem, self.level), own
