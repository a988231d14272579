"""Celo2: a normalised rule that leaves the learning rate to the user.

Moudgil, Knyazev & Belilovsky 2026 (arXiv 2602.19142; constants of its released code). A
30-8-8-3 relu network sees the features of VeLO (`adafactor_features`, but ``v`` decays
by .95), each divided by its root mean square, and answers with a direction ``d``:

    step = -learning_rate d / rms(d)

347 meta-parameters. There are no features of time and no scheduler: bring a learning
rate and its schedule, as for Adam. Every root mean square is taken over the last two
axes, for a stack of matrices one each. Tensors of rank 0 and 1 lack the features of rows
and columns. Gradients are clipped at 1000. Of the three outputs only the first has an
effect: upstream multiplies it by the exponential of 0 times the second.

`Celo2` is the paper's Celo2-base, the rule for all parameters. Its Celo2 is a
composition: orthogonalised steps for matrices, AdamW for all else (`Celo2Harness`).
"""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, PRNGKeyArray

from learned_opt import adafactor_features, checks, network, pieces
from learned_opt.adafactor_features import NUM_VELO_FEATURES, AdafactorState, Rates
from learned_opt.layout import Field, Layout
from learned_opt.optimizer import Rule, Signals, float32, is_abstract

_WIDTHS = (NUM_VELO_FEATURES, 8, 8, 3)
_RATES = Rates(v=0.05)
_OWN_FEATURES = 15  # those that tensors of rank 0 and 1 have


class Celo2Theta(NamedTuple):
    """347 meta-parameters."""

    layers: tuple[network.Dense, ...]  # 30-8-8-3


@dataclasses.dataclass(frozen=True)
class Celo2(Rule):
    """The rule of Celo2 for all parameters; 347 meta-parameters.

    Needs neither a loss nor ``num_steps``. State: 4 numbers per parameter, and 3 for
    each row and column (`factored`: every entry of a vector is both). For a schedule,
    ``optax.chain`` a rule of learning rate 1 with ``optax.scale_by_schedule``.

    Attributes:
      learning_rate: root mean square of the step of each matrix, > 0.
    """

    numbers_held: ClassVar[int] = 32

    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        checks.require_numbers(self, learning_rate="(0, inf)")

    def init(self, key: PRNGKeyArray) -> Celo2Theta:
        return Celo2Theta(network.mlp(key, _WIDTHS))

    def start(self, theta: Celo2Theta, params: Field, layout: Layout) -> AdafactorState:
        del theta
        return adafactor_features.start(params, layout)

    def advance(
        self,
        theta: Celo2Theta,
        state: AdafactorState,
        grads: Field,
        params: Field,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Field, AdafactorState]:
        del signals
        grads = layout.map(lambda g: jnp.clip(g, -1000.0, 1000.0), grads)
        slots, factored = adafactor_features.accumulate(
            state.slots, state.factored, grads, _RATES, layout
        )

        def update(tensor: adafactor_features.Tensor) -> Array:
            x = _unit_features(tensor)
            first, *rest = theta.layers
            layers = (first._replace(w=first.w[: len(x)]), *rest)
            d, _, _ = network.unrolled(layers, x)
            return -self.learning_rate * _unit_rms(d)

        tensors = adafactor_features.by_tensor(grads, params, slots, factored, layout)
        steps = layout.field([update(tensor) for tensor in tensors])
        return steps, AdafactorState(state.step + 1, slots, factored)


@dataclasses.dataclass(frozen=True)
class Celo2Harness:
    """The paper's Celo2: a learned rule inside what large models are trained with.

    Matrices (tensors of rank 2 and more) take orthogonalised steps of the learned rule,
    all others those of AdamW at a higher rate; both have decoupled weight decay. A
    `LearnedOptimizer` with the theta of `Celo2`. The paper also gives embeddings to
    AdamW: for that, use ``optax.partition`` with labels of your own. As in a rule, the
    state is float32, and so is all that is computed. Matrices that are sharded need a mesh
    of automatic axes.

    Attributes:
      learning_rate: root mean square of the step of each matrix: a number > 0, or a
        schedule, which is a function of the number of updates made so far.
      weight_decay: share of a matrix that a step at learning rate 1 takes away, >= 0.
      adamw_factor: learning rate of AdamW relative to that of matrices, > 0.
    """

    learning_rate: optax.ScalarOrSchedule = 1e-3
    weight_decay: float = 0.0
    adamw_factor: float = 20.0

    def __post_init__(self) -> None:
        checks.require_numbers(self, weight_decay="[0, inf)", adamw_factor="(0, inf)")
        if not callable(self.learning_rate):
            checks.require_numbers(self, learning_rate="(0, inf)")

    def init(self, key: PRNGKeyArray) -> Celo2Theta:
        """Fresh meta-parameters."""
        return Celo2().init(key)

    def transform(
        self, theta: Celo2Theta, *, num_steps: ArrayLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """The optax transform; the length of the run has no effect."""
        del num_steps
        matrices = optax.chain(
            Celo2(learning_rate=1.0).transform(theta),
            orthogonalize(),
            optax.add_decayed_weights(-self.weight_decay),  # of a step to be added
            optax.scale_by_learning_rate(self.learning_rate, flip_sign=False),
        )
        others = optax.chain(
            optax.adamw(self.learning_rate, b2=0.95, weight_decay=self.weight_decay),
            optax.scale(self.adamw_factor),
        )
        return _in_float32(
            optax.partition({"matrix": matrices, "other": others}, _labels)
        )


def _in_float32(
    tx: optax.GradientTransformationExtraArgs,
) -> optax.GradientTransformationExtraArgs:
    """The transform with what goes in, and stays, as float32; steps as the parameters."""

    def init(params: optax.Params) -> optax.OptState:
        checks.require_trainable(params)
        if is_abstract(params):
            return jax.eval_shape(init, params)
        return tx.init(float32(params))

    def update(
        updates: optax.Updates,
        state: optax.OptState,
        params: optax.Params | None = None,
        **extra: Any,
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            raise ValueError(checks.NO_PARAMS)
        checks.require_gradients(updates, params)
        steps, state = tx.update(float32(updates), state, float32(params), **extra)
        cast = lambda step, p: step.astype(jnp.result_type(p))
        return jax.tree.map(cast, steps, params), state

    return optax.GradientTransformationExtraArgs(init, update)


def orthogonalize() -> optax.GradientTransformation:
    """Replaces each matrix by nearly the closest orthogonal one, of RMS 1.

    Singular values come near 1 by five Newton-Schulz iterations (Jordan et al. 2024,
    Muon). Tensors of rank over 2 are stacks of matrices, the others stay as they are.
    """

    def update(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        del params
        return jax.tree.map(
            lambda x: _unit_rms(_newton_schulz(x)) if x.ndim > 1 else x, updates
        )

    return optax.stateless(update)


def _unit_features(tensor: adafactor_features.Tensor) -> list[Array]:
    """The 30 features, or the 15 that need no rows and columns, each of unit RMS."""
    shape = tensor.p.shape[-2:]
    is_matrix = len(shape) > 1

    def own(*fields: Array) -> list[Array]:
        return _own_features(*fields)[: None if is_matrix else _OWN_FEATURES]

    def squares(*fields: Array) -> tuple[None, list[Array]]:
        return None, [jnp.square(x) for x in own(*fields)]

    # In pieces, and made again below: kept, they are many times the tensor.
    _, sums = pieces.map_and_sum(squares, shape, *tensor.fields)
    own_sums = [x.reshape(*x.shape, *(1,) * len(shape)) for x in sums]
    count = float(max(math.prod(shape), 1))  # may be too large for an integer
    pairs = zip(own(*tensor.fields), own_sums, strict=True)
    x = [_divided(feature, total / count) for feature, total in pairs]
    if is_matrix:
        lines = adafactor_features.velo_features_of_lines(tensor)
        x[_OWN_FEATURES:_OWN_FEATURES] = [_unit_rms(feature) for feature in lines]
    return x


def _own_features(g: Array, p: Array, v: Array, *rest: Array) -> list[Array]:
    """Those that are not of rows or columns alone."""
    x = adafactor_features.own_velo_features(g, p, v, *rest)
    inverse, m = jax.lax.rsqrt(v + 1e-8), rest[-3:]  # VeLO adds 1e-6
    x[7:11] = [*(average * inverse for average in m), inverse]
    x[14] = g * inverse
    return x


def _unit_rms(x: Array) -> Array:
    """A tensor whose matrices have a root mean square of 1."""
    axes = tuple(range(x.ndim))[-2:]
    squares = jnp.sum(jnp.square(x), axis=axes, keepdims=True)
    return _divided(x, squares / (max(x.size, 1) / max(squares.size, 1)))


def _divided(x: Array, mean_square: Array) -> Array:
    return x * jax.lax.rsqrt(mean_square + 1e-9)


def _newton_schulz(x: Array) -> Array:
    """Singular values to about 1, along the last two axes."""
    tall = x.shape[-2] > x.shape[-1]
    x = jnp.swapaxes(x, -2, -1) if tall else x
    norm = jnp.sqrt(jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True))
    x = x / (norm + 1e-8)
    for _ in range(5):
        a = x @ jnp.swapaxes(x, -2, -1)
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return jnp.swapaxes(x, -2, -1) if tall else x


def _labels(params: Any) -> Any:
    return jax.tree.map(lambda p: "matrix" if jnp.ndim(p) > 1 else "other", params)
