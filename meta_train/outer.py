"""The outer loop's one step: estimate, clip, update theta.

    g   = mean over groups of estimate(theta)
    theta' = theta + outer.update(clip(g, +-c))

The gradient is clipped elementwise, without which meta-training of learned optimizers
does not get going (Metz et al. 2020, arXiv 2009.11243, section 4: +-0.1). The outer
optimizer is any optax transform, a learned one included: it is shown the meta-loss as
both its training and its validation loss (as there, appendix on self-training), and the
running average of theta, which `bootstrap` takes.

`make_step` is the whole step as one program, for estimators that stay. Its two halves,
`contribution` of each group and `update_function` for all, compile apart where groups come
and go.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PRNGKeyArray

from meta_train import safety as safe
from meta_train.devices import compiler_options, replicate
from meta_train.estimators import Estimate, Estimator
from meta_train.safety import Safety
from meta_train.system import Theta, choose

Metrics = dict[str, Array]


class OuterState(NamedTuple):
    """Everything a run needs to go on; save it and nothing else.

    Attributes:
      step: outer steps done.
      skipped: outer steps whose gradient was not applied: not finite, or an outlier.
      theta: the meta-parameters.
      average: running average of theta (Polyak & Juditsky 1992), less noisy than theta.
      outer: state of the outer optimizer.
      lanes: the estimators' states, one per group.
      key: the run's root key; step ``n`` draws from ``fold_in(key, n)``.
      safety: what outliers and collapses are told by; empty where nothing is watched.
    """

    step: Int[Array, ""]
    skipped: Int[Array, ""]
    theta: Theta
    average: Theta
    outer: Any
    lanes: tuple[Any, ...]
    key: PRNGKeyArray
    safety: Any = ()


class Contribution(NamedTuple):
    """What groups contribute to an outer step; contributions add up.

    Attributes:
      grad: sum of their gradients, like theta.
      metrics: sums of their metrics.
      groups: how many there are.
      lost: how many more had an estimate that was not finite, and contribute nothing.
    """

    grad: Theta
    metrics: Metrics
    groups: Float[Array, ""]
    lost: Float[Array, ""]


def start(
    estimators: Sequence[Estimator],
    theta: Theta,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
) -> OuterState:
    """The state before the first outer step."""
    lane_key, step_key = jax.random.split(key)
    keys = jax.random.split(lane_key, len(estimators))
    lanes = tuple(
        estimator.init(theta, lane_key)
        for estimator, lane_key in zip(estimators, keys, strict=True)
    )
    mesh = getattr(estimators[0], "mesh", None)
    return start_without_lanes(theta, optimizer, step_key, mesh)._replace(lanes=lanes)


def start_without_lanes(
    theta: Theta,
    optimizer: optax.GradientTransformation,
    key: PRNGKeyArray,
    mesh: Mesh | None,
    safety: Safety | None = None,
) -> OuterState:
    """The state before the first outer step where somebody else keeps the lanes.

    Args:
      theta: where to start.
      optimizer: the outer optimizer.
      key: all chance of the outer steps.
      mesh: over which everything is replicated; None for one device.
      safety: as for `update_function`.
    """
    zero, outer = jnp.zeros((), jnp.int32), optimizer.init(theta)
    watched = () if safety is None else safe.start((theta, theta, outer))
    state = OuterState(zero, zero, theta, theta, outer, (), key, watched)
    # The step donates its state, and one buffer cannot be donated twice.
    state = jax.tree.map(lambda x: x.copy(), state)
    # Placed as the step will return it, otherwise its second call compiles once more.
    return replicate(state, mesh)


def make_step(
    optimizer: optax.GradientTransformation,
    *,
    clip: float = 0.1,
    average_rate: float = 0.01,
) -> Callable[[Sequence[Estimator], OuterState], tuple[OuterState, Metrics]]:
    """A compiled outer step.

    Args:
      optimizer: the outer optimizer.
      clip: bound on each entry of the meta-gradient, > 0.
      average_rate: rate in (0, 1] at which ``average`` follows theta.

    Returns:
      ``step(estimators, state) -> (state, metrics)``. Estimators are arguments, so that
      the data sets within are never constants of the program; ``state`` is donated. It
      returns while the step is computed, and waits for the one before. It raises
      TypeError for an estimator that is no pytree.
    """
    step = step_function(optimizer, clip=clip, average_rate=average_rate)
    compiled = jax.jit(step, donate_argnums=1, compiler_options=compiler_options())
    last: Metrics = {}

    def paced(estimators: Sequence[Estimator], state: OuterState):
        # With dozens of programs ahead, the sum over CPU devices waits for ever: those that
        # have arrived hold the threads that the others need.
        jax.block_until_ready(last)
        try:
            state, metrics = compiled(estimators, state)
        except TypeError:
            _require_pytrees(estimators)
            raise
        last.update(metrics)
        return state, metrics

    return paced


def _require_pytrees(estimators: Sequence[Estimator]) -> None:
    for leaf in jax.tree.leaves(tuple(estimators)):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, float, int)):
            raise TypeError(
                f"a {type(leaf).__name__} cannot be an argument of a compiled step, and "
                "its data would otherwise be constants of the program: make it a pytree "
                "of arrays, as a frozen dataclass under "
                "`@jax.tree_util.register_dataclass` is, with "
                "`dataclasses.field(metadata={'static': True})` for what is no array."
            )


def step_function(
    optimizer: optax.GradientTransformation,
    *,
    clip: float = 0.1,
    average_rate: float = 0.01,
) -> Callable[[Sequence[Estimator], OuterState], tuple[OuterState, Metrics]]:
    """The outer step of `make_step`, not compiled: to scan over or to vmap."""
    update = update_function(optimizer, clip=clip, average_rate=average_rate)

    def step(estimators: Sequence[Estimator], state: OuterState):
        keys = jax.random.split(
            jax.random.fold_in(state.key, state.step), len(estimators)
        )
        estimates, lanes = zip(
            *(
                estimator.estimate(state.theta, lane, key)
                for estimator, lane, key in zip(
                    estimators, state.lanes, keys, strict=True
                )
            ),
            strict=True,
        )
        return update(state._replace(lanes=lanes), [*map(contribution, estimates)])

    return step


def contribution(
    estimate: Estimate, weight: Float[Array, ""] | float = 1.0
) -> Contribution:
    """What one group contributes: its estimate, or nothing where that is not finite.

    Args:
      estimate: of the group.
      weight: how much it counts in the mean over groups, > 0.
    """
    finite = jnp.isfinite(optax.tree.norm(estimate.grad)) & jnp.isfinite(estimate.loss)
    keep = lambda tree: jax.tree.map(lambda x: jnp.where(finite, weight * x, 0.0), tree)
    one = finite.astype(jnp.float32)
    metrics = {"loss": estimate.loss, **estimate.metrics}
    return Contribution(keep(estimate.grad), keep(metrics), weight * one, 1 - one)


def update_function(
    optimizer: optax.GradientTransformation,
    *,
    clip: float = 0.1,
    average_rate: float = 0.01,
    safety: Safety | None = None,
) -> Callable[[OuterState, Sequence[Contribution]], tuple[OuterState, Metrics]]:
    """The second half of an outer step: average, clip, update theta.

    Args:
      optimizer: the outer optimizer.
      clip: bound on each entry of the meta-gradient, > 0.
      average_rate: rate in (0, 1] at which ``average`` follows theta.
      safety: when to skip an outlier and to roll theta back; None: never. Then only
        updates without a finite gradient are skipped. Where it is given, the state's
        ``safety`` must come from `safety.start`.

    Returns:
      ``update(state, contributions) -> (state, metrics)``, which leaves ``lanes`` alone.
      What groups measure, and the norm, is NaN where all of them were lost.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def update(state: OuterState, contributions: Sequence[Contribution]):
        total = jax.tree.map(lambda *xs: sum(xs), *_with_common_metrics(contributions))
        accepted = total.groups > 0
        groups = jnp.where(accepted, total.groups, 1.0)
        # A step without any gradient has nothing to say; a loss of 0 would be the best.
        known = lambda x: jnp.where(accepted, x, jnp.nan)
        grad = jax.tree.map(lambda x: x / groups, total.grad)
        metrics = jax.tree.map(lambda x: known(x / groups), total.metrics)
        norm = known(optax.tree.norm(grad))
        watched = state.safety
        if safety is not None:
            usual, watched = safe.judge(safety, watched, norm)
            accepted &= usual
        clipped = jax.tree.map(lambda g: jnp.clip(g, -clip, clip), grad)
        updates, outer = optimizer.update(
            clipped,
            state.outer,
            state.theta,
            value=metrics["loss"],
            valid_value=metrics["loss"],
            average=state.average,
        )
        accepted &= jnp.isfinite(optax.tree.norm(updates))
        theta = optax.apply_updates(state.theta, updates)
        theta = choose(accepted, theta, state.theta)
        outer = choose(accepted, outer, state.outer)
        # Early on the average is a plain mean of what there is.
        rate = jnp.maximum(average_rate, 1.0 / (state.step + 1))
        average = optax.incremental_update(theta, state.average, rate)
        skipped = state.skipped + (1 - accepted.astype(jnp.int32))
        metrics |= {
            "grad_norm": norm,
            "clipped": _share(grad, lambda g: jnp.abs(g) > clip),
            "update_norm": optax.tree.norm(optax.tree.sub(theta, state.theta)),
            "theta_norm": optax.tree.norm(theta),
            "skipped": skipped,
            "lost_groups": total.lost,
        }
        if safety is not None:
            (theta, average, outer), watched = safe.watch(
                safety, watched, metrics["loss"], (theta, average, outer)
            )
            metrics["rollbacks"] = watched.rollbacks
        state = state._replace(
            step=state.step + 1,
            skipped=skipped,
            theta=theta,
            average=average,
            outer=outer,
            safety=watched,
        )
        return state, metrics

    return update


def _with_common_metrics(contributions: Sequence[Contribution]) -> list[Contribution]:
    """What all groups measure; their estimators may be of several kinds."""
    names = sorted(set.intersection(*(set(c.metrics) for c in contributions)))
    return [c._replace(metrics={n: c.metrics[n] for n in names}) for c in contributions]


def _share(tree: Any, predicate: Callable[[Array], Array]) -> Array:
    flat = jnp.concatenate([jnp.ravel(predicate(x)) for x in jax.tree.leaves(tree)])
    return jnp.mean(flat.astype(jnp.float32))
