"""Learned optimizers: each is a function from meta-parameters to an optax transform.

``optimizer.init(key)`` makes meta-parameters ``theta``; ``optimizer.transform(theta)``
is a real optax transform, wherever optax is used. Hand-designed optimizers with tunable
numbers (`Adam`, ...) are the same thing with a smaller ``theta``.

    optimizer = learned_opt.ScaleFree()
    theta = optimizer.init(jax.random.key(0))
    tx = optimizer.transform(theta, num_steps=1000)
"""

from learned_opt import opt_list, search_spaces
from learned_opt.adafactor_mlp import AdafactorMLP
from learned_opt.adam import Adam
from learned_opt.adam8p import Adam8p
from learned_opt.celo import Celo, CeloRule, CeloScheduler, CeloTheta
from learned_opt.celo2 import Celo2, Celo2Harness
from learned_opt.hierarchical import Hierarchical
from learned_opt.hyper_v2 import HyperV2
from learned_opt.kernel_layout import Kernels
from learned_opt.layout import Flat, Layout, PerTensor
from learned_opt.momentum import Momentum
from learned_opt.nadamw import NAdamW
from learned_opt.optimizer import (
    LearnedOptimizer,
    Rule,
    Signals,
    require_num_steps,
    require_value,
)
from learned_opt.per_parameter_mlp import PerParameterMLP
from learned_opt.registry import UnknownOptimizerError, get, name_of, names, register
from learned_opt.rnn import Rnn
from learned_opt.scale_free import ScaleFree
from learned_opt.sgd import Sgd
from learned_opt.star import Star

__all__ = [
    "Adam",
    "Adam8p",
    "AdafactorMLP",
    "Celo",
    "Celo2",
    "Celo2Harness",
    "CeloRule",
    "CeloScheduler",
    "CeloTheta",
    "Flat",
    "Hierarchical",
    "HyperV2",
    "Kernels",
    "Layout",
    "LearnedOptimizer",
    "Momentum",
    "NAdamW",
    "PerParameterMLP",
    "PerTensor",
    "Rnn",
    "Rule",
    "ScaleFree",
    "Sgd",
    "Star",
    "Signals",
    "UnknownOptimizerError",
    "get",
    "name_of",
    "names",
    "opt_list",
    "register",
    "require_num_steps",
    "require_value",
    "search_spaces",
]
