"""The search spaces of TaskSet: the numbers the authors published.

Expected numbers are from the configurations in google-research/task_set and opt_list.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import Adam, NAdamW, search_spaces
from learned_opt.adam8p import Adam8p

# What the authors call each number; they state decays per step of 10,000.
NAMES = {
    "learning_rate": "learning_rate",
    "beta1": "b1",
    "beta2": "b2",
    "epsilon": "eps",
    "l1": "l1",
    "l2": "l2",
    "l2_weight_decay": "l2",
    "adamw_weight_decay": "weight_decay",
    "use_nesterov": "nesterov",
    "warmup_fraction": "warmup_fraction",
    "min_learning_rate_mult": "min_lr_mult",
    "constant_fraction": "constant_fraction",
    "linear_decay": "linear_decay",
    "exponential_decay": "exponential_decay",
}
PUBLISHED = {
    ("adam1p", 0): {"learning_rate": 1.0366346546195564e-06},
    ("adam1p", 100): {"learning_rate": 0.05650452793055913},
    ("adam4p", 100): {
        "learning_rate": 0.0007773998922821829,
        "beta1": 0.9987013935955938,
        "beta2": 0.9996475434835564,
        "epsilon": 9.595988529358952,
    },
    ("adam6p", 0): {
        "learning_rate": 0.0006452137521578798,
        "beta1": 0.6720413695981028,
        "beta2": 0.9805789095496689,
        "epsilon": 0.45224877782442713,
        "linear_decay": 2.0497251858122685e-07,
        "exponential_decay": 2.5003268467591204e-06,
    },
    ("adam6p", 151): {
        "learning_rate": 1.444363815998482e-06,
        "beta1": 0.9998835567402791,
        "beta2": 0.9998999742358664,
        "epsilon": 14.376575813884045,
        "linear_decay": 4.398191112230205e-06,
        "exponential_decay": 4.2132267073895845e-05,
    },
    ("adam8p", 0): {
        "learning_rate": 0.0008696040132105586,
        "beta1": 0.9274299427840572,
        "beta2": 0.9958640026061601,
        "epsilon": 0.0012119407238482059,
        "l1": 6.499698237449666e-05,
        "l2": 0.006502000785097662,
        "linear_decay": 2.054762512591133e-06,
        "exponential_decay": 2.11193718864315e-06,
    },
    ("adam8p", 12): {
        "learning_rate": 2.4404256524570445e-07,
        "beta1": 0.9087571617828915,
        "beta2": 0.9999619906807773,
        "epsilon": 0.000868184671884927,
        "l1": 1.3526164422922362e-08,
        "l2": 1.8566202070046347,
        "linear_decay": 5.0366823547986315e-05,
        "exponential_decay": 0.0007938450061765486,
    },
    ("nadamw", 0): {  # both kinds of decay, a warm-up
        "learning_rate": 0.00013043019947775472,
        "beta1": 0.6184381722189567,
        "beta2": 0.9994057151352359,
        "epsilon": 5.7755507421823396e-05,
        "use_nesterov": False,
        "adamw_weight_decay": 0.010296116606084241,
        "l2_weight_decay": 0.000569334985961975,
        "warmup_fraction": 0.014360184808201766,
        "min_learning_rate_mult": 0.0,
        "constant_fraction": 0.25251538281125563,
    },
    ("nadamw", 105): {  # l2 only, a floor
        "learning_rate": 0.05028334299941158,
        "beta1": 0.9514751290581651,
        "beta2": 0.9900302078635603,
        "epsilon": 3.839488076199265e-06,
        "use_nesterov": True,
        "adamw_weight_decay": 0.0,
        "l2_weight_decay": 0.002996989965812699,
        "warmup_fraction": 0.001076434211011302,
        "min_learning_rate_mult": 0.9820148330258691,
        "constant_fraction": 0.8889168187701979,
    },
    ("nadamw", 999): {  # decoupled only, neither warm-up nor floor
        "learning_rate": 0.0003033444884791146,
        "beta1": 0.7960016377487121,
        "beta2": 0.869085551376238,
        "epsilon": 0.0020915261149098523,
        "use_nesterov": False,
        "adamw_weight_decay": 0.007356587309209756,
        "l2_weight_decay": 0.0,
        "warmup_fraction": 0.0,
        "min_learning_rate_mult": 0.0,
        "constant_fraction": 0.47336551908529734,
    },
}


@pytest.mark.parametrize("space, index", PUBLISHED)
def test_an_index_gives_the_published_configuration(space, index):
    optimizer, _ = search_spaces.sample(space, index)
    for name, number in PUBLISHED[space, index].items():
        if name in ("linear_decay", "exponential_decay"):
            number = number * 10_000
        actual = getattr(optimizer, NAMES[name])
        np.testing.assert_allclose(actual, number, rtol=1e-12, err_msg=name)


def test_numbers_that_a_space_does_not_tune_keep_their_defaults():
    (one, _), (four, _) = (search_spaces.sample(s, 3) for s in ("adam1p", "adam4p"))
    assert one == Adam(learning_rate=one.learning_rate)
    six, theta = search_spaces.sample("adam6p", 3)
    assert isinstance(four, Adam) and isinstance(six, Adam8p)
    assert (six.l1, six.l2, theta.penalties) == (0.0, 0.0, None)


@pytest.mark.parametrize("space", search_spaces.names())
def test_every_configuration_lies_within_the_published_ranges(space):
    configurations = [search_spaces.sample(space, i)[0] for i in range(40)]
    least = {"nadamw": 1e-5}.get(space, 1e-8)
    most = {"nadamw": 1.0}.get(space, 10.0)
    rates = [c.learning_rate for c in configurations]
    assert all(least <= rate <= most for rate in rates)
    spread = np.log(most / least)
    assert np.ptp(np.log(rates)) > 0.7 * spread  # and reaches both ends
    assert all(0 <= c.b1 < 1 and 0 <= c.b2 < 1 for c in configurations)


@pytest.mark.parametrize("space", search_spaces.names())
def test_a_configuration_is_an_optimizer_that_runs(space):
    for index in range(3):
        optimizer, theta = search_spaces.sample(space, index)
        tx = optimizer.transform(theta, num_steps=5)
        params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(())}
        state = tx.init(params)
        for _ in range(2):
            updates, state = tx.update(params, state, params)
            params = optax.apply_updates(params, updates)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))


def test_theta_is_that_of_the_optimizer():
    optimizer, theta = search_spaces.sample("nadamw", 5)
    assert isinstance(optimizer, NAdamW)
    again = optimizer.init(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, theta, again)
    np.testing.assert_allclose(jnp.exp(theta.log_eps), optimizer.eps, rtol=1e-5)


def test_unknown_spaces_and_indices_are_errors():
    with pytest.raises(LookupError, match="no search space named 'adam2p'.*adam1p"):
        search_spaces.sample("adam2p", 0)
    with pytest.raises(ValueError, match=">= 0, not -1"):
        search_spaces.sample("nadamw", -1)
