"""What a learned optimizer is compared with, each given its best.

    adam, sgd, nadamw      hand-designed, with any numbers: adam:lr=3e-3,b1=0.8
    adam:tuned             the best of 14 learning rates for each task
    adam:global            the best of them for all tasks of the suite together
    sgd:tuned              momentum .9 and the best of 14 rates for each task
    adamw_cosine:tuned     AdamW, 5 % warm-up, cosine to 0, the best of 7 peak rates
    opt_list:N             the best of the first N of the learned list of NAdamW (1 to 100)
    prodigy, dowg, dog, dadapt_adamw, momo_adam, schedule_free_adamw, muon
                           what a person picks to avoid tuning, from optax, at defaults

Tuned means chosen by the loss on inner validation; see `study`. Where optax has no default
learning rate, for Muon, it is that of its author (Jordan et al. 2024): .02 for matrices,
3e-4 for the rest, which Adam trains.
"""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

import optax

import learned_opt
from learned_opt import Adam, Momentum, NAdamW, Rule
from meta_train.evaluate.contenders import Contender, Kind, Point, digest, grid

# 14 rates, evenly spaced in the logarithm; 1e-3 is among them.
LEARNING_RATES = tuple(float(10.0 ** (-5 + 0.4 * i)) for i in range(14))  # to 1.6
_SGD_RATES = tuple(float(10.0 ** (-6 + 0.5 * i)) for i in range(14))  # to 3.2
_COSINE_RATES = tuple(float(10.0 ** (-4 + 0.5 * i)) for i in range(7))  # to .1

ALL = (
    "adam:tuned",
    "adam:global",
    "adam:lr=0.001",
    "adamw_cosine:tuned",
    "sgd:tuned",
    "opt_list:1",
    "opt_list:10",
    "opt_list:100",
    "prodigy",
    "dowg",
    "dog",
    "dadapt_adamw",
    "momo_adam",
    "schedule_free_adamw",
    "muon",
)

Numbers = Mapping[str, float]  # what stands after the name, as lr=1e-3,b1=0.8


def adam(**numbers: float) -> Adam:
    """Adam with some numbers changed."""
    return Adam(**_renamed(numbers))


def sgd(**numbers: float) -> Momentum:
    """Gradient descent with momentum .9, or ``momentum=``."""
    numbers = _renamed(numbers)
    return Momentum(decay=numbers.pop("momentum", 0.9), **numbers)


def nadamw(**numbers: float) -> NAdamW:
    """NAdamW with some numbers changed; ``nesterov=0`` is without."""
    numbers = _renamed(numbers)
    return NAdamW(nesterov=bool(numbers.pop("nesterov", 1)), **numbers)


def adamw_cosine(**numbers: float) -> NAdamW:
    """AdamW with decay .01, 5 % linear warm-up, then a cosine to 0."""
    defaults = {"weight_decay": 0.01, "warmup_fraction": 0.05, "constant_fraction": 0.0}
    return NAdamW(nesterov=False, **(defaults | _renamed(numbers)))


_RULES: dict[str, Callable[..., Rule]] = {
    "adam": adam,
    "sgd": sgd,
    "nadamw": nadamw,
    "adamw_cosine": adamw_cosine,
}
_RATES = {"adam": LEARNING_RATES, "sgd": _SGD_RATES, "adamw_cosine": _COSINE_RATES}
_CONTRIB: dict[str, dict[str, float]] = {
    "prodigy": {},
    "dowg": {},
    "dog": {},
    "dadapt_adamw": {},
    "momo_adam": {},
    "schedule_free_adamw": {},
    "muon": {"learning_rate": 0.02, "adam_learning_rate": 3e-4},
}
NAMES = (*_RULES, "opt_list", *_CONTRIB)


def baseline(name: str, variant: str = "") -> Contender:
    """A baseline by name and by what follows the colon.

    Args:
      name: one of `NAMES`.
      variant: "tuned", "global", a length of opt_list, or numbers as "lr=1e-3,b1=0.8".

    Raises:
      ValueError: there is no such variant or number.
    """
    spec = f"{name}:{variant}" if variant else name
    if name == "opt_list":
        return _opt_list(spec, variant)
    if name in _RATES and variant in ("tuned", "global"):
        optimizers = {f"lr={rate:.3g}": _RULES[name](lr=rate) for rate in _RATES[name]}
        tuned = "per task" if variant == "tuned" else "over the suite"
        return grid(spec, optimizers, tuned=tuned)
    numbers = _numbers(spec, variant)
    try:
        if name in _RULES:
            # The name says the numbers in one spelling: 1e-3 is 0.001.
            spelled = ",".join(f"{k}={v!r}" for k, v in numbers.items())
            spec = f"{name}:{spelled}" if spelled else name
            return grid(spec, {spec: _RULES[name](**numbers)})
        return _contrib(spec, name, numbers)
    except TypeError as error:
        raise ValueError(f"{spec}: {error}") from None


def _opt_list(spec: str, variant: str) -> Contender:
    if not variant.isdigit() or not 1 <= int(variant) <= learned_opt.opt_list.LENGTH:
        raise ValueError(
            f"{spec!r}: say how many of the list, 1 to {learned_opt.opt_list.LENGTH}, "
            "as opt_list:10"
        )
    configs = (learned_opt.opt_list.config(i)[0] for i in range(int(variant)))
    return grid(spec, {f"number {i}": config for i, config in enumerate(configs)})


def _contrib(spec: str, name: str, numbers: Numbers) -> Contender:
    arguments = _CONTRIB[name] | _renamed(numbers)
    make = functools.partial(getattr(optax.contrib, name), **arguments)
    make()  # a wrong number must fail here, not inside a trace
    identity = f"optax {name} {json.dumps(arguments)}"
    if name == "schedule_free_adamw":
        measured = optax.contrib.schedule_free_eval_params
        kind = Kind(identity, lambda _, num_steps: make(), measured)
    else:
        kind = Kind(identity, lambda _, num_steps: make())
    point = Point(kind, (), spec, digest([identity]))
    return Contender(spec, (point,), baseline=True)


def _numbers(spec: str, variant: str) -> dict[str, float]:
    numbers = {}
    for assignment in variant.split(",") if variant else ():
        field, _, value = assignment.partition("=")
        try:
            numbers[field] = float(value)
        except ValueError:
            tunable = spec.partition(":")[0] in _RATES
            raise ValueError(
                f"{spec!r}: what follows the colon is "
                f"{'tuned, global, or ' if tunable else ''}numbers, as in "
                "adam:lr=1e-3,b1=0.8."
            ) from None
    return numbers


def _renamed(numbers: Numbers) -> dict[str, Any]:
    """With lr for learning_rate, as people write it."""
    return {("learning_rate" if k == "lr" else k): v for k, v in numbers.items()}
