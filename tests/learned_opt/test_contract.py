"""What holds for every optimizer of the package; a new one is tested by registering."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import Flat, Signals
from learned_opt import layout as layout_module

META_PARAMETERS = {
    "sgd": 1,
    "momentum": 2,
    "adam": 4,
    "adam8p": 8,
    "nadamw": 6,
    "rnn": 5141,
    "per_parameter_mlp": 1762,
    "hierarchical": 35799,
    "scale_free": 226,
    "star": 202,
    "celo2": 347,
    "adafactor_mlp": 197,
    "hyper_v2": 2_302_465,
    "celo_rule": 159,
    "celo": 35_808,
}
HAND_DESIGNED = ("sgd", "momentum", "adam", "adam8p", "nadamw")
VALUE = jnp.float32(1.5)

# Wrappers and loops take long to compile and do not look inside: one optimizer of each
# kind of state and signal stands for all, and the others are slow tests.
FEW = ("adam", "scale_free", "rnn", "adafactor_mlp", "hierarchical", "celo")
few = pytest.mark.parametrize(
    "case",
    [
        name if name in FEW else pytest.param(name, marks=pytest.mark.slow)
        for name in learned_opt.names()
    ],
    indirect=True,
)


def normal(seed, shapes, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    draw = lambda shape: jnp.asarray(rng.normal(size=shape), dtype)
    return jax.tree.map(draw, shapes, is_leaf=lambda x: isinstance(x, tuple))


MIXED = {"scalar": (), "vector": (7,), "matrix": (5, 3), "rank5": (2, 1, 2, 3, 2)}
SMALL = {"b": (3,), "w": (4, 3)}


@pytest.fixture
def small():
    return normal(0, SMALL), normal(1, SMALL)


def assert_close(a, b, rtol=1e-5, atol=1e-8):
    pair = lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)
    jax.tree.map(pair, a, b)


def assert_same_types(a, b):
    type_of = lambda tree: jax.tree.map(
        lambda x: (jnp.shape(x), jnp.result_type(x), x.weak_type), tree
    )
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert type_of(a) == type_of(b)


def test_it_has_the_stated_number_of_meta_parameters_all_float32(case):
    leaves = jax.tree.leaves(case.theta)
    assert sum(leaf.size for leaf in leaves) == META_PARAMETERS[case.name]
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in leaves)


@pytest.mark.parametrize("many", [False, True])
def test_flat_and_per_tensor_layouts_agree_for_twenty_steps(case, many, monkeypatch):
    if many:  # each tensor in blocks, as from 32 of them on
        monkeypatch.setattr(layout_module, "_MANY_TENSORS", 1)
        monkeypatch.setattr(layout_module, "_BLOCK", 4)
    params = normal(0, MIXED | {"empty": (0, 3)})
    layout = Flat(params)
    state = case.tx.init(params)
    flat = layout.ravel(params)
    flat_state = case.optimizer.start(case.theta, flat, layout)

    @jax.jit
    def advance(state, grads, params, value):
        signals = Signals(value, value + 0.1, jnp.float32(50))
        return case.optimizer.advance(case.theta, state, grads, params, layout, signals)

    for t in range(20):
        grads = normal(10 + t, MIXED | {"empty": (0, 3)})
        value = jnp.float32(2 - 0.05 * t)
        updates, state = case.update(grads, state, params, value)
        step, flat_state = advance(flat_state, layout.ravel(grads), flat, value)
        params, flat = optax.apply_updates(params, updates), flat + step
        step = layout.unravel(step)
        scale = max(np.abs(x).max(initial=0) for x in jax.tree.leaves(step))
        assert_close(updates, step, atol=1e-5 * scale)
    assert_close(params, layout.unravel(flat), atol=1e-6)


def test_state_is_arrays_whose_types_never_change(case, small):
    params, grads = small
    state = case.tx.init(params)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(state))
    updates, after = case.update(grads, state, params, VALUE)
    assert_same_types(state, after)
    assert_same_types(updates, params)
    assert int(after.rule.step) == 1


@few
def test_it_scans_and_vmaps(case, small):
    params, grads = small

    def run(params):
        def body(carry, value):
            params, state = carry
            updates, state = case.tx.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), None

        carry = (params, case.tx.init(params))
        return jax.lax.scan(body, carry, jnp.array([1.0, 0.9]))[0][0]

    two = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), params)
    lanes = jax.jit(jax.vmap(run))(two)
    alone, state = params, case.tx.init(params)
    for value in (1.0, 0.9):
        updates, state = case.tx.update(grads, state, alone, value=value)
        alone = optax.apply_updates(alone, updates)
    assert_close(jax.tree.map(lambda x: x[0], lanes), alone, atol=1e-6)


@few
@pytest.mark.parametrize(
    "wrap",
    [
        lambda tx: optax.chain(optax.clip(1e9), tx, optax.scale(1.0)),
        lambda tx: optax.partition({"x": tx}, {"b": "x", "w": "x"}),
        lambda tx: optax.masked(tx, {"b": True, "w": True}),
        lambda tx: optax.apply_if_finite(tx, 3),
        lambda tx: optax.MultiSteps(tx, 1).gradient_transformation(),
    ],
    ids=["chain", "partition", "masked", "apply_if_finite", "MultiSteps"],
)
def test_optax_wrappers_change_nothing_when_they_do_nothing(case, small, wrap):
    params, grads = small
    expected, _ = case.update(grads, case.tx.init(params), params, VALUE)
    tx = wrap(case.tx)
    state = tx.init(params)
    extra = dict(value=VALUE, valid_value=VALUE + 0.1)
    if case.name == "hierarchical":
        updates, after = jax.jit(tx.update)(grads, state, params, **extra)
    else:
        updates, after = tx.update(grads, state, params, **extra)
    assert_close(updates, expected, rtol=1e-4, atol=1e-7)
    assert jax.tree.structure(state) == jax.tree.structure(after)


@few
def test_partition_lets_it_share_a_model_with_another_transform(case, small):
    params, grads = small
    tx = optax.partition({"x": case.tx, "f": optax.set_to_zero()}, {"b": "f", "w": "x"})
    updates, _ = tx.update(grads, tx.init(params), params, value=VALUE)
    assert np.all(updates["b"] == 0) and np.any(updates["w"] != 0)


@few
def test_a_partition_may_be_empty(case, small):
    params, grads = small
    tx = optax.partition({"x": case.tx, "f": optax.set_to_zero()}, {"b": "f", "w": "f"})
    updates, _ = tx.update(grads, tx.init(params), params, value=VALUE)
    assert_close(updates, jax.tree.map(jnp.zeros_like, params))


@few
def test_multi_steps_updates_once_per_accumulation(case, small):
    params, grads = small
    tx = optax.MultiSteps(case.tx, 2)
    state = tx.init(params)
    update = jax.jit(lambda g, s, p: tx.update(g, s, p, value=VALUE))
    first, state = update(grads, state, params)
    second, state = update(grads, state, params)
    assert_close(first, jax.tree.map(jnp.zeros_like, params))
    assert any(np.any(x != 0) for x in jax.tree.leaves(second))


@few
def test_theta_can_be_injected_as_a_hyperparameter(case, small):
    params, grads = small
    expected, _ = case.tx.update(grads, case.tx.init(params), params, value=VALUE)
    make = lambda log_scale: optax.chain(
        case.optimizer.transform(case.theta, num_steps=50),
        optax.scale(jnp.exp(log_scale)),
    )
    tx = optax.inject_hyperparams(make)(log_scale=0.0)
    updates, _ = tx.update(grads, tx.init(params), params, value=VALUE)
    assert_close(updates, expected)


def test_one_leaf_is_a_model(case):
    param, grad = jnp.ones((2, 3)), jnp.full((2, 3), 0.1)
    updates, _ = case.tx.update(grad, case.tx.init(param), param, value=VALUE)
    assert updates.shape == (2, 3)


@few
@pytest.mark.parametrize("tensors", [10, pytest.param(300, marks=pytest.mark.slow)])
def test_many_leaves_are_a_model(case, tensors):
    leaves = [jnp.full((2,), 1.0 + i) for i in range(tensors)]
    update = lambda g, p: case.tx.update(g, case.tx.init(p), p, value=VALUE)
    updates, _ = jax.eval_shape(update, leaves, leaves)
    assert len(updates) == tensors

    layout = Flat(leaves)
    flat = layout.ravel(leaves)
    start = case.optimizer.start(case.theta, flat, layout)
    signals = Signals(VALUE, None, jnp.float32(50))
    step, _ = jax.jit(
        lambda s, g: case.optimizer.advance(case.theta, s, g, flat, layout, signals)
    )(start, flat)
    assert step.shape == (2 * tensors,) and np.isfinite(step).all()


@few
def test_slopes_in_theta_are_finite_where_everything_is_zero(case):
    start = {"w": jnp.zeros((3, 2)), "b": jnp.zeros(2)}

    def way(theta):
        tx = case.optimizer.transform(theta, num_steps=50)

        def step(carry, _):
            params, state = carry
            grads = jax.tree.map(lambda p: 0 * p, params)  # zeros that follow theta
            updates, state = tx.update(grads, state, params, value=VALUE)
            return (optax.apply_updates(params, updates), state), None

        (params, _), _ = jax.lax.scan(step, (start, tx.init(start)), length=2)
        return sum(jnp.sum(p) for p in jax.tree.leaves(params))

    backwards = jax.jit(jax.grad(way))(case.theta)
    along = jax.tree.map(jnp.ones_like, case.theta)
    forwards = jax.jit(lambda t: jax.jvp(way, (t,), (along,)))(case.theta)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((backwards, forwards)))


def test_an_update_needs_little_memory_besides_state_and_updates(case):
    shape = lambda *n: jax.ShapeDtypeStruct(n, jnp.float32)
    params = {"b": shape(1024), "v": shape(512, 1024), "w": shape(1024, 1024)}
    state = jax.eval_shape(case.tx.init, params)

    def update(
        grads, state, params
    ):  # what replaces a state comes first, as it is donated
        return case.tx.update(grads, state, params, value=VALUE)[::-1]

    program = jax.jit(update, donate_argnums=1).lower(params, state, params).compile()
    kept = sum(4 * x.size for x in jax.tree.leaves((params, state)))
    assert program.memory_analysis().temp_size_in_bytes <= 1.2 * kept


def test_a_tensor_may_have_more_elements_than_an_integer_of_32_bits(case):
    params = {"w": jax.ShapeDtypeStruct((2**16, 2**15), jnp.bfloat16)}
    state = jax.eval_shape(case.tx.init, params)
    updates, _ = jax.eval_shape(case.update, params, state, params, VALUE)
    assert updates["w"].shape == params["w"].shape


def test_bfloat16_parameters_get_bfloat16_updates_and_float32_state(case):
    params, grads = normal(0, SMALL, jnp.bfloat16), normal(1, SMALL, jnp.bfloat16)
    state = case.tx.init(params)
    updates, state = case.update(grads, state, params, VALUE)
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
    assert {x.dtype for x in jax.tree.leaves(state)} <= {
        jnp.dtype("float32"),
        jnp.dtype("int32"),
    }


@few
def test_the_second_call_does_not_compile_again(case, small):
    params, grads = small
    traced = []

    @jax.jit
    def update(grads, state, params):
        traced.append(True)
        return case.tx.update(grads, state, params, value=VALUE)

    state = case.tx.init(params)
    for _ in range(2):
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert len(traced) == 1


def test_unexpected_extra_arguments_are_accepted(case, small):
    params, grads = small
    case.tx.update(grads, case.tx.init(params), params, value=1.0, what_is_this=2)


def test_the_loss_may_be_a_float_or_an_array(case, small):
    params, grads = small
    state = case.tx.init(params)
    a, _ = case.tx.update(grads, state, params, value=1.5)
    b, _ = case.tx.update(grads, state, params, value=jnp.float32(1.5))
    assert_close(a, b)


def test_state_can_be_made_and_updated_abstractly(case, small):
    params, grads = small
    real = case.tx.init(params)
    state = jax.eval_shape(case.tx.init, params)
    assert jax.tree.structure(state) == jax.tree.structure(real)
    pairs = zip(jax.tree.leaves(state), jax.tree.leaves(real), strict=True)
    assert all((a.shape, a.dtype) == (r.shape, r.dtype) for a, r in pairs)
    update = lambda g, s, p: case.tx.update(g, s, p, value=VALUE)
    updates, _ = jax.eval_shape(update, grads, state, params)
    assert updates["w"].shape == (4, 3)


def test_optax_can_map_over_the_parts_shaped_like_parameters(case, small):
    params, _ = small
    state = case.tx.init(params)
    marked = optax.tree.map_params(
        case.tx, lambda x: "field", state, transform_non_params=lambda x: "other"
    )
    marked = jax.tree.broadcast(marked, state)  # lists of lines are one part to optax
    fields = jax.tree.leaves(marked.rule.slots)
    assert fields == ["field"] * len(fields)
    others = len(jax.tree.leaves(state)) - len(fields)
    assert jax.tree.leaves(marked).count("other") == others


def test_missing_parameters_give_the_words_of_optax(case, small):
    params, grads = small
    theirs = optax.add_decayed_weights(0.1)
    with pytest.raises(ValueError) as expected:
        theirs.update(grads, theirs.init(params), None)
    with pytest.raises(ValueError) as error:
        case.tx.update(grads, case.tx.init(params), None, value=1.0)
    assert str(error.value) == str(expected.value)


def test_a_changed_shape_is_an_error_that_names_the_tensor(case, small):
    params, grads = small
    state = case.tx.init(params)
    with pytest.raises(ValueError, match=r"\['w'\].*\(4, 3\).*gradient.*\(2, 2\)"):
        bad = grads | {"w": jnp.ones((2, 2))}
        case.tx.update(bad, state, params, value=1.0)
    if jax.tree.leaves(state.rule.slots):
        with pytest.raises(ValueError, match=r"\['w'\].*\(2, 2\).*init.*\(4, 3\)"):
            other = params | {"w": jnp.ones((2, 2))}
            case.tx.update(other, state, other, value=1.0)
        with pytest.raises(ValueError, match="another structure"):
            other = params | {"new": jnp.ones(())}
            case.tx.update(other, state, other, value=1.0)
    with pytest.raises(ValueError, match="differ in structure"):
        case.tx.update(grads | {"new": jnp.ones(())}, state, params, value=1.0)


def test_parameters_with_more_or_fewer_axes_are_an_error_that_names_the_tensor(case):
    large = {"w": jnp.ones((5, 4, 3))}
    small = {"w": jnp.ones((4, 3))}
    for at_init, now in ((large, small), (small, large)):
        state = case.tx.init(at_init)
        if jax.tree.leaves(state.rule.slots):
            with pytest.raises(
                ValueError, match=r"\['w'\] has shape .* made at `init`"
            ):
                case.tx.update(now, state, now, value=1.0)


@pytest.mark.parametrize(
    "shapes", [{"b": (3,), "w": (3, 4)}, {"b": (4, 3), "w": (3,)}, {"b": (15,)}]
)
def test_other_shapes_of_the_same_length_are_an_error_in_the_flat_layout(
    case, small, shapes
):
    tx = case.optimizer.transform(case.theta, num_steps=50, layout=Flat)
    state, other = tx.init(small[0]), normal(0, shapes)
    with pytest.raises(ValueError, match=r"\['\w'\] has shape .* at `init`|made for 2"):
        tx.update(other, state, other, value=1.0)


def test_a_state_of_the_other_layout_is_an_error(case, small):
    params, grads = small
    flat = case.optimizer.transform(case.theta, num_steps=50, layout=Flat)
    state = case.tx.init(params)
    if jax.tree.leaves(state.rule.slots):
        for tx, other in ((flat, state), (case.tx, flat.init(params))):
            with pytest.raises(ValueError, match="another layout"):
                tx.update(grads, other, params, value=1.0)


def test_a_state_of_another_optimizer_is_an_error(case, small):
    params, grads = small
    with pytest.raises(ValueError, match="state of another optimizer.* not a tuple"):
        case.tx.update(grads, optax.adam(1.0).init(params), params, value=1.0)


def test_a_changed_dtype_is_an_error_that_names_the_tensor(case, small):
    params, grads = small
    state = case.tx.init(params)
    cast = params | {"w": params["w"].astype(jnp.bfloat16)}
    with pytest.raises(
        ValueError, match=r"\['w'\] was float32 at `init` and is bfloat"
    ):
        case.tx.update(grads, state, cast, value=1.0)


def test_a_model_of_more_tensors_than_at_init_is_an_error(case, small):
    params, grads = small
    state = case.tx.init(params)
    more = lambda tree: tree | {"new": jnp.ones(())}
    with pytest.raises(ValueError, match="another structure|was made for"):
        case.tx.update(more(grads), state, more(params), value=1.0)


def test_sharded_parameters_keep_their_sharding(case):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.NamedSharding(mesh, jax.P("x"))
    params = {"w": jax.device_put(jnp.ones((8, 2)), sharding)}
    state = jax.jit(case.tx.init)(params)
    update = jax.jit(lambda g, s, p: case.tx.update(g, s, p, value=VALUE))
    updates, after = update(params, state, params)
    for leaf in (updates["w"], *jax.tree.leaves(after.rule.slots)):
        lead = (None,) * (leaf.ndim - 2)
        expected = jax.NamedSharding(mesh, jax.P(*lead, "x"))
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim)


def test_explicitly_sharded_parameters_keep_their_sharding(case):
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        params = {"w": jax.device_put(jnp.ones((8, 2)), jax.P("x", None))}
        update = lambda p: case.tx.update(p, case.tx.init(p), p, value=VALUE)
        updates, state = jax.jit(update)(params)
        for leaf in (updates["w"], *jax.tree.leaves(state.rule.slots)):
            lead = (None,) * (leaf.ndim - 2)
            assert jax.typeof(leaf).sharding.spec == jax.P(*lead, "x", None)


@pytest.mark.parametrize("case", HAND_DESIGNED, indirect=True)
def test_hand_designed_ones_descend_a_quadratic(case):
    params = {"x": jnp.array([1.0, -2.0]), "y": jnp.array(0.5)}
    loss = lambda p: 0.5 * (jnp.sum(p["x"] ** 2) + 3 * p["y"] ** 2)
    state, first = case.tx.init(params), loss(params)
    for _ in range(50):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = case.update(grads, state, params, value)
        params = optax.apply_updates(params, updates)
    assert loss(params) < 0.97 * first
