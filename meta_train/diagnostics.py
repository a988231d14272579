"""How good a gradient estimator is at one theta: bias, variance, signal-to-noise ratio.

theta is held still and whole episodes are estimated many times over, each time with lanes
of its own, so that estimates are independent:

    quality = compare({"PES": pes, "NRES": nres}, theta, key, num_samples=200)
    quality["PES"].snr, quality["PES"].cosine

While training, the same numbers come with every estimate for nothing: ``snr`` and
``grad_std`` over the lanes, ``noise_ratio`` (the norm of xi over what its draws lead one to
expect, about 1), ``guarded`` (share of losses capped), ``guarded_pairs`` (share of lanes
with such a loss in the window), and `inner_times` of the state.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int, PRNGKeyArray

from meta_train.devices import compiler_options
from meta_train.system import Theta
from meta_train.truncation import Truncation


class Quality(NamedTuple):
    """What a sample of independent estimates tells of an estimator.

    Attributes:
      mean: of the estimates, ``[theta]``.
      norm: of the mean.
      std: root of the trace of the covariance of one estimate.
      snr: squared norm of the expectation over the variance of one estimate; the bias
        that noise gives to the norm of a mean is taken off, so about 0 for mere noise.
      cosine: of the mean to the reference; in [-1, 1].
      single_cosine: mean cosine of one estimate to the reference: how well a single
        outer step is directed.
      error: mean squared distance of one estimate to the reference, over the squared
        norm of the reference (Vicol, Metz & Sohl-Dickstein 2021, arXiv 2112.13835,
        section on variance).
    """

    mean: Float[np.ndarray, "theta"]
    norm: float
    std: float
    snr: float
    cosine: float
    single_cosine: float
    error: float


def quality(
    estimates: Float[Array, "samples theta"],
    reference: Float[Array, "theta"] | None = None,
) -> Quality:
    """Summarise independent estimates; the reference is by default their own mean."""
    samples = np.asarray(estimates, np.float64)
    mean = samples.mean(axis=0)
    truth = mean if reference is None else np.asarray(reference, np.float64)
    variance = float(np.sum(np.var(samples, axis=0, ddof=1)))
    square = float(np.sum(mean**2)) - variance / len(samples)
    norms = np.linalg.norm(samples, axis=1) * np.linalg.norm(truth)
    size = float(np.sum(truth**2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return Quality(
            mean=mean,
            norm=float(np.linalg.norm(mean)),
            std=float(np.sqrt(variance)),
            snr=float(np.divide(square, variance)),
            cosine=float(mean @ truth / (np.linalg.norm(mean) * np.sqrt(size))),
            single_cosine=float(np.mean(samples @ truth / norms)),
            error=float(np.mean(np.sum((samples - truth) ** 2, axis=1)) / size),
        )


def compare(
    estimators: Mapping[str, Any],
    theta: Theta,
    key: PRNGKeyArray,
    num_samples: int,
    *,
    reference: Float[Array, "theta"] | None = None,
) -> dict[str, Quality]:
    """The quality of several estimators at ``theta``, with the same keys.

    Args:
      estimators: by name; their ``system`` and horizon should be the same.
      theta: the meta-parameters, which stay what they are.
      key: of all chance.
      num_samples: independent estimates, at least 2.
      reference: the gradient to compare with, ``[theta]``; by default each estimator's
        own mean, which says nothing about its bias.
    """
    return {
        name: quality(gradients(e, theta, key, num_samples), reference)
        for name, e in estimators.items()
    }


def gradients(
    estimator: Any, theta: Theta, key: PRNGKeyArray, num_samples: int
) -> Float[Array, "samples theta"]:
    """Independent estimates for whole episodes, theta held still.

    Every sample is the mean over the windows of the longest episode of the estimator's
    truncation, in lockstep. A sample has the estimator's number of lanes; samples take
    turns.
    """
    truncation = estimator.truncation
    estimator = dataclasses.replace(
        estimator, truncation=dataclasses.replace(truncation, stagger=False)
    )
    whole = getattr(estimator, "whole_episodes", False)
    num_estimates = 1 if whole else truncation.max_windows
    return _gradients(
        estimator, theta, jax.random.split(key, num_samples), num_estimates
    )


@partial(jax.jit, static_argnums=3, compiler_options=compiler_options())
def _gradients(estimator: Any, theta: Theta, keys: PRNGKeyArray, num_estimates: int):
    def sample(key: PRNGKeyArray):
        init_key, key = jax.random.split(key)

        def window(state: Any, key: PRNGKeyArray):
            estimate, state = estimator.estimate(theta, state, key)
            return state, ravel_pytree(estimate.grad)[0]

        state = estimator.init(theta, init_key)
        _, grads = jax.lax.scan(window, state, jax.random.split(key, num_estimates))
        return jnp.mean(grads, axis=0)

    return jax.lax.map(sample, keys)


def inner_times(
    state: Any, truncation: Truncation, num_bins: int = 20
) -> tuple[Int[np.ndarray, "bins"], Float[np.ndarray, "edges"]]:
    """Where lanes begin their next window: lanes per bin, and the bins' edges in steps.

    Flat where lanes are staggered and horizons are equal; one peak in lockstep.

    Args:
      state: of an estimator (`OuterState.lanes` holds one per group).
      truncation: the estimator's.
      num_bins: of equal width, from 0 to the longest horizon.
    """
    window, num_windows = np.asarray(state.window), np.asarray(state.num_windows)
    # A lane that is through begins anew with its next window.
    steps = np.where(window < num_windows, window, 0) * truncation.window
    return np.histogram(steps, bins=num_bins, range=(0, truncation.max_horizon))
