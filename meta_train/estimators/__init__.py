"""Estimators of meta-gradients: how to differentiate a long unrolled computation.

All share one interface, ``init`` and ``estimate``, and see nothing but a `System`.
Antithetic evolution strategies differ in what a perturbation lives through: `PES`, `NRES`,
`GPES`, `FullES`, `TruncatedES`, and PES with an analytic part. The others differentiate
the system: backwards `TBPTT` and `BPTT`, forwards `RTRL`, `UORO` and `DODGE`.

    estimator = PES(system, Truncation.constant(100, 10), num_pairs=16, sigma=0.01)
    state = estimator.init(theta, key)
    estimate, state = estimator.estimate(theta, state, key)
"""

from meta_train.estimators.analytic import AnalyticGradient, Episode
from meta_train.estimators.bptt import BPTT
from meta_train.estimators.dodge import DODGE
from meta_train.estimators.estimator import Estimate, Estimator
from meta_train.estimators.evolution import EvolutionStrategy, Lane, guard
from meta_train.estimators.full_es import FullES
from meta_train.estimators.gpes import GPES
from meta_train.estimators.nres import NRES
from meta_train.estimators.pes import PES
from meta_train.estimators.pes_analytic import PESAnalytic, PESAnalyticPair
from meta_train.estimators.rtrl import RTRL
from meta_train.estimators.tbptt import TBPTT
from meta_train.estimators.truncated_es import TruncatedES
from meta_train.estimators.uoro import UORO

__all__ = [
    "BPTT",
    "DODGE",
    "GPES",
    "NRES",
    "PES",
    "RTRL",
    "TBPTT",
    "UORO",
    "AnalyticGradient",
    "Episode",
    "Estimate",
    "Estimator",
    "EvolutionStrategy",
    "FullES",
    "Lane",
    "PESAnalytic",
    "PESAnalyticPair",
    "TruncatedES",
    "guard",
]
