"""What the optimizers of the VeLO family know about a parameter.

Metz et al. 2022 (VeLO, arXiv 2211.09760) give every parameter 30 numbers made of its
gradient ``g``, value ``p``, momenta ``m`` (decays .9, .99, .999), second moment ``v``
(.999) and Adafactor's row and column moments ``r``, ``c`` (.9, .99, .999; `factored`).
Networks see them divided by their root mean square over the tensor, see
`normalized_network`. Their order, here and in the code of google/learned_optimization:

    g, clip(g, -.1, .1)*, p, m (3), v, m / sqrt(v) (3), 1 / sqrt(v), g / sqrt(rc) (3),
    g / sqrt(v)*, r (3), c (3), 1 / sqrt(r) (3), 1 / sqrt(c) (3), m / sqrt(rc) (3)

Without the two that have a star, these are the 28 of the earlier `adafactor_mlp`. Tensors of
rank 0 and 1 have one more difference. What their ``m`` is multiplied with at the end is
``(v + 1e-6)^-1/2`` among the 28; among the 30 it has no bound there, and is at most 1e10
here, which only gradients under 1e-10 meet: without, its slope overflows.

Features of rows alone and of columns alone are never computed for every parameter: they
stay vectors, one entry per row or column. The others are elementwise functions.

    step, slots, factored = adafactor_features.start(params, layout)
    slots, factored = adafactor_features.accumulate(slots, factored, grads, rates, layout)
    features = adafactor_features.velo_features(grads, params, slots, factored, layout)
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from learned_opt import factored as factored_moments
from learned_opt import moments
from learned_opt.factored import FactoredMoments, inverse_roots
from learned_opt.layout import Field, Layout

NUM_FEATURES = 28
NUM_VELO_FEATURES = 30


class Rates(NamedTuple):
    """1 - decay of every average, each in (0, 1]."""

    m: Float[Array, "3"] | Sequence[float] = (0.1, 0.01, 0.001)
    v: Float[Array, ""] | float = 0.001
    factored: Float[Array, "3"] | Sequence[float] = (0.1, 0.01, 0.001)


class AdafactorSlots(NamedTuple):
    m: tuple[Field, ...]  # means of gradients, one per decay
    v: Field  # mean of squared gradients


class AdafactorState(NamedTuple):
    """All that a rule remembers whose network sees these features."""

    step: Int[Array, ""]  # updates made so far
    slots: AdafactorSlots
    factored: FactoredMoments


class Features(NamedTuple):
    """The features of all parameters, before normalisation."""

    own: Callable[..., list[Array]]  # of ``fields``, elementwise
    fields: tuple[Field, ...]
    rows: Field  # [6, ...] of ``layout.rows``: r, 1 / sqrt(r)
    columns: Field  # [6, ...] of ``layout.columns``: c, 1 / sqrt(c)
    first_row: int  # number of features before the first r

    @property
    def own_places(self) -> np.ndarray:
        """Which of all features those of ``own`` are; likewise below."""
        n = self.first_row
        return np.array([*range(n), *range(n + 12, n + 15)])

    @property
    def row_places(self) -> np.ndarray:
        return self.first_row + np.array([0, 1, 2, 6, 7, 8])

    @property
    def column_places(self) -> np.ndarray:
        return self.row_places + 3


class Tensor(NamedTuple):
    """What is known about one tensor, for rules that look at its axes.

    All arrays have the tensor's shape, or axes of length 1 to be broadcast; those of
    rows and columns have a leading axis of three decays.
    """

    g: Array
    p: Array
    v: Array
    m: tuple[Array, ...]
    rows: Array
    columns: Array
    row_root: Array  # see `factored.inverse_roots`
    row_root_of_means: Array
    column_root: Array

    @property
    def fields(self) -> tuple[Array, ...]:
        """What the features are made of that are not of lines alone."""
        roots = (self.row_root, self.row_root_of_means, self.column_root)
        return (self.g, self.p, self.v, *roots, *self.m)


def start(params: Field, layout: Layout) -> AdafactorState:
    """Averages before the first step."""
    zeros = moments.zeros(params, layout)
    slots = AdafactorSlots((zeros,) * 3, zeros)
    factored = factored_moments.start(3, params, layout)
    return AdafactorState(jnp.zeros((), jnp.int32), slots, factored)


def accumulate(
    slots: AdafactorSlots,
    factored: FactoredMoments,
    grads: Field,
    rates: Rates,
    layout: Layout,
) -> tuple[AdafactorSlots, FactoredMoments]:
    """Averages that include one more gradient."""

    def update(g: Array, v: Array, *m: Array) -> AdafactorSlots:
        pairs = zip(m, rates.m, strict=True)
        return AdafactorSlots(
            tuple(moments.toward(average, g, rate) for average, rate in pairs),
            moments.toward(v, g * g, rates.v),
        )

    slots = layout.map(update, grads, slots.v, *slots.m)
    factored = factored_moments.update(factored, grads, rates.factored, layout)
    return slots, factored


def features(
    grads: Field,
    params: Field,
    slots: AdafactorSlots,
    factored: FactoredMoments,
    layout: Layout,
) -> Features:
    """The 28 features, of averages that include the gradient."""
    roots = _roots(factored, layout, lambda v: jax.lax.rsqrt(v + 1e-6))
    fields = (grads, params, slots.v, *roots, *slots.m)
    return Features(_own, fields, *_lines(factored, layout), NUM_FEATURES - 15)


def velo_features(
    grads: Field,
    params: Field,
    slots: AdafactorSlots,
    factored: FactoredMoments,
    layout: Layout,
) -> Features:
    """The 30 features, of averages that include the gradient."""
    roots = _roots(factored, layout, velo_root)
    fields = (grads, params, slots.v, *roots, *slots.m)
    lines = _lines(factored, layout)
    return Features(own_velo_features, fields, *lines, NUM_VELO_FEATURES - 15)


def by_tensor(
    grads: Field,
    params: Field,
    slots: AdafactorSlots,
    factored: FactoredMoments,
    layout: Layout,
) -> list[Tensor]:
    """The parts of the 30 features, tensor by tensor."""
    fields = [layout.tensors(x) for x in (grads, params, slots.v, *slots.m)]
    of_grads, of_means = inverse_roots(factored, layout, velo_root)
    rows = (factored.rows, of_grads.rows, of_means.rows)
    columns = (factored.columns, of_grads.columns)
    lines = [layout.rows.tensors(x) for x in rows]
    lines += [layout.columns.tensors(x) for x in columns]
    return [
        Tensor(g, p, v, tuple(m), r, c, r_root, r_root_of_means, c_root)
        for g, p, v, *m, r, r_root, r_root_of_means, c, c_root in zip(
            *fields, *lines, strict=True
        )
    ]


def velo_features_of_lines(tensor: Tensor) -> list[Array]:
    """The 12 of the 30 features that are of rows or of columns alone."""
    r, r_root = jnp.split(_with_inverse_root(tensor.rows), 2)
    c, c_root = jnp.split(_with_inverse_root(tensor.columns), 2)
    return [*r, *c, *r_root, *c_root]


def velo_step(outputs: Sequence[Array], scale: Array) -> Array:
    """What VeLO's networks answer with the 30: a direction, a magnitude, and nothing."""
    direction, magnitude, _ = outputs
    return -0.001 * scale * direction * jnp.exp(0.001 * magnitude)


def velo_root(v: Array) -> Array:
    """What the 30 multiply ``m`` with in tensors of rank 0 and 1."""
    return jax.lax.rsqrt(jnp.maximum(v, 1e-20))


def _roots(
    factored: FactoredMoments, layout: Layout, root_of_vectors: Callable[[Array], Array]
) -> tuple[Field, Field, Field]:
    of_grads, of_means = inverse_roots(factored, layout, root_of_vectors)
    return (
        layout.spread_rows(of_grads.rows),
        layout.spread_rows(of_means.rows),
        layout.spread_columns(of_grads.columns),
    )


def _lines(factored: FactoredMoments, layout: Layout) -> tuple[Field, Field]:
    return (
        layout.rows.map(_with_inverse_root, factored.rows),
        layout.columns.map(_with_inverse_root, factored.columns),
    )


def _with_inverse_root(x: Float[Array, "3 ..."]) -> Float[Array, "6 ..."]:
    return jnp.concatenate([x, jax.lax.rsqrt(x + 1e-8)])


def _own(
    g: Array,
    p: Array,
    v: Array,
    row_root: Float[Array, "3 ..."],
    row_root_of_means: Float[Array, "3 ..."],
    column_root: Float[Array, "3 ..."],
    *m: Array,
) -> list[Array]:
    """Those of the 28 features that are not of rows or columns alone."""
    inverse = jax.lax.rsqrt(v + 1e-6)
    of_grads = [g * row_root[i] * column_root[i] for i in range(3)]
    of_means = [m[i] * row_root_of_means[i] * column_root[i] for i in range(3)]
    return [g, p, *m, v, *(x * inverse for x in m), inverse, *of_grads, *of_means]


def own_velo_features(g: Array, p: Array, v: Array, *rest: Array) -> list[Array]:
    """The 18 of the 30 features that are not of rows or columns alone.

    Those of lines come before the last three. Arguments are those of `Tensor.fields`.
    """
    g, *own = _own(g, p, v, *rest)
    clipped, scaled = jnp.clip(g, -0.1, 0.1), g * jax.lax.rsqrt(v + 1e-6)
    return [g, clipped, *own[:-3], scaled, *own[-3:]]
