"""The relative loss against its equations in numpy, and what its numbers mean."""

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import progress, relative_loss

STEPS = jnp.float32(1000)


@jax.jit
def run(values, num_steps=STEPS):
    """The state, and the features, after every loss."""

    def body(losses, value):
        largest = relative_loss.largest_mean(losses)
        losses = relative_loss.observe(losses, value, num_steps, largest)
        return losses, (losses, relative_loss.features(losses))

    return jax.lax.scan(body, relative_loss.start(), jnp.asarray(values))[1]


def in_numpy(values, num_steps):
    constants = 10 ** np.linspace(1, np.log10(num_steps), 10)
    decays = np.exp(-1 / constants)
    means, minima, rows = np.zeros(10), np.full(10, np.inf), []
    for t, value in enumerate(values, 1):
        if t > 1:
            value = min(value, 2 * abs(np.max(means / (1 - decays ** (t - 1)))))
        means = decays * means + (1 - decays) * value
        debiased = means / (1 - decays**t)
        minima = np.minimum(minima, debiased)
        gap = np.maximum(debiased[1:] - minima[:-1], 1e-8)
        row = np.clip((debiased[:-1] - minima[:-1]) / gap - 1, -1, 1)
        rows.append(row if t > 2 else 0 * row)
    return np.array(rows)


def test_it_equals_a_recomputation_in_numpy():
    rng = np.random.default_rng(0)
    values = np.float32(2 + rng.normal(size=60) + np.linspace(3, 0, 60))
    values[20] = 50.0  # meets the bound
    for num_steps in (1000, 5):
        features = run(values, jnp.float32(num_steps))[1]
        expected = in_numpy(np.float64(values), num_steps)
        np.testing.assert_allclose(features, expected, rtol=2e-3, atol=2e-3)


def test_time_constants_go_from_ten_steps_to_the_whole_run():
    decays = np.exp(-(10 ** -np.linspace(1, 5, 10)))
    second = run(jnp.array([1.0, 2.0]), jnp.float32(1e5))[0].means[1]
    np.testing.assert_allclose(second - 1, (1 - decays) / (1 - decays**2), rtol=1e-4)


def test_a_falling_loss_is_minus_one_and_a_rising_one_positive():
    falling = run(jnp.linspace(5.0, 1.0, 100))[1]
    assert np.all(falling[2:] == -1) and np.all(falling[:2] == 0)
    rising = run(jnp.linspace(1.0, 1.5, 100))[1]
    assert np.all(rising[10:] > 0)


def test_the_scale_of_the_loss_does_not_matter():
    values = np.float32(3 + np.random.default_rng(0).normal(size=50))
    np.testing.assert_allclose(run(values)[1], run(1e4 * values)[1], atol=5e-3)


def test_a_loss_that_is_not_finite_is_left_out():
    values = jnp.array([3.0, 2.0, 2.5, jnp.nan, jnp.inf, 2.2])
    state, features = run(values)
    kept, expected = run(values[jnp.array([0, 1, 2, 5])])
    last = lambda tree: jax.tree.map(lambda x: x[-1], tree)
    np.testing.assert_allclose(features[-1], expected[-1], atol=1e-6)
    for a, b in zip(last(state), last(kept), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_an_exploding_loss_counts_as_twice_the_largest_mean():
    a, b = run(jnp.array([1.0, 1.0, 1.0, 1e9])), run(jnp.array([1.0, 1.0, 1.0, 2.0]))
    np.testing.assert_allclose(a[0].means[-1], b[0].means[-1], rtol=1e-5)


def test_a_loss_that_begins_at_zero_is_seen_all_the_same():
    features = run(jnp.concatenate([jnp.zeros(1), jnp.linspace(1.0, 3.0, 60)]))[1]
    assert np.all(features[10:] > 0)


def test_progress_switches_at_its_nine_points():
    centres = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])
    for step in (0, 37, 200):
        features = progress.features(jnp.int32(step), jnp.float32(200))
        np.testing.assert_allclose(
            features, np.tanh(10 * (step / 200 - centres)), atol=1e-6
        )
