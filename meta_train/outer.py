"""The outer loop's one step: estimate, clip, update theta.

    g   = mean over groups of estimate(theta)
    theta' = theta + outer.update(clip(g, +-c))

The gradient is clipped elementwise, without which meta-training of learned optimizers
does not get going (Metz et al. 2020, arXiv 2009.11243, section 4: +-0.1). The outer
optimizer is any optax transform, a learned one included: it is shown the meta-loss as
both its training and its validation loss (as there, appendix on self-training).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int, PRNGKeyArray

from meta_train.devices import compiler_options, replicate
from meta_train.estimators import Estimator
from meta_train.system import Theta

Metrics = dict[str, Array]


class OuterState(NamedTuple):
    """Everything a run needs to go on; save it and nothing else.

    Attributes:
      step: outer steps done.
      skipped: outer steps whose gradient was not finite and therefore not applied.
      theta: the meta-parameters.
      average: running average of theta (Polyak & Juditsky 1992), less noisy than theta.
      outer: state of the outer optimizer.
      lanes: the estimators' states, one per group.
      key: the run's root key; step ``n`` draws from ``fold_in(key, n)``.
    """

    step: Int[Array, ""]
    skipped: Int[Array, ""]
    theta: Theta
    average: Theta
    outer: Any
    lanes: tuple[Any, ...]
    key: PRNGKeyArray


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
    zero = jnp.zeros((), jnp.int32)
    state = OuterState(zero, zero, theta, theta, optimizer.init(theta), (), step_key)
    # The step donates its state, and one buffer cannot be donated twice.
    state = jax.tree.map(lambda x: x.copy(), state)
    # Placed as the step will return it, otherwise its second call compiles once more.
    mesh = getattr(estimators[0], "mesh", None)
    return replicate(state, mesh)._replace(lanes=lanes)


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
      the data sets within are never constants of the program; ``state`` is donated.
    """
    step = step_function(optimizer, clip=clip, average_rate=average_rate)
    return jax.jit(step, donate_argnums=1, compiler_options=compiler_options())


def step_function(
    optimizer: optax.GradientTransformation,
    *,
    clip: float = 0.1,
    average_rate: float = 0.01,
) -> Callable[[Sequence[Estimator], OuterState], tuple[OuterState, Metrics]]:
    """The outer step of `make_step`, not compiled: to scan over or to vmap."""
    optimizer = optax.with_extra_args_support(optimizer)

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
        mean = lambda *xs: sum(xs) / len(xs)
        grad = jax.tree.map(mean, *(e.grad for e in estimates))
        metrics = jax.tree.map(mean, *(e.metrics for e in estimates))
        norm = optax.tree.norm(grad)
        finite = jnp.isfinite(norm)
        clipped = jax.tree.map(lambda g: jnp.clip(g, -clip, clip), grad)
        updates, outer = optimizer.update(
            clipped,
            state.outer,
            state.theta,
            value=metrics["loss"],
            valid_value=metrics["loss"],
        )
        theta = optax.apply_updates(state.theta, updates)
        keep = lambda new, old: jax.tree.map(
            lambda n, o: jnp.where(finite, n, o), new, old
        )
        theta, outer = keep(theta, state.theta), keep(outer, state.outer)
        # Early on the average is a plain mean of what there is.
        rate = jnp.maximum(average_rate, 1.0 / (state.step + 1))
        average = optax.incremental_update(theta, state.average, rate)
        skipped = state.skipped + (1 - finite.astype(jnp.int32))
        metrics |= {
            "grad_norm": norm,
            "clipped": _share(grad, lambda g: jnp.abs(g) > clip),
            "skipped": skipped,
        }
        state = OuterState(
            state.step + 1, skipped, theta, average, outer, lanes, state.key
        )
        return state, metrics

    return step


def _share(tree: Any, predicate: Callable[[Array], Array]) -> Array:
    flat = jnp.concatenate([jnp.ravel(predicate(x)) for x in jax.tree.leaves(tree)])
    return jnp.mean(flat.astype(jnp.float32))
