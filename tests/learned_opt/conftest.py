"""Every registered optimizer, with its meta-parameters, for the contract tests."""

from typing import Any, NamedTuple

import jax
import pytest

import learned_opt


class Case(NamedTuple):
    name: str
    optimizer: Any
    theta: Any
    tx: Any  # the transform for a run of 50 steps
    update: Any  # jitted: (grads, state, params, value) -> (updates, state)


_CASES: dict[str, Case] = {}


@pytest.fixture(params=learned_opt.names())
def case(request) -> Case:
    name = request.param
    if name not in _CASES:
        optimizer = learned_opt.get(name)()
        theta = jax.jit(optimizer.init)(jax.random.key(0))
        tx = optimizer.transform(theta, num_steps=50)

        @jax.jit
        def update(grads, state, params, value):
            return tx.update(grads, state, params, value=value, valid_value=value + 0.1)

        _CASES[name] = Case(name, optimizer, theta, tx, update)
    return _CASES[name]
