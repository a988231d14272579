"""Trying tasks out, and what is known of their losses."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import tasksets
from tasksets import checking, known_losses, registry
from tasksets.families import quadratic
from tasksets.names import parse


def test_a_task_that_works_is_ok_with_its_size_and_cost():
    found = tasksets.check("small_mlp/seed0@digits?hidden=4")
    assert found.status == "ok"
    assert found.parameters == 64 * 4 + 4 + 4 * 10 + 10
    assert found.loss > 0 and found.compile_seconds > 0 and found.step_seconds > 0


def test_absent_data_and_excluded_seeds_are_said_to_be_so(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    absent = tasksets.check("mlp_family/seed10")
    assert (absent.status, absent.detail) == ("data absent", "cifar10")
    excluded = tasksets.check("mlp_family/seed39@digits+bf16")
    assert excluded.status == "excluded" and "diverge" in excluded.detail


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        ({"loss_scale": jnp.float32(jnp.inf)}, "the loss at the start is inf"),
        ({"loss_scale": jnp.float32(jnp.nan)}, "the loss at the start is nan"),
    ],
)
def test_a_start_that_is_not_finite_is_a_failure(change, detail, monkeypatch):
    def build(config):
        problem, numbers, data = quadratic.build(config)
        return problem, numbers._replace(**change), data

    broken = dataclasses.replace(quadratic.FAMILY, name="broken", build=build)
    monkeypatch.setitem(registry._FAMILIES, "broken", broken)
    found = checking.check("broken/seed3?dims=2")
    assert (found.status, found.detail) == ("failed", detail)


def test_a_gradient_that_is_not_finite_is_a_failure(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Cliff(quadratic.QuadraticProblem):
        def loss(self, numbers, params, batch, key):
            return jnp.sum(jnp.sqrt(jnp.abs(params["x"] * 0)))  # slope 0/0 at 0

    def build(config):
        problem, numbers, data = quadratic.build(config)
        return Cliff(**vars(problem)), numbers, data

    broken = dataclasses.replace(quadratic.FAMILY, name="cliff", build=build)
    monkeypatch.setitem(registry._FAMILIES, "cliff", broken)
    found = checking.check("cliff/seed3?dims=2")
    assert (found.status, found.detail) == (
        "failed",
        "the gradient at the start is not finite",
    )


def test_whatever_goes_wrong_in_a_task_is_reported_not_raised():
    found = tasksets.check("mlp_family/seed7@digits?num_train=0")
    assert found.status == "failed" and "num_train is at least 1" in found.detail


def test_measured_losses_replace_the_closed_forms(monkeypatch):
    name = "small_mlp/seed1@wine"
    assert registry.measured(name) is None
    measured = {name: known_losses.KnownLosses(3.0, 0.5)}
    monkeypatch.setattr(known_losses, "table", lambda: measured)
    task = tasksets.get(name)
    assert registry.measured(f"{name}+bf16") == measured[name]
    np.testing.assert_allclose(task.normalize(jnp.array([3.0, 1.75, 0.5])), [1, 0.5, 0])
    varied = tasksets.get(f"{name}?hidden=8")
    np.testing.assert_allclose(varied.numbers.initial_loss, np.log(3), rtol=1e-6)


def test_a_task_with_two_names_is_normalised_alike(monkeypatch):
    pairs = {
        "small_mlp/seed5": "small_mlp/seed5@digits",
        "mlp_family/seed10@cifar10": "mlp_family/seed10",
        "TwoD_Beale": "TwoD_Beale",
    }
    assert registry.measured("small_mlp/seed5") is not None
    losses = known_losses.KnownLosses(3.0, 0.5)
    for name, spelled in pairs.items():
        monkeypatch.setattr(known_losses, "table", lambda s=spelled: {s: losses})
        assert registry.measured(name) == registry.measured(spelled) == losses
    assert registry.measured("small_mlp/seed5@digits") is None  # not in this table
    monkeypatch.setattr(known_losses, "table", lambda: {"small_mlp/seed5": losses})
    assert registry.measured("small_mlp/seed5@wine") is None


def test_every_measured_loss_belongs_to_a_task_and_is_in_order():
    for name, (initial, best) in known_losses.table().items():
        assert np.isfinite([initial, best]).all() and best < initial
        assert tasksets.config(name) is not None
        assert str(parse(name)) == name


def test_data_are_known_to_be_present_or_not_without_reading_them(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    for dataset in ("digits", "python_docs", "python_docs/subwords8k"):
        assert tasksets.data_present(dataset)
    assert not tasksets.data_present("mnist")
    assert tasksets.dataset_of("mlp_family/seed10") == "cifar10"
    assert tasksets.dataset_of("quadratic_family/seed10") is None
    here = tasksets.names("taskset-1k", data_here=True)
    families = {parse(name).family for name in here if parse(name).seed is not None}
    assert families == {"quadratic_family", "losg_tasks_family"}
