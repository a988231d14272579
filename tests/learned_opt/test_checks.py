"""What an optimizer cannot work with is an error that says what would be right."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt import checks

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("kind", "field", "number", "right"),
    [
        (learned_opt.Sgd, "learning_rate", 0.0, r"\(0, inf\)"),
        (learned_opt.Adam, "learning_rate", -1, r"\(0, inf\)"),
        (learned_opt.Adam, "b2", 1.0, r"\[0, 1\)"),
        (learned_opt.Adam, "eps", float("nan"), r"\(0, inf\)"),
        (learned_opt.Adam8p, "l1", -1e-9, r"\[0, inf\)"),
        (learned_opt.Momentum, "decay", 1.5, r"\[0, 1\)"),
        (learned_opt.NAdamW, "warmup_fraction", 100, r"\[0, 1\)"),
        (learned_opt.NAdamW, "min_lr_mult", 1.5, r"\[0, 1\]"),
        (learned_opt.NAdamW, "weight_decay", float("inf"), r"\[0, inf\)"),
        (learned_opt.ScaleFree, "hidden", 17, r"\[1, 16\]"),
        (learned_opt.Star, "step_size", -1.0, r"\[0, inf\)"),
        (learned_opt.Rnn, "step_size", 0, r"\(0, inf\)"),
        (learned_opt.Celo2, "learning_rate", -1.0, r"\(0, inf\)"),
        (learned_opt.Celo2Harness, "adamw_factor", 0.0, r"\(0, inf\)"),
        (learned_opt.Celo2Harness, "learning_rate", 0.0, r"\(0, inf\)"),
    ],
)
def test_a_number_out_of_its_range_is_an_error_with_the_range(
    kind, field, number, right
):
    name = f"{kind.__name__}.{field}"
    with pytest.raises(ValueError, match=f"{name} is {number}, and must be in {right}"):
        kind(**{field: number})


def test_the_ends_of_an_interval_belong_to_it_if_it_is_closed_there():
    learned_opt.NAdamW(b1=0.0, warmup_fraction=0.0, constant_fraction=1.0)
    learned_opt.Star(nominal_step=0.0)
    learned_opt.ScaleFree(hidden=16)


def test_a_schedule_for_a_number_is_an_error_that_says_where_it_goes():
    schedule = optax.cosine_decay_schedule(0.1, 100)
    for kind in (learned_opt.Adam, learned_opt.NAdamW, learned_opt.Celo2):
        with pytest.raises(TypeError, match="learning_rate .*optax.scale_by_schedule"):
            kind(learning_rate=schedule)
    learned_opt.Celo2Harness(learning_rate=schedule)  # which takes one


def test_what_is_no_number_is_an_error():
    for other in ("0.1", None, [0.1], jnp.ones(2)):
        with pytest.raises(TypeError, match="Adam.learning_rate must be a number, not"):
            learned_opt.Adam(learning_rate=other)  # type: ignore[arg-type]


def test_numbers_may_be_arrays_and_traced():
    def rate(log_rate):
        optimizer = learned_opt.Adam(learning_rate=jnp.exp(log_rate))
        return optimizer.init(KEY).log_learning_rate

    assert jnp.allclose(rate(jnp.float32(-2.0)), -2.0)
    assert jnp.allclose(jax.jit(rate)(-2.0), -2.0)


@pytest.mark.parametrize("number", [0, -5, float("nan"), jnp.float32(0)])
def test_a_run_has_at_least_a_step(case, number):
    with pytest.raises(ValueError, match=r"num_steps is .*, and must be in \(0, inf\)"):
        case.optimizer.transform(case.theta, num_steps=number)


def test_a_layout_is_a_class(case):
    for other in ("flat", 1, dict):
        with pytest.raises(
            TypeError, match="PerTensor, learned_opt.Flat or learned_opt.K"
        ):
            case.optimizer.transform(case.theta, layout=other)


def test_the_theta_of_another_optimizer_is_an_error_that_names_this_one(case):
    other = learned_opt.Sgd() if case.name != "sgd" else learned_opt.Momentum()
    name = type(case.optimizer).__name__
    for theta in (other.init(KEY), {}, 0.1):
        with pytest.raises(ValueError, match=f"not one of {name}: `init` gives"):
            case.optimizer.transform(theta, num_steps=50)


def test_a_theta_of_other_shapes_is_an_error_that_names_its_part(case):
    theta = jax.tree.map(lambda x: jnp.stack([x, x]), case.theta)
    name = type(case.optimizer).__name__
    with pytest.raises(ValueError, match=rf"not one of {name}: its .* has shape \(2,"):
        case.optimizer.transform(theta, num_steps=50)


def test_a_theta_may_be_of_numpy(case):
    case.optimizer.transform(jax.tree.map(np.asarray, case.theta), num_steps=50)


def test_a_part_that_is_missing_or_too_much_is_named():
    @dataclasses.dataclass(frozen=True)
    class Own(learned_opt.Rule):
        def init(self, key):
            return {"rate": jnp.zeros(()), "layer": {"w": jnp.zeros(3)}}

        start = advance = None

    theta = Own().init(KEY)
    for wrong, why in (
        ({"rate": theta["rate"]}, "it lacks .*layer.*w"),
        ({**theta, "decay": theta["rate"]}, "it has .*decay"),
    ):
        with pytest.raises(ValueError, match=f"not one of Own: {why}"):
            Own().transform(wrong)


def test_a_theta_may_have_a_schedule_that_a_new_one_would_not_have():
    scheduled = learned_opt.NAdamW(constant_fraction=0.5).init(KEY)
    learned_opt.NAdamW().transform(scheduled, num_steps=10)


def test_an_interval_is_read_as_mathematics_writes_it():
    for inside in (0.0, 0.5):
        checks.require_number("x", inside, "[0, 1)")
    for outside in (1.0, -0.1):
        with pytest.raises(ValueError, match="x is"):
            checks.require_number("x", outside, "[0, 1)")


def test_a_state_that_is_none_of_a_rule_is_told_what_it_lacks():
    @dataclasses.dataclass(frozen=True)
    class Careless(learned_opt.Rule):
        def init(self, key):
            return {}

        def start(self, theta, params, layout):
            return {"step": jnp.zeros((), jnp.int32)}

        def advance(self, theta, state, grads, params, layout, signals):
            return grads, state

    with pytest.raises(TypeError, match="Careless.start gives a dict: .*`slots`"):
        Careless().transform({}).init({"w": jnp.ones(2)})
