import pytest

import learned_opt


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
