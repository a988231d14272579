import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import network


def test_both_forms_are_the_same_relu_network():
    layers = network.mlp(jax.random.key(0), (3, 5, 4, 2))
    x = jax.random.normal(jax.random.key(1), (3, 6, 2))
    expected = np.asarray(x).T
    for depth, (w, b) in enumerate(layers):
        expected = expected @ np.asarray(w) + np.asarray(b)
        expected = np.maximum(expected, 0) if depth < 2 else expected
    np.testing.assert_allclose(network.stacked(layers, x), expected.T, atol=1e-5)
    outputs = jnp.stack(network.unrolled(layers, list(x)))
    np.testing.assert_allclose(outputs, expected.T, atol=1e-5)


def test_layers_start_with_unit_gain_and_no_bias():
    layer = network.dense(jax.random.key(0), 400, 300, gain=2.0)
    np.testing.assert_allclose(jnp.std(layer.w), 2.0 / 20.0, rtol=0.02)
    assert not np.any(layer.b)
