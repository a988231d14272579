"""Small networks whose inputs are divided by their root mean square over each tensor.

The first layer of a relu network on the features of `adafactor_features` is, with
``s_f = 1 / rms(x_f)`` of the parameter's tensor,

    h_j = b_j + sum_f w_fj s_f x_f = b_j + own_j(parameter) + a_j(row) + b_j(column)

Its share of rows and of columns is summed before it is spread over parameters, and the
rest is one elementwise expression: no array of all features is ever stored.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from learned_opt import network
from learned_opt.adafactor_features import Features
from learned_opt.layout import Field, Layout
from learned_opt.network import Dense

_EPS = 1e-5  # added to mean squares


def mean_squares(
    features: Features, layout: Layout
) -> Float[Array, "features tensors"]:
    """The mean square of each feature over each tensor."""
    parts = [
        layout.mean_squares(features.own, *features.fields),
        layout.rows.mean(layout.rows.map(jnp.square, features.rows)),
        layout.columns.mean(layout.columns.map(jnp.square, features.columns)),
    ]
    places = [features.own_places, features.row_places, features.column_places]
    order = np.argsort(np.concatenate(places))
    return jnp.concatenate(parts)[order]


def shared(
    layers: Sequence[Dense],
    features: Features,
    layout: Layout,
    step: Callable[..., Array],
    *others: Field,
) -> Field:
    """The steps that one network takes for all parameters.

    Args:
      layers: at least two; hidden widths up to 16, one input per feature.
      features: as `adafactor_features` makes them, not yet normalised.
      layout: of the fields.
      step: elementwise; of the network's outputs, as a list, and of ``others``.
      *others: fields.
    """
    first, *rest = layers
    scales = jax.lax.rsqrt(mean_squares(features, layout) + _EPS)
    w = first.w[features.own_places]

    def share(lines: Layout, values: Field, places: np.ndarray) -> Field:
        # A matrix product: XLA would repeat a sum for every parameter.
        product = lambda scale, x: jnp.tensordot(first.w[places].T, scale * x, axes=1)
        return lines.map(product, lines.spread(scales[places]), values)

    lines = _line_shares(share, features, layout)

    def steps(scale: Array, row: Array, column: Array, *arrays: Array) -> Array:
        fields, others = arrays[: len(features.fields)], arrays[len(features.fields) :]
        own = features.own(*fields)
        x = [a * b for a, b in zip(network.entries(scale), own, strict=True)]
        sums = network.unrolled([Dense(w, first.b)], x)
        hidden = [jax.nn.relu(s + row[j] + column[j]) for j, s in enumerate(sums)]
        return step(network.unrolled(rest, hidden), *others)

    own_scales = layout.spread(scales[features.own_places])
    return layout.map_network(steps, own_scales, *lines, *features.fields, *others)


def by_tensor(
    layers: Sequence[Dense],
    features: Features,
    layout: Layout,
    step: Callable[..., Array],
    *others: Field,
) -> Field:
    """The steps that a network for each tensor takes.

    Args:
      layers: as for `shared`, but each array has a trailing axis ``[tensors]``.
      features: as for `shared`, and so are the rest.
      layout: of the fields.
      step: elementwise; of the network's outputs, as a list, and of ``others``.
      *others: fields.
    """
    first, *rest = layers
    scales = jax.lax.rsqrt(mean_squares(features, layout) + _EPS)
    w = first.w * scales[:, None]

    def share(lines: Layout, values: Field, places: np.ndarray) -> Field:
        # Matrix products, tensor by tensor: XLA would repeat a sum for every parameter.
        own = zip(jnp.unstack(w[places], axis=-1), lines.tensors(values), strict=True)
        return lines.field([jnp.tensordot(w_t.T, x, axes=1) for w_t, x in own])

    lines = _line_shares(share, features, layout)
    weights = (w[features.own_places], first.b, *(x for layer in rest for x in layer))

    def steps(row: Array, column: Array, *arrays: Array) -> Array:
        (w, b, *rest), arrays = arrays[: len(weights)], arrays[len(weights) :]
        fields, others = arrays[: len(features.fields)], arrays[len(features.fields) :]
        sums = network.unrolled([Dense(w, b)], features.own(*fields))
        hidden = [jax.nn.relu(s + row[j] + column[j]) for j, s in enumerate(sums)]
        pairs = zip(rest[::2], rest[1::2], strict=True)
        made = network.unrolled([Dense(*pair) for pair in pairs], hidden)
        return step(made, *others)

    spread = [layout.spread(x) for x in weights]
    return layout.map_network(steps, *lines, *spread, *features.fields, *others)


def _line_shares(
    share: Callable[[Layout, Field, np.ndarray], Field],
    features: Features,
    layout: Layout,
) -> tuple[Field, Field]:
    """The shares of rows and of columns in the first layer, ``[hidden, ...]``.

    Args:
      share: maps a layout of lines, their features, and the places of those among all, to
        a field ``[hidden, ...]`` of that layout.
    """
    rows = share(layout.rows, features.rows, features.row_places)
    columns = share(layout.columns, features.columns, features.column_places)
    return layout.spread_rows(rows), layout.spread_columns(columns)
