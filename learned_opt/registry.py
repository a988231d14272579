"""Every optimizer of this package by the name it is configured and saved under."""

import difflib

from learned_opt.adafactor_mlp import AdafactorMLP
from learned_opt.adam import Adam
from learned_opt.adam8p import Adam8p
from learned_opt.celo import Celo, CeloRule
from learned_opt.celo2 import Celo2
from learned_opt.hierarchical import Hierarchical
from learned_opt.hyper_v2 import HyperV2
from learned_opt.momentum import Momentum
from learned_opt.nadamw import NAdamW
from learned_opt.optimizer import LearnedOptimizer
from learned_opt.per_parameter_mlp import PerParameterMLP
from learned_opt.rnn import Rnn
from learned_opt.scale_free import ScaleFree
from learned_opt.sgd import Sgd
from learned_opt.star import Star

_OPTIMIZERS: dict[str, type] = {
    "sgd": Sgd,
    "momentum": Momentum,
    "adam": Adam,
    "adam8p": Adam8p,
    "nadamw": NAdamW,
    "rnn": Rnn,
    "per_parameter_mlp": PerParameterMLP,
    "hierarchical": Hierarchical,
    "scale_free": ScaleFree,
    "star": Star,
    "celo2": Celo2,
    "adafactor_mlp": AdafactorMLP,
    "hyper_v2": HyperV2,
    "celo_rule": CeloRule,
    "celo": Celo,
}


class UnknownOptimizerError(LookupError):
    """No optimizer has the name that was asked for."""


def names() -> tuple[str, ...]:
    """Names of all optimizers."""
    return tuple(_OPTIMIZERS)


def get(name: str) -> type[LearnedOptimizer]:
    """The optimizer class with this name.

    Raises:
      UnknownOptimizerError: there is none; the message has the nearest names.
    """
    if name in _OPTIMIZERS:
        return _OPTIMIZERS[name]
    near = difflib.get_close_matches(name, _OPTIMIZERS, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {names()}"
    raise UnknownOptimizerError(f"no optimizer named {name!r}; {hint}")


def name_of(optimizer: LearnedOptimizer) -> str:
    """The name under which an optimizer's class is registered."""
    for name, cls in _OPTIMIZERS.items():
        if type(optimizer) is cls:
            return name
    raise UnknownOptimizerError(f"{type(optimizer).__name__} is not registered")
