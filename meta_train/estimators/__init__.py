"""Estimators of meta-gradients: how to differentiate a long unrolled computation.

All share one interface, ``init`` and ``estimate``, and see nothing but a `System`. The
three here are antithetic evolution strategies; they differ in what a perturbation lives
through.

    estimator = PES(system, Truncation.constant(100, 10), num_pairs=16, sigma=0.01)
    state = estimator.init(theta, key)
    estimate, state = estimator.estimate(theta, state, key)
"""

from meta_train.estimators.estimator import Estimate, Estimator
from meta_train.estimators.evolution import EvolutionStrategy, Lane, guard
from meta_train.estimators.full_es import FullES
from meta_train.estimators.pes import PES
from meta_train.estimators.truncated_es import TruncatedES

__all__ = [
    "PES",
    "Estimate",
    "Estimator",
    "EvolutionStrategy",
    "FullES",
    "Lane",
    "TruncatedES",
    "guard",
]
