"""Parameters of any precision, and those that are no parameters: dtypes and shapes.

What a trace can tell is tested for every optimizer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt

slow = lambda name: pytest.param(name, marks=pytest.mark.slow)
only = lambda *names: pytest.mark.parametrize("case", names, indirect=True)


def numbers(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = {"b": (3,), "w": (4, 3)}
    return {key: jnp.asarray(rng.normal(size=s), dtype) for key, s in shapes.items()}


PARAMS, GRADS = numbers(0), numbers(1)
LOSS = jnp.float32(1.5)


def types(tree):
    kind = lambda x: (jnp.shape(x), jnp.result_type(x), x.weak_type)
    return jax.tree.map(kind, tree)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_parameters_have_a_float32_state_that_keeps_its_types(
    case, dtype
):
    params = numbers(0, dtype)
    state = jax.eval_shape(case.tx.init, params)
    step = lambda g, s, p: case.tx.update(g, s, p, value=jnp.float16(1.0))
    updates, after = jax.eval_shape(step, params, state, params)
    assert types(updates) == types(params)
    assert types(after) == types(state)
    assert {x.dtype.name for x in jax.tree.leaves(state)} <= {"float32", "int32"}


@only("adafactor_mlp", slow("hyper_v2"))
def test_float16_gradients_near_the_largest_number_do_not_overflow(case):
    params = numbers(0, jnp.float16)
    grads = jax.tree.map(lambda g: jnp.full_like(g, 6e4), params)
    updates, state = case.update(grads, case.tx.init(params), params, LOSS)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state)))


def test_where_float64_is_on_its_state_is_the_same_and_keeps_its_types(case):
    expected = types(jax.eval_shape(case.tx.init, PARAMS))
    step = lambda g, s, p: case.tx.update(g, s, p, value=1.0, valid_value=1.0)

    def maybe(choice, grads, state, params):
        stay = lambda: (jax.tree.map(jnp.zeros_like, params), state)
        return jax.lax.cond(choice, lambda: step(grads, state, params), stay)

    with jax.enable_x64(True):
        params = numbers(0, jnp.float64)
        state = jax.eval_shape(case.tx.init, params)
        updates, after = jax.eval_shape(maybe, True, params, state, params)
        assert types(updates) == types(params)
        assert types(after) == types(state) == expected
        params = numbers(0, jnp.float32)
        state = jax.eval_shape(case.tx.init, params)
        assert "f64" not in str(jax.make_jaxpr(step)(params, state, params))


def test_where_float64_is_on_its_fresh_theta_is_the_same(case):
    with jax.enable_x64(True):
        theta = jax.eval_shape(case.optimizer.init, jax.random.key(0))
        assert types(theta) == types(case.theta)


@only("scale_free", slow("hierarchical"))
def test_where_float64_is_on_it_takes_the_same_steps(case):
    expected, _ = case.update(GRADS, case.tx.init(PARAMS), PARAMS, LOSS)
    with jax.enable_x64(True):
        params, grads = numbers(0, jnp.float64), numbers(1, jnp.float64)
        losses = {"value": LOSS, "valid_value": LOSS + 0.1}
        update = jax.jit(lambda g, s, p: case.tx.update(g, s, p, **losses))
        updates, _ = update(grads, case.tx.init(params), params)
        assert {u.dtype.name for u in jax.tree.leaves(updates)} == {"float64"}
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)
    jax.tree.map(close, updates, expected)


@pytest.mark.parametrize(
    ("leaf", "what", "fix"),
    [
        (np.ones(2, np.complex64), "complex64", "split_real_and_imaginary"),
        (np.ones(2, np.int32), "int32", "eqx.is_inexact_array"),
        (jax.nn.relu, "PjitFunction|custom_jvp", "optax.masked"),
    ],
)
def test_what_cannot_be_trained_is_an_error_that_names_it_and_a_way_out(
    leaf, what, fix
):
    tx = learned_opt.Sgd().transform(learned_opt.Sgd().init(jax.random.key(0)))
    with pytest.raises(ValueError, match=rf"\['other'\] is ({what}), .*{fix}"):
        tx.init(PARAMS | {"other": leaf})


def test_complex_parameters_are_trained_as_pairs_of_real_ones():
    optimizer = learned_opt.Adam(learning_rate=0.1)
    tx = optax.contrib.split_real_and_imaginary(
        optimizer.transform(optimizer.init(jax.random.key(0)))
    )
    params = {"z": jnp.array([1 + 2j, -1j])}
    loss = lambda p: jnp.sum(jnp.abs(p["z"]) ** 2)
    state, before = tx.init(params), loss(params)
    update = jax.jit(tx.update)
    for _ in range(20):
        grads = jax.tree.map(jnp.conj, jax.grad(loss)(params))
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert float(loss(params)) < 0.2 * float(before)


def test_abstract_parameters_give_an_abstract_state(case):
    params = jax.ShapeDtypeStruct((2, 4, 8), jnp.float32)
    state = case.tx.init(params)
    expected = jax.eval_shape(case.tx.init, params)
    assert state == expected
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(state))
