"""The learned list of hyper-parameters, as google-research/opt_list released it."""

import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import NAdamW, opt_list, search_spaces

# Position: (index in the space, learning rate, b1, eps, constant fraction)
PUBLISHED = {
    0: (
        251,
        0.0011948335721160095,
        0.9360043452616368,
        5.875814422073298e-06,
        0.747304,
    ),
    3: (209, 0.007531482507067026, 0.6919155876981923, 3.592713026359696e-08, 0.422489),
    40: (274, 0.0015669132173408192, 0.9182034442374868, 4.675224e-05, 0.2507866687),
    50: (116, 0.0003260395096202062, 0.7842479490197322, 0.00346795309, 0.737578857405),
    56: (999, 0.0003033444884791146, 0.7960016377487121, 0.00209152611, 0.473365519085),
    78: (261, 0.8419298663194243, 0.977812572363824, 34.44759228866291, 0.21395681953),
    94: (996, 0.0023688725610768405, 0.38679888662382333, 5.72453883e-08, 0.5244234),
}


@pytest.mark.parametrize("i", PUBLISHED)
def test_a_position_holds_the_published_configuration(i):
    index, *numbers = PUBLISHED[i]
    optimizer, _ = opt_list.config(i)
    assert optimizer == search_spaces.sample("nadamw", index)[0]
    actual = (optimizer.learning_rate, optimizer.b1, optimizer.eps)
    np.testing.assert_allclose(
        (*actual, optimizer.constant_fraction), numbers, rtol=1e-6
    )


def test_there_are_100_different_ones():
    optimizers = {opt_list.config(i)[0] for i in range(opt_list.LENGTH)}
    assert len(optimizers) == 100
    assert all(isinstance(optimizer, NAdamW) for optimizer in optimizers)
    assert sum(optimizer.l2 > 0 for optimizer in optimizers) == 31


def test_positions_outside_the_list_are_errors():
    for i in (-1, 100):
        with pytest.raises(IndexError, match=f"0 to 99, not {i}"):
            opt_list.config(i)


def test_the_schedule_stretches_with_the_run():
    optimizer, theta = opt_list.config(7)  # warm-up over .0082, constant until .3776
    param = jnp.ones(())
    for num_steps in (500, 2000):
        tx = optimizer.transform(theta, num_steps=num_steps)
        state = tx.init(param)

        def size(share, state=state, tx=tx, num_steps=num_steps):
            step = jnp.int32(share * num_steps)
            state = state._replace(rule=state.rule._replace(step=step))
            decoupled, _ = tx.update(jnp.zeros(()), state, param)
            return -float(decoupled) / (
                optimizer.learning_rate * optimizer.weight_decay
            )

        middle = optimizer.constant_fraction + (1 - optimizer.constant_fraction) / 2
        curve = [size(share) for share in (0.0, 0.2, 0.37, middle, 1.0)]
        ramp = 1 / (optimizer.warmup_fraction * num_steps)
        np.testing.assert_allclose(curve, [ramp, 1, 1, 0.5, 0], rtol=0.03, atol=1e-4)
