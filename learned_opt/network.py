"""Per-parameter networks in the two forms that are fast, and an LSTM for tensors.

Both forms treat features as *separate or leading-axis* arrays; a trailing feature axis
turns stacking into a scatter, which is several times slower.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray


class LowRank(NamedTuple):
    """The matrix ``left @ right.T``, not multiplied out."""

    left: Float[Array, "inputs rank"]
    right: Float[Array, "outputs rank"]


class Shifted(NamedTuple):
    """The weights ``center + sign * offset``, not added up.

    Particles that run under ``theta +- offset`` then read one ``center`` and one ``offset``
    instead of a matrix each; where matrices are larger than the caches, reading them is
    what takes time.
    """

    center: Float[Array, "inputs outputs"]
    offset: Float[Array, "inputs outputs"] | LowRank
    sign: Float[Array, ""]


class Dense(NamedTuple):
    """One layer: ``y_j = b_j + sum_i w_ij x_i``."""

    w: Float[Array, "inputs outputs"]  # or Shifted, where `matmul` reads it
    b: Float[Array, "outputs"]


def matmul(
    x: Float[Array, "... inputs"], w: Float[Array, "inputs outputs"] | Shifted
) -> Float[Array, "... outputs"]:
    """``x @ w``, also of weights that are `Shifted`."""
    if not isinstance(w, Shifted):
        return x @ w
    offset = w.offset
    if isinstance(offset, LowRank):
        return x @ w.center + w.sign * ((x @ offset.left) @ offset.right.T)
    return x @ w.center + w.sign * (x @ offset)


def shifted(theta: Any, offset: Any, sign: Float[Array, ""]) -> Any:
    """``theta + sign * offset``; ``offset`` may have `LowRank` matrices for leaves."""
    return jax.tree.map(lambda x, e: x + sign * full(e), theta, offset)


def full(x: Array | LowRank) -> Array:
    """An array, multiplied out if it is a `LowRank` matrix."""
    return x.left @ x.right.T if isinstance(x, LowRank) else x


def dense(key: PRNGKeyArray, inputs: int, outputs: int, *, gain: float = 1.0) -> Dense:
    """Truncated-normal weights of std ``gain / sqrt(inputs)``, zero bias."""
    w = jax.random.truncated_normal(key, -2.0, 2.0, (inputs, outputs), jnp.float32)
    b = jnp.zeros((outputs,), jnp.float32)
    return Dense(w * (gain / 0.87962566 / inputs**0.5), b)


def mlp(key: PRNGKeyArray, widths: Sequence[int], *, last_gain: float = 1.0):
    """Layers of the given widths, inputs first; the last scaled by ``last_gain``."""
    gains = [1.0] * (len(widths) - 2) + [last_gain]
    keys = jax.random.split(key, len(gains))
    return tuple(
        dense(k, m, n, gain=g)
        for k, m, n, g in zip(keys, widths[:-1], widths[1:], gains, strict=True)
    )


def entries(x: Array | tuple[Any, ...]) -> tuple[Any, ...]:
    """What lies along the leading axis of an array; kernels have tuples in their place."""
    return x if isinstance(x, tuple) else tuple(jnp.unstack(x))


def unrolled(layers: Sequence[Dense], features: Sequence[Array]) -> list[Array]:
    """A small relu MLP as one elementwise expression: XLA fuses it into one SIMD loop.

    For hidden widths up to 16; compile time grows with the number of weights.

    Args:
      layers: the network, shared by all parameters.
      features: one array per input, equal shapes.

    Returns:
      One array per output, of the features' shape.
    """
    values = list(features)
    for depth, (w, b) in enumerate(layers):
        sums = []
        columns = (
            tuple(zip(*w, strict=True))
            if isinstance(w, tuple)
            else jnp.unstack(w, axis=1)
        )
        for w_j, b_j in zip(columns, entries(b), strict=True):
            total = b_j
            for w_ij, value in zip(entries(w_j), values, strict=True):
                total = total + w_ij * value
            sums.append(total)
        last = depth == len(layers) - 1
        values = sums if last else [jax.nn.relu(s) for s in sums]
    return values


def stacked(layers: Sequence[Dense], features: Array) -> Array:
    """A relu MLP as matrix products over ``[features, ...]``; for widths from 32 up.

    Args:
      layers: the network, shared by all parameters.
      features: inputs on the leading axis, ``[inputs, *shape]``.

    Returns:
      ``[outputs, *shape]``.
    """
    values = features
    for depth, (w, b) in enumerate(layers):
        bias = b.reshape((-1,) + (1,) * (values.ndim - 1))
        values = jnp.tensordot(w, values, axes=((0,), (0,))) + bias
        if depth < len(layers) - 1:
            values = jax.nn.relu(values)
    return values


def lstm(
    gates: Dense,
    inputs: Float[Array, "tensors inputs"],
    hidden: Float[Array, "tensors hidden"],
    cell: Float[Array, "tensors hidden"],
) -> tuple[Float[Array, "tensors hidden"], Float[Array, "tensors hidden"]]:
    """One step of an LSTM (Hochreiter & Schmidhuber 1997), forget bias 1 by default.

    ``gates`` maps inputs, then hidden units, to input, candidate, forget, output.
    """
    x = matmul(jnp.concatenate([inputs, hidden], axis=-1), gates.w) + gates.b
    i, g, f, o = jnp.split(x, 4, axis=-1)
    cell = jax.nn.sigmoid(f + 1.0) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(cell), cell
