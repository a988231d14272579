"""Orthogonal matrices from QR decompositions that are never batched.

XLA's CPU backend spreads a batch of decompositions over its threads and waits for them on
one of those threads. Programs on several devices that do so at once can wait for each
other for ever (seen with jaxlib 0.10.2). Under `vmap`, these run one after the other.
"""

import jax
import jax.numpy as jnp
from jax.custom_batching import sequential_vmap
from jaxtyping import Array, Float, PRNGKeyArray


@sequential_vmap
def orthogonal_factor(
    matrix: Float[Array, "rows columns"],
) -> Float[Array, "rows columns"]:
    """Q of the decomposition QR in which the diagonal of R is positive.

    Args:
      matrix: with at least as many rows as columns.

    Returns:
      A matrix with orthonormal columns.
    """
    q, r = jnp.linalg.qr(matrix)
    return q * jnp.sign(jnp.diagonal(r))


def orthogonal(
    key: PRNGKeyArray, rows: int, columns: int
) -> Float[Array, "rows columns"]:
    """A random matrix with orthonormal columns, or rows if it has fewer of these.

    Uniformly distributed (Mezzadri 2007, math-ph/0609050); the same numbers as
    `jax.random.orthogonal`.
    """
    long, short = max(rows, columns), min(rows, columns)
    q = orthogonal_factor(jax.random.normal(key, (long, short)))
    return q if rows >= columns else q.T
