"""The random searches of TaskSet: families of optimizers and how to draw from them.

    optimizer, theta = learned_opt.search_spaces.sample("adam8p", 17)
    tx = optimizer.transform(theta, num_steps=10_000)

Metz et al. 2020, 2002.11887 ("Using a thousand optimization tasks to learn
hyperparameter search strategies"). Entry ``index`` of a space is the published
configuration of that index: the draws are made by the same generator in the same order,
and the first thousand are those whose training curves were released.

    adam1p  Adam      learning rate
    adam4p  Adam      + both decays and eps
    adam6p  Adam8p    + linear and exponential decay of the learning rate
    adam8p  Adam8p    + l1 and l2 penalties
    nadamw  NAdamW    learning rate, decays, eps, Nesterov or not, decoupled and l2 decay,
                      warm-up, constant part, end of the cosine

All numbers are log-uniform, but for the constant part, which is uniform.

The numbers are those of the paper; the optimizers are this package's. What the authors'
differ in: the decays of ``adam8p`` were not stretched to runs of other lengths; Adam in
``adam1p`` and ``adam4p`` adds eps to the square root *before* its bias correction, which
acts like a warm-up where eps is large; see `learned_opt.nadamw` for that family.
"""

from collections.abc import Callable

import jax
import numpy as np

from learned_opt.adam import Adam
from learned_opt.adam8p import Adam8p
from learned_opt.nadamw import NAdamW
from learned_opt.optimizer import Rule, Theta

_STEPS = 10_000  # the run for which the paper states its decays per step


def names() -> tuple[str, ...]:
    """Names of all spaces."""
    return tuple(_SPACES)


def sample(space: str, index: int) -> tuple[Rule, Theta]:
    """One configuration of a space.

    Args:
      space: one of `names`.
      index: >= 0; the paper uses 0 to 999.

    Returns:
      An optimizer, whose attributes are the numbers that were drawn, and its ``theta``.

    Raises:
      LookupError: there is no such space.
      ValueError: the index is negative.
    """
    if space not in _SPACES:
        raise LookupError(f"no search space named {space!r}; known: {names()}")
    if index < 0:
        raise ValueError(f"the index of a configuration is >= 0, not {index}")
    optimizer = _SPACES[space](index)
    return optimizer, optimizer.init(jax.random.key(0))


def _adam1p(index: int) -> Adam:
    rng = np.random.RandomState(index + 4123)
    return Adam(learning_rate=_log_uniform(rng, 1e-8, 1e1))


def _adam4p(index: int) -> Adam:
    return Adam(**_adam(np.random.RandomState(index)))


def _adam6p(index: int) -> Adam8p:
    rng = np.random.RandomState(index + 123455)
    return Adam8p(**_adam(rng), l1=0.0, l2=0.0, **_decays(rng))


def _adam8p(index: int) -> Adam8p:
    rng = np.random.RandomState(index)
    numbers = _adam(rng)
    l1, l2 = _log_uniform(rng, 1e-8, 1e1), _log_uniform(rng, 1e-8, 1e1)
    return Adam8p(**numbers, l1=l1, l2=l2, **_decays(rng))


def _nadamw(index: int) -> NAdamW:
    rng = np.random.RandomState(index + 14358)
    learning_rate = _log_uniform(rng, 1e-5, 1e0)
    b1 = 1 - _log_uniform(rng, 1e-3, 1e0)
    b2 = 1 - _log_uniform(rng, 1e-5, 1e0)
    eps = _log_uniform(rng, 1e-8, 1e4)
    nesterov = bool(rng.uniform() > 0.5)
    kind = rng.uniform()  # of decay: decoupled, l2 or both
    decoupled, l2 = kind < 0.3333 or kind >= 0.6666, kind >= 0.3333
    return NAdamW(
        learning_rate=learning_rate,
        b1=b1,
        b2=b2,
        eps=eps,
        nesterov=nesterov,
        weight_decay=_log_uniform(rng, 1e-5, 1e-1) if decoupled else 0.0,
        l2=_log_uniform(rng, 1e-5, 1e-1) if l2 else 0.0,
        warmup_fraction=_log_uniform(rng, 1e-5, 1e-1) if rng.uniform() > 0.5 else 0.0,
        min_lr_mult=0.0 if rng.uniform() > 0.5 else _log_uniform(rng, 1e-5, 1e0),
        constant_fraction=rng.uniform(),
    )


_SPACES: dict[str, Callable[[int], Rule]] = {
    "adam1p": _adam1p,
    "adam4p": _adam4p,
    "adam6p": _adam6p,
    "adam8p": _adam8p,
    "nadamw": _nadamw,
}


def _adam(rng: np.random.RandomState) -> dict[str, float]:
    return {
        "learning_rate": _log_uniform(rng, 1e-8, 1e1),
        "b1": 1 - _log_uniform(rng, 1e-4, 1e0),
        "b2": 1 - _log_uniform(rng, 1e-6, 1e0),
        "eps": _log_uniform(rng, 1e-10, 1e3),
    }


def _decays(rng: np.random.RandomState) -> dict[str, float]:
    return {
        "linear_decay": _STEPS * _log_uniform(rng, 1e-7, 1e-4),
        # The published bounds are in this order: it decides which draw gives which.
        "exponential_decay": _STEPS * _log_uniform(rng, 1e-3, 1e-6),
    }


def _log_uniform(rng: np.random.RandomState, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))
