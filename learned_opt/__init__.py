"""Learned optimizers: each is a function from meta-parameters to an optax transform.

``optimizer.init(key)`` makes meta-parameters ``theta``; ``optimizer.transform(theta)``
is a real optax transform, wherever optax is used. Hand-designed optimizers with tunable
numbers (`Adam`, ...) are the same thing with a smaller ``theta``.

    optimizer = learned_opt.ScaleFree()
    theta = optimizer.init(jax.random.key(0))
    tx = optimizer.transform(theta, num_steps=1000)
"""

from learned_opt.adam import Adam
from learned_opt.hierarchical import Hierarchical
from learned_opt.layout import Flat, Layout, PerTensor
from learned_opt.momentum import Momentum
from learned_opt.nadamw import NAdamW
from learned_opt.optimizer import LearnedOptimizer, Rule, Signals
from learned_opt.per_parameter_mlp import PerParameterMLP
from learned_opt.registry import UnknownOptimizerError, get, name_of, names
from learned_opt.scale_free import ScaleFree
from learned_opt.sgd import Sgd

__all__ = [
    "Adam",
    "Flat",
    "Hierarchical",
    "Layout",
    "LearnedOptimizer",
    "Momentum",
    "NAdamW",
    "PerParameterMLP",
    "PerTensor",
    "Rule",
    "ScaleFree",
    "Sgd",
    "Signals",
    "UnknownOptimizerError",
    "get",
    "name_of",
    "names",
]
