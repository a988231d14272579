"""flax's `nnx.Optimizer` and linen's `TrainState` train with every optimizer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx, serialization
from flax.core import freeze
from flax.training import train_state

import learned_opt

NEED_VALUE = {"hierarchical", "hyper_v2", "celo"}

# The one that has most to be handed through; the others when there is time.
few = pytest.mark.parametrize(
    "case",
    [
        name if name == "hierarchical" else pytest.param(name, marks=pytest.mark.slow)
        for name in learned_opt.names()
    ],
    indirect=True,
)

X = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4)), jnp.float32)
Y = jnp.asarray(np.random.default_rng(1).normal(size=(8, 3)), jnp.float32)


def distance(predicted):
    return jnp.mean((predicted - Y) ** 2)


def by_hand(case, params, steps):
    """What the parameters of a linear model must become."""
    state = case.tx.init(params)
    loss = lambda p: distance(X @ p["kernel"] + p["bias"])

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = case.tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return params, state


def assert_equal(a, b):
    pair = lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)
    jax.tree.map(pair, a, b)


def nnx_step(model, optimizer):
    value, grads = nnx.value_and_grad(lambda m: distance(m(X)))(model)
    optimizer.update(model, grads, value=value)


def test_an_nnx_optimizer_accepts_every_one(case):
    def run():
        model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
        optimizer = nnx.Optimizer(model, case.tx, wrt=nnx.Param)
        nnx_step(model, optimizer)
        return nnx.to_pure_dict(nnx.state(model)), optimizer.step[...]

    params, step = jax.eval_shape(run)
    assert params["kernel"].shape == (4, 3) and step.shape == ()


@few
def test_an_nnx_optimizer_does_what_is_done_by_hand_and_passes_the_loss_on(case):
    model = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, case.tx, wrt=nnx.Param)
    params = jax.tree.map(jnp.copy, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
    step = nnx.jit(nnx_step)
    for _ in range(3):
        step(model, optimizer)
    expected, state = by_hand(case, params, 3)
    assert_equal(nnx.to_pure_dict(nnx.state(model, nnx.Param)), expected)
    own = jax.tree.leaves(nnx.as_pure(optimizer.opt_state))
    assert_equal(own, jax.tree.leaves(state))


class LossPassedOn(train_state.TrainState):
    """A `TrainState` whose optimizer sees the loss."""

    def apply_gradients(self, *, grads, value, **kwargs):
        updates, opt_state = self.tx.update(
            grads, self.opt_state, self.params, value=value
        )
        params = optax.apply_updates(self.params, updates)
        return self.replace(
            step=self.step + 1, params=params, opt_state=opt_state, **kwargs
        )


MODULE = linen.Dense(3)


def linen_params():
    return jax.jit(MODULE.init)(jax.random.key(0), X)["params"]


def gradients(state):
    loss = lambda params: distance(state.apply_fn({"params": params}, X))
    return jax.value_and_grad(loss)(state.params)


def test_a_train_state_needs_no_change_for_those_that_need_no_loss(case):
    def run(params):
        state = train_state.TrainState.create(
            apply_fn=MODULE.apply, params=params, tx=case.tx
        )
        return state.apply_gradients(grads=gradients(state)[1])

    if case.name in NEED_VALUE:
        with pytest.raises(ValueError, match=r"needs the training loss.*TrainState"):
            jax.eval_shape(run, linen_params())
    else:
        state = jax.eval_shape(run, linen_params())
        assert state.params["kernel"].shape == (4, 3)


@few
def test_a_train_state_that_passes_the_loss_on_does_what_is_done_by_hand(case):
    params = linen_params()
    state = LossPassedOn.create(apply_fn=MODULE.apply, params=params, tx=case.tx)

    @jax.jit
    def step(state):
        value, grads = gradients(state)
        return state.apply_gradients(grads=grads, value=value)

    for _ in range(3):
        state = step(state)
    expected, opt_state = by_hand(case, params, 3)
    assert_equal((state.params, state.opt_state), (expected, opt_state))
    assert int(state.step) == 3


def test_a_state_written_and_read_by_flax_is_the_same(case):
    params = {"kernel": X[:, :3].astype(jnp.bfloat16), "layers": [jnp.ones(3)]}
    fresh = case.tx.init(params)
    state = jax.tree.map(lambda x: x + 1, fresh)
    for restored in (
        serialization.from_bytes(fresh, serialization.to_bytes(state)),
        serialization.from_state_dict(fresh, serialization.to_state_dict(state)),
    ):
        assert jax.tree.structure(restored) == jax.tree.structure(state)
        assert_equal(restored, state)
        cast = jax.tree.map(lambda p: p.astype(jnp.float16), params)
        with pytest.raises(ValueError, match=r"\['kernel'\] was bfloat16 at `init`"):
            case.tx.update(cast, restored, cast, value=1.0)


def test_frozen_parameters_have_a_frozen_state():
    optimizer = learned_opt.Adam()
    tx = optimizer.transform(optimizer.init(jax.random.key(0)))
    params = freeze(linen_params())
    updates, state = tx.update(params, tx.init(params), params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    assert jax.tree.structure(state.rule.slots.m) == jax.tree.structure(params)
