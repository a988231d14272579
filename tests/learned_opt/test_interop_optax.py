"""optax's wrappers do to these transforms what they do to optax's own.

What holds for every optimizer and costs only a trace is tested on all of them; numbers
are compared on a few (see test_interop_sharding.py for why these), the rest is slow.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import learned_opt
import pretrained

FEW = ("scale_free", "adafactor_mlp", "hierarchical")
NEED_VALUE = {"hierarchical", "hyper_v2", "celo"}
NEED_NUM_STEPS = {"scale_free", "adam8p", "hyper_v2", "celo"}

slow = lambda name: pytest.param(name, marks=pytest.mark.slow)
only = lambda *names: pytest.mark.parametrize("case", names, indirect=True)
few = only(*(name if name in FEW else slow(name) for name in learned_opt.names()))


@functools.cache
def compiled(tx):
    """The same transform, compiled: wrappers around it then run as they are."""
    return optax.GradientTransformationExtraArgs(tx.init, jax.jit(tx.update))


def numbers(seed, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = {"b": (3,), "w": (4, 3)}
    return {key: jnp.asarray(rng.normal(size=s), dtype) for key, s in shapes.items()}


PARAMS, GRADS, OTHER_GRADS = numbers(0), numbers(1), numbers(2)
LOSS = jnp.float32(1.5)


def assert_equal(a, b, rtol=1e-5, atol=1e-7):
    pair = lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol)
    jax.tree.map(pair, a, b)


def types(tree):
    kind = lambda x: (jnp.shape(x), jnp.result_type(x), x.weak_type)
    return jax.tree.map(kind, tree)


# Composition.


@few
def test_in_a_chain_it_sees_changed_gradients_and_its_updates_are_changed(case):
    tx = compiled(case.tx)
    decay = optax.add_decayed_weights(-0.01)  # of a step that is added
    chain = optax.chain(optax.scale(2.0), tx, decay)
    double = jax.tree.map(lambda g: 2 * g, GRADS)
    expected, _ = tx.update(double, tx.init(PARAMS), PARAMS, value=LOSS)
    updates, _ = chain.update(GRADS, chain.init(PARAMS), PARAMS, value=LOSS)
    assert_equal(updates, jax.tree.map(lambda u, p: u - 0.01 * p, expected, PARAMS))


@few
def test_a_schedule_on_top_scales_its_updates(case):
    tx = compiled(case.tx)
    chain = optax.chain(tx, optax.scale_by_schedule(lambda step: 1 / (step + 1)))
    state, scheduled = tx.init(PARAMS), chain.init(PARAMS)
    for t in range(3):
        plain, state = tx.update(GRADS, state, PARAMS, value=LOSS)
        updates, scheduled = chain.update(GRADS, scheduled, PARAMS, value=LOSS)
        assert_equal(updates, jax.tree.map(lambda u, t=t: u / (t + 1), plain))
    assert_equal(scheduled[0], state)
    assert int(optax.tree.get(scheduled[0].rule, "step")) == 3


@only("adafactor_mlp", slow("hierarchical"))
def test_two_of_them_share_a_model(case):
    matrices, other = (
        compiled(case.tx),
        pretrained.optimizer("scale_free", num_steps=50),
    )
    vectors = compiled(other)
    tx = optax.partition({"m": matrices, "v": vectors}, {"b": "v", "w": "m"})
    updates, _ = tx.update(GRADS, tx.init(PARAMS), PARAMS, value=LOSS)
    for key, alone in (("w", matrices), ("b", vectors)):
        masked = optax.masked(alone, {"b": key == "b", "w": key == "w"})
        expected, _ = masked.update(GRADS, masked.init(PARAMS), PARAMS, value=LOSS)
        assert_equal(updates[key], expected[key])


@only("scale_free", "adafactor_mlp")
def test_a_masked_tensor_passes_through_unseen_and_has_no_state(case):
    tx = compiled(case.tx)
    masked = optax.masked(tx, {"b": False, "w": True})
    state = masked.init(PARAMS)
    updates, _ = masked.update(GRADS, state, PARAMS, value=LOSS)
    alone = {"w": PARAMS["w"]}
    expected, _ = tx.update({"w": GRADS["w"]}, tx.init(alone), alone, value=LOSS)
    assert_equal(updates, {"b": GRADS["b"], "w": expected["w"]})
    assert types(jax.tree.leaves(state)) == types(jax.tree.leaves(tx.init(alone)))


@only("scale_free")
def test_flattened_it_sees_one_tensor(case):
    tx = compiled(case.tx)
    flattened = optax.flatten(tx)
    updates, _ = flattened.update(GRADS, flattened.init(PARAMS), PARAMS, value=LOSS)
    grads, params = (ravel_pytree(tree)[0] for tree in (GRADS, PARAMS))
    expected, _ = tx.update(grads, tx.init(params), params, value=LOSS)
    assert_equal(ravel_pytree(updates)[0], expected)


@only("hierarchical")
def test_reduce_on_plateau_after_it_sees_the_same_loss(case):
    plateau = optax.contrib.reduce_on_plateau(factor=0.5, patience=1)
    chain = optax.chain(compiled(case.tx), plateau)
    state = chain.init(PARAMS)
    for _ in range(4):  # a loss that does not move
        _, state = chain.update(GRADS, state, PARAMS, value=LOSS)
    assert float(state[1].scale) < 1


# Hyperparameters.


@only("scale_free", slow("hyper_v2"))
def test_the_length_of_the_run_injected_is_that_given(case):
    inject = optax.inject_hyperparams(case.optimizer.transform)
    tx = inject(case.theta, num_steps=50)
    state = tx.init(PARAMS)
    update = jax.jit(tx.update)
    updates, after = update(GRADS, state, PARAMS, value=LOSS)
    plain = compiled(case.tx)
    expected, inner = plain.update(GRADS, plain.init(PARAMS), PARAMS, value=LOSS)
    assert_equal((updates, after.inner_state), (expected, inner))


def test_a_run_can_be_made_longer_while_it_goes():
    tx = optax.inject_hyperparams(pretrained.optimizer)("scale_free", num_steps=2)
    update = jax.jit(tx.update)
    state = tx.init(PARAMS)
    for _ in range(2):
        _, state = update(GRADS, state, PARAMS)
    at_the_end, _ = update(GRADS, state, PARAMS)
    state.hyperparams["num_steps"] = 1000
    with_more_to_come, _ = update(GRADS, state, PARAMS)
    size = lambda updates: float(optax.tree.norm(updates))
    assert size(at_the_end) < 0.1 * size(with_more_to_come)


# Wrappers that decide when to step.


@only(slow("scale_free"), "hierarchical")
def test_multi_steps_takes_the_mean_gradient_and_the_last_loss(case):
    tx = optax.MultiSteps(case.tx, 2)
    update = jax.jit(tx.update)
    state = tx.init(PARAMS)
    _, state = update(GRADS, state, PARAMS, value=jnp.float32(9.0))
    updates, state = update(OTHER_GRADS, state, PARAMS, value=LOSS)
    plain = compiled(case.tx)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, GRADS, OTHER_GRADS)
    expected, after = plain.update(mean, plain.init(PARAMS), PARAMS, value=LOSS)
    assert_equal((updates, state.inner_opt_state), (expected, after))


@only("scale_free", slow("hierarchical"))
def test_after_a_step_that_is_not_finite_all_is_as_if_it_had_not_been(case):
    tx = optax.apply_if_finite(case.tx, 3)
    update = jax.jit(tx.update)
    state = tx.init(PARAMS)
    broken = GRADS | {"w": GRADS["w"].at[0, 0].set(jnp.nan)}
    nothing, skipped = update(broken, state, PARAMS, value=jnp.float32(jnp.nan))
    assert_equal(nothing, jax.tree.map(jnp.zeros_like, PARAMS))
    assert_equal(skipped.inner_state, state.inner_state, rtol=0)
    a, _ = update(GRADS, skipped, PARAMS, value=LOSS)
    b, _ = update(GRADS, state, PARAMS, value=LOSS)
    assert_equal(a, b, rtol=0)


@only("scale_free", "adafactor_mlp")
@pytest.mark.parametrize("reset_state", [False, True])
def test_lookahead_takes_fast_steps_and_pulls_them_back(case, reset_state):
    plain = compiled(case.tx)
    tx = optax.lookahead(plain, 2, 0.5, reset_state=reset_state)
    params, fast = optax.LookaheadParams.init_synced(PARAMS), PARAMS
    state, inner = tx.init(params), plain.init(PARAMS)
    for grads in (GRADS, OTHER_GRADS):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        updates, inner = plain.update(grads, inner, fast)
        fast = optax.apply_updates(fast, updates)
    halfway = jax.tree.map(lambda a, b: (a + b) / 2, PARAMS, fast)
    assert_equal(params, optax.LookaheadParams(halfway, halfway), atol=1e-6)
    assert int(state.fast_state.rule.step) == (0 if reset_state else 2)


@only("hierarchical")
def test_a_loss_bound_to_update_gets_through_wrappers_that_do_not_pass_it_on(case):
    plain = compiled(case.tx)
    params = optax.LookaheadParams.init_synced(PARAMS)

    def lookahead(value):
        update = functools.partial(plain.update, value=value)
        return optax.lookahead(optax.GradientTransformation(plain.init, update), 5, 0.5)

    state = lookahead(LOSS).init(params)
    updates, _ = lookahead(LOSS).update(GRADS, state, params)
    expected, _ = plain.update(GRADS, plain.init(PARAMS), PARAMS, value=LOSS)
    assert_equal(updates.fast, expected)


# The loss and the length of the run.


def test_it_works_without_what_it_does_not_need_and_says_what_it_does(case):
    step = lambda tx: jax.eval_shape(tx.update, GRADS, tx.init(PARAMS), PARAMS)
    endless = case.optimizer.transform(case.theta)
    if case.name in NEED_NUM_STEPS:
        with pytest.raises(ValueError, match=r"num_steps=\.\.\."):
            step(endless)
    elif case.name not in NEED_VALUE:
        step(endless)
    if case.name in NEED_VALUE:
        with pytest.raises(ValueError, match=r"value=loss.*nnx.*apply_gradients"):
            step(case.tx)
    else:
        step(case.tx)


def test_a_loss_that_is_not_one_number_is_an_error():
    tx = learned_opt.Sgd().transform(learned_opt.Sgd().init(jax.random.key(0)))
    for name in ("value", "valid_value"):
        with pytest.raises(ValueError, match=rf"`{name}` must be one number.*\(2,\)"):
            tx.update(GRADS, tx.init(PARAMS), PARAMS, **{name: jnp.ones(2)})


@only("hierarchical", slow("hyper_v2"))
def test_a_compiled_update_does_the_same_with_a_float_and_an_array_as_loss(case):
    update = jax.jit(case.tx.update)
    state = case.tx.init(PARAMS)
    a, b = (update(GRADS, state, PARAMS, value=x) for x in (1.5, jnp.float32(1.5)))
    assert_equal(a, b, rtol=0, atol=0)
    assert types(a) == types(b)


@only("hierarchical")
def test_validation_losses_now_and_then_make_two_programs_and_no_more(case):
    tx, traced = case.tx, []

    @jax.jit
    def update(*args, **losses):
        traced.append(True)
        return tx.update(*args, **losses)

    start = tx.init(PARAMS)
    now_and_then = always = never = start
    for t in range(7):
        valid_value = LOSS + 0.1 * t
        extra = {} if t % 3 else {"valid_value": valid_value}
        a, now_and_then = update(GRADS, now_and_then, PARAMS, value=LOSS, **extra)
        # Inside one compiled loop, NaN says that there is none.
        valid_value = jnp.where(t % 3 == 0, valid_value, jnp.nan)
        b, always = update(GRADS, always, PARAMS, value=LOSS, valid_value=valid_value)
        c, never = update(GRADS, never, PARAMS, value=LOSS)
    assert len(traced) == 2
    assert_equal((a, now_and_then), (b, always))
    assert int(always.rule.losses.valid_count) == 3
    assert np.abs(b["w"] - c["w"]).max() > 1e-3 * np.abs(c["w"]).max()


# Buffers.


@few
def test_a_fresh_state_can_be_donated_and_theta_survives(case):
    params = jax.tree.map(jnp.copy, PARAMS)
    for init in (case.tx.init, jax.jit(case.tx.init)):
        state = init(params)
        buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves((state, params))]
        assert len(set(buffers)) == len(buffers)
        for leaf in jax.tree.leaves(state):
            leaf.delete()
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(case.theta))
