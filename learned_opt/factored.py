"""Second moments of matrices, kept as means of rows and of columns.

Adafactor (Shazeer & Stern 2018, arXiv 1804.04235) stores, instead of a number for every
entry of a matrix of squared gradients, its row means ``r`` and column means ``c``:

    v_ij ~ r_i c_j / mean(r)

A tensor of rank over 2 is a stack of matrices made of its two longest axes. Tensors of
rank 0 and 1 keep the full second moment, as their rows and as their columns.

The constants are those of google/learned_optimization (``common.py``), whose learned
optimizers read these moments.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from learned_opt import moments
from learned_opt.layout import Field, Layout


class FactoredMoments(NamedTuple):
    """Means of squared gradients, one for each decay, from zero and not debiased."""

    rows: Field  # [decays, ...] of ``layout.rows``
    columns: Field  # [decays, ...] of ``layout.columns``


class InverseRoots(NamedTuple):
    """The two factors of ``v^-1/2``: multiply by that of the row and of the column."""

    rows: Field  # as of the moments
    columns: Field


def start(decays: int, params: Field, layout: Layout) -> FactoredMoments:
    """Moments before the first step; they lie where the parameters lie."""
    nothing = moments.zeros(params, layout)
    repeated = lambda mean: jnp.stack([mean] * decays)
    return FactoredMoments(
        layout.rows.map(repeated, layout.row_means(nothing)),
        layout.columns.map(repeated, layout.column_means(nothing)),
    )


def update(
    factored: FactoredMoments,
    grads: Field,
    rates: Float[Array, "decays"] | Sequence[float],
    layout: Layout,
) -> FactoredMoments:
    """Moments that include one more gradient; ``rates`` are 1 - decay, in (0, 1]."""
    squares = layout.map(lambda g: jnp.square(g) + 1e-30, grads)

    def update(averages: Float[Array, "decays ..."], mean: Array) -> Array:
        rate = jnp.asarray(rates, jnp.float32).reshape(-1, *(1,) * mean.ndim)
        return moments.toward(averages, mean, rate)

    return FactoredMoments(
        layout.rows.map(update, factored.rows, layout.row_means(squares)),
        layout.columns.map(update, factored.columns, layout.column_means(squares)),
    )


def inverse_roots(
    factored: FactoredMoments, layout: Layout, root_of_vectors: Callable[[Array], Array]
) -> tuple[InverseRoots, InverseRoots]:
    """What scales gradients, and what scales their running means.

    They differ in tensors of rank 0 and 1 alone, where the second is ``root_of_vectors``
    of the moments.
    """
    rows, columns = factored
    of_rows = layout.rows  # these are matrices again, but of one number per row
    mean = of_rows.spread_rows(of_rows.row_means(rows))

    def of_grads(of_matrix: Array, row: Array, mean: Array) -> Array:
        bounded = _bounded_inverse_root(row / (mean + 1e-9))
        return jnp.where(of_matrix, bounded, jax.lax.rsqrt(row + 1e-9))

    def of_means(of_matrix: Array, row: Array, root: Array) -> Array:
        return jnp.where(of_matrix, root, root_of_vectors(row))

    def of_columns(of_matrix: Array, column: Array) -> Array:
        return jnp.where(of_matrix, _bounded_inverse_root(column), 1.0)

    in_matrices = _in_matrices(of_rows)
    roots = of_rows.map(of_grads, in_matrices, rows, mean)
    roots_of_means = of_rows.map(of_means, in_matrices, rows, roots)
    of_all = layout.columns.map(of_columns, _in_matrices(layout.columns), columns)
    return InverseRoots(roots, of_all), InverseRoots(roots_of_means, of_all)


def _bounded_inverse_root(x: Array) -> Array:
    return jax.lax.rsqrt(jnp.maximum(x, 1e-9))


def _in_matrices(lines: Layout) -> Field:
    """Whether each entry of rows, or of columns, belongs to a tensor of rank over 1."""
    return lines.field([jnp.full(shape, len(shape) > 1) for shape in lines.shapes])
