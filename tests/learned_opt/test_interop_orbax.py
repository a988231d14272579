"""A run saved by orbax in the middle goes on, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from orbax.checkpoint import v1 as ocp

import learned_opt

# With what a state has per parameter, per row, per tensor and per model.
FEW = ("adafactor_mlp", "hierarchical")
slow = lambda name: pytest.param(name, marks=pytest.mark.slow)


def numbers(seed):
    rng = np.random.default_rng(seed)
    shapes = {"b": (3,), "w": (4, 3)}
    return {
        key: jnp.asarray(rng.normal(size=s), "float32") for key, s in shapes.items()
    }


def go_on(case, run, steps):
    for t in steps:
        value = jnp.float32(2.0 - 0.1 * t)
        updates, state = case.update(numbers(t), run["state"], run["params"], value)
        run = {"params": optax.apply_updates(run["params"], updates), "state": state}
    return run


def assert_same_bits(a, b):
    bits = lambda x: (x.dtype, x.shape, np.asarray(x).tobytes())
    assert jax.tree.map(bits, a) == jax.tree.map(bits, b)


@pytest.mark.parametrize(
    "case",
    [name if name in FEW else slow(name) for name in learned_opt.names()],
    indirect=True,
)
def test_a_restored_run_goes_on_bit_for_bit(case, tmp_path):
    params = numbers(100)
    run = go_on(case, {"params": params, "state": case.tx.init(params)}, range(3))
    ocp.save(tmp_path / "run", run)
    fresh = {"params": params, "state": case.tx.init(params)}
    restored = ocp.load(tmp_path / "run", fresh)
    assert_same_bits(restored, run)
    assert_same_bits(go_on(case, restored, range(3, 6)), go_on(case, run, range(3, 6)))
