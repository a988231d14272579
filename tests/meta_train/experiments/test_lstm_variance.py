"""The variance of PES: the formula against closed forms, the network against a loop."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.experiments.character_lstm import CharacterLSTM, texts
from meta_train.experiments.lstm_variance import (
    LSTMVariance,
    relative_variance,
    window_gradients,
)
from meta_train.system import episode
from tasksets.text import load_text

KEY = jax.random.key(0)
P = 7


def lower(rows):
    """Windows depend on the theta of windows up to themselves."""
    return np.tril(np.ones(rows.shape[:2]))[..., None] * rows


@pytest.mark.parametrize("windows", [1, 2, 5, 20])
def test_independent_windows_with_one_gradient(windows):
    g = np.eye(windows)[..., None] * np.arange(1.0, P + 1)
    expected = P * (windows + 1) / (2 * windows) + 1 / windows
    assert relative_variance(g, windows) == pytest.approx(expected)


@pytest.mark.parametrize("windows", [1, 2, 5, 20])
def test_dependent_windows_with_one_gradient(windows):
    g = lower(np.broadcast_to(np.arange(1.0, P + 1), (windows, windows, P)))
    expected = 2 / 3 * (P + 1) * (1 + 1 / (windows * (windows + 1)))
    assert relative_variance(g, windows) == pytest.approx(expected)


def test_independent_windows_with_orthogonal_gradients_grow_linearly():
    windows = 6
    g = np.zeros((windows, windows, P))
    g[range(windows), range(windows), range(windows)] = 1
    # P sum_t t |g_t|^2 + |G|^2, where |G|^2 = W.
    expected = P * (windows + 1) / 2 + 1
    assert relative_variance(g, windows) == pytest.approx(expected)


def test_merged_into_one_window_it_is_that_of_full_es():
    g = lower(np.random.default_rng(0).normal(size=(12, 12, P)))
    assert relative_variance(g, 1) == pytest.approx(P + 1)


def test_the_formula_is_the_covariance_of_the_estimate_of_a_linear_loss():
    rng = np.random.default_rng(0)
    windows, draws = 4, 200_000
    g = lower(rng.normal(size=(windows, windows, P)))
    eps = rng.normal(size=(draws, windows, P))
    losses = np.einsum("stp,ntp->ns", g, eps)
    estimates = np.einsum("ns,nsp->np", losses, np.cumsum(eps, axis=1))
    total = g.sum(axis=(0, 1))
    np.testing.assert_allclose(estimates.mean(axis=0), total, atol=0.3)
    variance = estimates.var(axis=0).sum() / np.sum(total**2)
    assert relative_variance(g, windows) == pytest.approx(variance, rel=0.03)


@pytest.fixture(scope="module")
def system():
    text = np.random.default_rng(0).integers(6, size=25)
    return CharacterLSTM(jnp.asarray(text, jnp.int32), 6)


def test_windows_gradients_add_up_to_the_gradient(system):
    theta = system.weights(KEY)
    loss = lambda theta: jnp.sum(episode(system, theta, KEY, 24)[1])
    whole, _ = jax.flatten_util.ravel_pytree(jax.grad(loss)(theta))
    g = window_gradients(system, theta, 4)
    np.testing.assert_allclose(g.sum(axis=(0, 1)), whole, rtol=1e-4, atol=1e-5)
    above = np.triu(np.ones((4, 4)), 1)[..., None]
    np.testing.assert_array_equal(above * g, 0 * g)


def test_it_reads_as_a_loop_over_characters_does(system):
    theta = system.weights(KEY)
    _, losses = episode(system, theta, KEY, 24)
    theta = jax.tree.map(np.asarray, theta)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    hidden, cell = np.zeros(5), np.zeros(5)
    text = np.asarray(system.text)
    for now, following, loss in zip(text, text[1:], losses, strict=False):
        seen = np.concatenate([theta["embed"][now], hidden])
        i, j, f, o = np.split(seen @ theta["gates"] + theta["gate_biases"], 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(j)
        hidden = sigmoid(o) * np.tanh(cell)
        scores = np.exp(hidden @ theta["read"] + theta["read_biases"])
        own = -np.log(scores[following] / scores.sum())
        np.testing.assert_allclose(own, loss, rtol=1e-4)


def test_texts_are_of_three_kinds_over_the_same_characters():
    data = load_text("python_docs")
    known = np.unique(np.asarray(data.tokens))
    for systems in texts("python_docs", 300, (0, 1)):
        assert list(systems) == ["real text", "random", "repeated"]
        assert len({system.num_characters for system in systems.values()}) == 1
        real, random, repeated = (np.asarray(s.text) for s in systems.values())
        assert real.shape == random.shape == repeated.shape == (301,)
        assert len(np.unique(repeated)) == 1
        assert len(np.unique(real)) < len(np.unique(random)) <= len(known) + 1


@pytest.fixture
def one_device(monkeypatch):
    """Each program is compiled once instead of once for every device."""
    device = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: device)


@pytest.mark.usefixtures("one_device")
def test_a_short_run_checks_every_estimator(tmp_path):
    experiment = LSTMVariance(
        seeds=(0, 1, 2),
        horizon=40,
        windows=(1, 10, 20),
        checked=(10,),
        num_pairs=20,
        num_estimates=5,
    )
    report = experiment.run(tmp_path)
    assert len(report.rows) == 9 and len(report.claims) == 6
    assert all(path.exists() for path in report.figures)


@pytest.mark.slow
def test_every_claim_holds(tmp_path):
    report = LSTMVariance().run(tmp_path)
    assert [claim for claim in report.claims if not claim.holds] == []
