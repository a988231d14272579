"""Every optimizer by the name it is configured and saved under; your own, too.

    @learned_opt.register("mine")
    @dataclasses.dataclass(frozen=True)
    class Mine(learned_opt.Rule): ...

What is registered can be saved, loaded, trained and compared by name, wherever the module
that registers it has been imported.
"""

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any, TypeVar

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


_Class = TypeVar("_Class", bound=type)


def register(name: str) -> Callable[[_Class], _Class]:
    """Adds an optimizer class under a new name; to decorate the class with.

    The class is a frozen dataclass whose fields all have defaults; to be saved, fields are
    numbers, strings and tuples of these.

    Raises:
      ValueError: another class has the name; the name is not one word.
      TypeError: what is decorated is not such a class, or lacks ``init`` or ``transform``.
    """
    if not name.isidentifier():
        raise ValueError(f"the name of an optimizer is one word, not {name!r}")

    def add(cls: _Class) -> _Class:
        _require_optimizer_class(cls)
        taken = _OPTIMIZERS.get(name, cls)
        # A notebook's cell that is run again makes the same class again.
        if _origin(taken) != _origin(cls):
            raise ValueError(
                f"the name {name!r} is taken by {'.'.join(_origin(taken))}; "
                "choose another"
            )
        _OPTIMIZERS[name] = cls
        return cls

    return add


def _require_optimizer_class(cls: Any) -> None:
    # Not what it inherits: fields of its own would not be there.
    if not isinstance(cls, type) or "__dataclass_fields__" not in vars(cls):
        raise TypeError(f"{cls!r} is not a dataclass: its fields are what is saved")
    if cls.__hash__ is None:  # programs are found by it
        raise TypeError(f"{cls.__name__} can change: use dataclass(frozen=True)")
    missing = dataclasses.MISSING
    for field in dataclasses.fields(cls):
        if field.init and field.default is field.default_factory is missing:
            raise TypeError(f"{cls.__name__}.{field.name} needs a default")
    if not issubclass(cls, LearnedOptimizer):
        raise TypeError(f"{cls.__name__} lacks `init` or `transform`")


def _origin(cls: type) -> tuple[str, str]:
    return cls.__module__, cls.__qualname__


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
    raise UnknownOptimizerError(
        f"no optimizer named {name!r}; {hint} (one of your own is known once the module "
        "that registers it is imported)"
    )


def name_of(optimizer: LearnedOptimizer) -> str:
    """The name under which an optimizer's class is registered.

    Raises:
      UnknownOptimizerError: it is not; the message says what to do.
    """
    if isinstance(optimizer, type):
        raise UnknownOptimizerError(
            f"{optimizer.__name__} is a class; give an optimizer: {optimizer.__name__}()"
        )
    for name, cls in _OPTIMIZERS.items():
        if type(optimizer) is cls:
            return name
    kind = type(optimizer).__name__
    if any(_origin(type(optimizer)) == _origin(cls) for cls in _OPTIMIZERS.values()):
        raise UnknownOptimizerError(
            f"the class {kind} was defined again since; make the optimizer again"
        )
    raise UnknownOptimizerError(
        f"{kind} is not registered; decorate the class with "
        '`@learned_opt.register("a_name")` where it is defined'
    )
