"""Every registered optimizer, with its meta-parameters, for the contract tests."""

from typing import Any, NamedTuple

import jax
import numpy as np
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


class AdafactorInNumpy:
    """The averages and features of one tensor of the VeLO family, by definition."""

    def __init__(
        self, shape, m=(0.9, 0.99, 0.999), v=0.999, factored=(0.9, 0.99, 0.999)
    ):
        self.decays = [
            np.reshape(d, (-1,) + (1,) * len(shape)) for d in (m, v, factored)
        ]
        self.m, self.v, self.full = (np.zeros((n, *shape)) for n in (3, 1, 3))

    def step(self, g, p, added_to_vectors=0.0):
        """The 30 features ``[30, *shape]``, normalised, after one more gradient."""
        of_m, of_v, of_full = self.decays
        self.m = of_m * self.m + (1 - of_m) * g
        self.v = of_v * self.v + (1 - of_v) * g**2
        self.full = of_full * self.full + (1 - of_full) * (g**2 + 1e-30)
        root = np.sqrt(self.v + 1e-6)
        if g.ndim < 2:
            row, column = self.full, self.full
            root_of_means = np.sqrt(self.full + added_to_vectors)
            by_root = g / np.sqrt(self.full + 1e-9), self.m / root_of_means
        else:
            second, longest = 1 + np.argsort(g.shape, kind="stable")[-2:]
            row = self.full.mean(longest, keepdims=True)
            column = self.full.mean(second, keepdims=True)
            relative = row / (row.mean(second, keepdims=True) + 1e-9)
            both = np.maximum(relative, 1e-9) * np.maximum(column, 1e-9)
            by_root = g / np.sqrt(both), self.m / np.sqrt(both)
        groups = [[g], [np.clip(g, -0.1, 0.1)], [p], self.m, self.v, self.m / root]
        groups += [1 / root, by_root[0], g / root, row, column]
        groups += [(row + 1e-8) ** -0.5, (column + 1e-8) ** -0.5, by_root[1]]
        x = np.stack([np.broadcast_to(a, g.shape) for group in groups for a in group])
        axes = tuple(range(1, x.ndim))
        return x / np.sqrt(np.mean(x**2, axis=axes, keepdims=True) + 1e-5)

    def step_of_28(self, g, p):
        """The 28 features, without the clipped gradient and g / sqrt(v)."""
        return np.delete(self.step(g, p, added_to_vectors=1e-6), [1, 14], axis=0)


@pytest.fixture(scope="session")
def adafactor_in_numpy():
    return AdafactorInNumpy
