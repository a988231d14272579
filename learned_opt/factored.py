"""Second moments of matrices, kept as means of rows and of columns.

Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) stores, instead of a number for every
entry of a matrix of squared gradients, its row means ``r`` and column means ``c``:

    v_ij ~ r_i c_j / mean(r)

A tensor of rank over 2 is a stack of matrices made of its two longest axes. Tensors of
rank 0 and 1 keep the full second moment, as their rows and as their columns.

The constants are those of google/learned_optimization (``common.py``), whose learned
optimizers read these moments. One thing differs: there the ``v^-1/2`` that a tensor of
rank 0 or 1 multiplies its momentum with has no bound. Here it is at most 1e10, which
only gradients under 1e-10 meet; without, its slope overflows.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from learned_opt import moments
from learned_opt.layout import Field, Flat, Layout


class FactoredMoments(NamedTuple):
    """Means of squared gradients, one for each decay, from zero and not debiased."""

    rows: Float[Array, "decays rows"]
    columns: Float[Array, "decays columns"]


class InverseRoots(NamedTuple):
    """The two factors of ``v^-1/2``: multiply by that of the row and of the column."""

    rows: Float[Array, "decays rows"]
    columns: Float[Array, "decays columns"]


def start(decays: int, layout: Layout) -> FactoredMoments:
    """Moments before the first step."""
    vectors = (layout.rows, layout.columns)
    return FactoredMoments(*(jnp.zeros((decays, sum(x.sizes))) for x in vectors))


def update(
    factored: FactoredMoments,
    grads: Field,
    rates: Float[Array, "decays"] | Sequence[float],
    layout: Layout,
) -> FactoredMoments:
    """Moments that include one more gradient; ``rates`` are 1 - decay, in (0, 1]."""
    squares = layout.map(lambda g: jnp.square(g) + 1e-30, grads)
    rate = jnp.asarray(rates, jnp.float32)[:, None]
    return FactoredMoments(
        moments.toward(factored.rows, layout.row_means(squares), rate),
        moments.toward(factored.columns, layout.column_means(squares), rate),
    )


def inverse_roots(
    factored: FactoredMoments, layout: Layout
) -> tuple[InverseRoots, InverseRoots]:
    """What scales gradients, and what scales their running means.

    They differ in tensors of rank 0 and 1 alone, where the second has (almost) no bound.
    """
    rows, columns = factored
    of_rows = layout.rows  # these are matrices again, but of one number per row
    mean = of_rows.spread_rows(of_rows.row_means(rows))
    of_matrix = _bounded_inverse_root(rows / (mean + 1e-9))

    def row_factors(of_vector: Array) -> Array:
        return jnp.where(_in_matrices(layout.rows), of_matrix, of_vector)

    in_matrices = _in_matrices(layout.columns)
    column_factors = jnp.where(in_matrices, _bounded_inverse_root(columns), 1.0)
    return (
        InverseRoots(row_factors(jax.lax.rsqrt(rows + 1e-9)), column_factors),
        InverseRoots(
            row_factors(jax.lax.rsqrt(jnp.maximum(rows, 1e-20))), column_factors
        ),
    )


def _bounded_inverse_root(x: Array) -> Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _in_matrices(vector: Flat) -> np.ndarray:
    """Whether each entry of rows, or of columns, belongs to a tensor of rank over 1."""
    return np.repeat([len(shape) > 1 for shape in vector.shapes], vector.sizes)
