"""Perturbations of meta-parameters, and the particles that run under them.

A perturbation is a vector of independent normal numbers. Matrices of millions of numbers
are dearer to draw and to read than anything that is computed with them; of these it may be

    A B^T / sqrt(r),    A: [inputs, r], B: [outputs, r], standard normal

instead (EGGROLL, Sarkar et al. 2025, arXiv 2511.16652): of rank ``r``, its entries have
the variances and the (missing) correlations of independent ones, but are not normal. So
where losses are quadratic, estimates have the mean that they have with independent numbers;
where they are not, the mean is that of another smoothing, off by O(sigma^2) like any
(and what rests on Stein's identity, as `PESAnalyticPair`, is off as well). The sum over pairs
has full rank.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray

from learned_opt.network import LowRank, full
from meta_train.system import System, Theta, shift

Perturbation = Any  # a vector [theta], or `Factored`


class Factored(NamedTuple):
    """A perturbation whose large matrices are of low rank.

    Attributes:
      rest: what belongs to all other leaves, side by side.
      large: a matrix for each large leaf, in their order.
    """

    rest: Float[Array, "rest"]
    large: tuple[LowRank, ...]


class Particles(NamedTuple):
    """Meta-parameters of several particles, made where they are used.

    Attributes:
      theta: maps one of ``offsets`` to the meta-parameters there.
      offsets: ``[particles, ...]``.
    """

    theta: Callable[[Array], Theta]
    offsets: Float[Array, "particles ..."]


class Perturbable(NamedTuple):
    """Meta-parameters, and directions in their space.

    Attributes:
      theta: the meta-parameters.
      system: that runs under them.
      rank: of perturbations of large matrices, >= 1; None: all numbers are independent.
    """

    theta: Theta
    system: System
    rank: int | None = None

    @property
    def size(self) -> int:
        """How many numbers theta has."""
        return sum(self._sizes)

    def noise(self, key: PRNGKeyArray, sigma: float) -> Perturbation:
        """A perturbation, of standard deviation ``sigma`` in every number."""
        large = [shape for shape in self._shapes if _is_large(shape)]
        if self.rank is None or not large:
            return _normal(key, sigma, _stretches(self._sizes))
        rest = [math.prod(shape) for shape in self._shapes if not _is_large(shape)]
        key, *keys = jax.random.split(jax.random.fold_in(key, _FACTORS), 1 + len(large))
        matrices = [
            _low_rank(key, sigma, shape, self.rank)
            for key, shape in zip(keys, large, strict=True)
        ]
        return Factored(_normal(key, sigma, _stretches(rest)), tuple(matrices))

    def none(self) -> Perturbation:
        """The perturbation that is zero everywhere."""
        noise = jax.eval_shape(lambda key: self.noise(key, 1.0), jax.random.key(0))
        return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), noise)

    def vector(self, eps: Perturbation) -> Float[Array, "theta"]:
        """All numbers of a perturbation."""
        if not isinstance(eps, Factored):
            return eps
        return jnp.concatenate([full(part).ravel() for part in self._parts(eps)])

    def along(self, eps: Perturbation, *signs: float) -> Particles:
        """Particles at ``theta + sign * eps``."""
        flat, unravel = ravel_pytree(self.theta)
        if isinstance(eps, Factored):
            offset = jax.tree.unflatten(
                jax.tree.structure(self.theta), self._parts(eps)
            )
        elif max(self._sizes, default=0) > _LARGE:
            offset = unravel(eps)  # leaf by leaf, as a system may keep large ones apart
        else:
            return Particles(unravel, jnp.stack([flat + sign * eps for sign in signs]))
        to_theta = lambda sign: shift(self.system, self.theta, offset, sign)
        return Particles(to_theta, jnp.array(signs))

    def at(self, offsets: Float[Array, "particles theta"]) -> Particles:
        """Particles at ``theta + offset``, which can be differentiated."""
        flat, unravel = ravel_pytree(self.theta)
        return Particles(lambda offset: unravel(flat + offset), offsets)

    def _parts(self, eps: Factored) -> list[Array | LowRank]:
        """What belongs to each leaf of theta."""
        large, begin, parts = iter(eps.large), 0, []
        for shape, size in zip(self._shapes, self._sizes, strict=True):
            if _is_large(shape):
                parts.append(next(large))
            else:
                parts.append(eps.rest[begin : begin + size].reshape(shape))
                begin += size
        return parts

    @property
    def _shapes(self) -> list[tuple[int, ...]]:
        return [jnp.shape(leaf) for leaf in jax.tree.leaves(self.theta)]

    @property
    def _sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self._shapes]


_LARGE = 2**20  # numbers of a leaf that is drawn and shifted by itself
_PIECE = 2**14  # numbers that are drawn at once
_FACTORS, _PIECES = 2**31 - 2, 2**31 - 1  # no windows have these numbers


def _is_large(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and math.prod(shape) > _LARGE


def _low_rank(
    key: PRNGKeyArray, sigma: float, shape: tuple[int, ...], rank: int
) -> LowRank:
    left_key, right_key = jax.random.split(key)
    left = jax.random.normal(left_key, (shape[0], rank))
    right = jax.random.normal(right_key, (shape[1], rank))
    return LowRank(sigma / rank**0.5 * left, right)


def _normal(
    key: PRNGKeyArray, sigma: float, sizes: Sequence[int]
) -> Float[Array, "theta"]:
    """Normal numbers; many of them in pieces, each made within the caches."""
    if sum(sizes) <= _PIECE:
        return sigma * jax.random.normal(key, (sum(sizes),))
    counts = [-(-size // _PIECE) for size in sizes]
    # `split(key)` would give the keys that `fold_in(key, window)` gives the windows.
    keys = jax.random.split(jax.random.fold_in(key, _PIECES), sum(counts))

    def stretch(keys: PRNGKeyArray, size: int) -> Float[Array, "stretch"]:
        def piece(i: Int[Array, ""], drawn: Float[Array, "pieces"]):
            numbers = sigma * jax.random.normal(keys[i], (_PIECE,))
            return jax.lax.dynamic_update_slice(drawn, numbers, (i * _PIECE,))

        # Not lax.map, whose lanes would lie within its pieces and be moved.
        drawn = jnp.zeros(len(keys) * _PIECE)
        return jax.lax.fori_loop(0, len(keys), piece, drawn)[:size]

    groups = jnp.split(keys, np.cumsum(counts)[:-1])
    return jnp.concatenate(list(map(stretch, groups, sizes)))


def _stretches(sizes: Sequence[int]) -> list[int]:
    """Sizes of leaves, large ones by themselves and those between them added up.

    What unravels noise then finds a large leaf as it was drawn, and need not copy it.
    """
    runs = itertools.groupby(sizes, lambda size: size > _LARGE)
    return [
        size for large, run in runs for size in (list(run) if large else [sum(run)])
    ]
