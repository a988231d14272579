import dataclasses

import jax
import jax.numpy as jnp
import pytest

import learned_opt
from learned_opt import registry


@pytest.fixture(autouse=True)
def own_registry(monkeypatch):
    monkeypatch.setattr(registry, "_OPTIMIZERS", dict(registry._OPTIMIZERS))


def mine():
    """A new class with the same name each time, as a notebook's cell makes it."""

    @dataclasses.dataclass(frozen=True)
    class Mine(learned_opt.Sgd):
        pass

    return Mine


def test_every_name_gives_a_class_that_keeps_the_contract():
    for name in learned_opt.names():
        optimizer = learned_opt.get(name)()
        assert isinstance(optimizer, learned_opt.LearnedOptimizer)
        assert learned_opt.name_of(optimizer) == name


def test_an_unknown_name_is_answered_with_the_nearest_ones():
    with pytest.raises(learned_opt.UnknownOptimizerError, match="did you mean adam"):
        learned_opt.get("adamm")
    with pytest.raises(learned_opt.UnknownOptimizerError, match="known:.*sgd"):
        learned_opt.get("zzzzzz")


def test_a_class_that_is_not_registered_has_no_name():
    class Stranger(learned_opt.Sgd):
        pass

    with pytest.raises(learned_opt.UnknownOptimizerError, match="Stranger"):
        learned_opt.name_of(Stranger())


def test_a_class_that_is_registered_has_a_name():
    cls = learned_opt.register("mine")(mine())
    assert learned_opt.get("mine") is cls
    assert learned_opt.name_of(cls()) == "mine"
    assert "mine" in learned_opt.names()


def test_a_name_that_is_taken_is_an_error_that_says_by_whom():
    for name in ("adam", "scale_free"):
        with pytest.raises(
            ValueError, match=f"'{name}' is taken by learned_opt.{name}"
        ):
            learned_opt.register(name)(mine())
    assert learned_opt.get("adam") is learned_opt.Adam


def test_the_same_class_made_again_replaces_itself():
    learned_opt.register("mine")(mine())
    again = learned_opt.register("mine")(mine())
    assert learned_opt.get("mine") is again


def test_what_is_no_optimizer_class_is_not_registered():
    @dataclasses.dataclass(frozen=True)
    class Nothing:
        pass

    for other, why in (
        (learned_opt.Sgd(), "not a dataclass"),
        (type("Plain", (), {}), "not a dataclass"),
        (Nothing, "Nothing lacks `init` or `transform`"),
    ):
        with pytest.raises(TypeError, match=why):
            learned_opt.register("other")(other)
    with pytest.raises(ValueError, match="one word"):
        learned_opt.register("two words")


def test_fields_that_would_be_lost_or_change_are_refused():
    class Forgotten(learned_opt.ScaleFree):  # no decorator: step_size stays what it was
        step_size: float = 0.2

    @dataclasses.dataclass
    class Changing(learned_opt.Rule):
        init = start = advance = None

    @dataclasses.dataclass(frozen=True)
    class Needy(learned_opt.Rule):
        rate: float
        init = start = advance = None

    for cls, why in (
        (Forgotten, "not a dataclass"),
        (Changing, r"use dataclass\(frozen=True\)"),
        (Needy, "Needy.rate needs a default"),
    ):
        with pytest.raises(TypeError, match=why):
            learned_opt.register("other")(cls)


def test_an_optimizer_of_the_class_before_is_told_from_a_stranger():
    before = learned_opt.register("mine")(mine())()
    learned_opt.register("mine")(mine())
    with pytest.raises(learned_opt.UnknownOptimizerError, match="make the optimizer"):
        learned_opt.name_of(before)


def test_a_class_instead_of_an_optimizer_is_an_error_that_says_so():
    with pytest.raises(
        learned_opt.UnknownOptimizerError, match=r"is a class.*: Sgd\(\)"
    ):
        learned_opt.name_of(learned_opt.Sgd)  # type: ignore[arg-type]


def test_the_error_of_a_stranger_says_how_to_register_it():
    with pytest.raises(
        learned_opt.UnknownOptimizerError, match="@learned_opt.register"
    ):
        learned_opt.name_of(mine()())


def test_the_harness_of_celo2_can_be_registered():
    learned_opt.register("celo2_harness")(learned_opt.Celo2Harness)
    optimizer = learned_opt.get("celo2_harness")()
    tx = optimizer.transform(optimizer.init(jax.random.key(0)))
    params = {"w": jnp.ones((3, 2))}
    assert jax.eval_shape(tx.update, params, tx.init(params), params)[0]["w"].shape
