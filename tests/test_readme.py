"""What people are told to type works as it stands."""

import re
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
import pretrained
import tasksets
from learned_opt import registry
from tasksets import data
from tasksets import registry as task_registry

ROOT = Path(__file__).parents[1]
SNIPPETS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)

# Lengths that would take minutes; everything else runs as printed.
SHORTER = {"outer_steps=3000": "outer_steps=3", "outer_steps=1000": "outer_steps=3"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One folder for all snippets: later ones use what earlier ones made."""
    return tmp_path_factory.mktemp("readme")


def test_the_three_uses_work_from_the_readme_in_at_most_ten_lines(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert len(SNIPPETS) >= 3
    for snippet in SNIPPETS[:3]:
        lines = [line for line in snippet.splitlines() if line.strip()]
        assert len(lines) <= 10, snippet
        for long, short in SHORTER.items():
            snippet = snippet.replace(long, short)
        exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})


def test_the_notebook_trains_a_flax_model_well():
    names = runpy.run_path(str(ROOT / "notebooks" / "train_a_flax_model.py"))
    assert names["accuracy"] > 0.9
    assert float(names["loss"]) < 0.1


def test_the_page_on_tasks_works_from_top_to_bottom(monkeypatch):
    for module, known in ((task_registry, "_FAMILIES"), (data, "_LOADERS")):
        monkeypatch.setattr(module, known, dict(getattr(module, known)))
    page = (ROOT / "docs" / "task-suite.md").read_text()
    names = {"__name__": "page"}
    for snippet in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(snippet, "task-suite.md", "exec"), names)
    stack = tasksets.stack([tasksets.get(f"valley/seed{seed}") for seed in range(3)])
    assert stack.num_lanes == 3 and names["task"].name == "valley/seed3?dims=10"
    loss = tasksets.get("mlp_family/seed7@two_moons?num_train=50").normalize(0.0)
    assert loss == 0


def test_the_page_on_estimators_works_from_top_to_bottom():
    page = (ROOT / "docs" / "estimators.md").read_text()
    names = {"__name__": "page"}
    for snippet in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(snippet, "estimators.md", "exec"), names)
    assert names["counts"].sum() == 64
    assert all(found.snr > 0 for found in names["found"].values())


def test_the_page_on_optax_works_from_top_to_bottom(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(registry, "_OPTIMIZERS", dict(registry._OPTIMIZERS))
    page = (ROOT / "docs" / "optax.md").read_text()
    names = {"__name__": "page"}
    for snippet in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(snippet, "optax.md", "exec"), names)
    assert int(names["train"].step) == 1
    same = jax.tree.map(np.array_equal, names["restored"], names["like"])
    assert all(jax.tree.leaves(same))
    assert learned_opt.name_of(pretrained.load("mine").optimizer) == "sign_momentum"
    assert np.all(names["updates"]["w"] == np.float32(-0.01))
    assert np.all(np.isfinite(names["moved"]["w"])) and np.any(names["moved"]["w"])


@pytest.mark.parametrize("name", learned_opt.names())
def test_the_table_of_optimizers_has_the_facts(name):
    optimizer, params = learned_opt.get(name)(), jnp.zeros((8, 8))

    def slots(num_steps=50, **losses):
        def run(key):
            tx = optimizer.transform(optimizer.init(key), num_steps=num_steps)
            return tx.update(params, tx.init(params), params, **losses)[1].rule.slots

        return jax.eval_shape(run, jax.random.key(0))

    def fails(**given):
        try:
            slots(**given)
        except ValueError:
            return True
        return False

    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    needs = {"value"} if fails() else set()
    needs |= {"num_steps"} if fails(num_steps=None, value=1.0) else set()
    table = (ROOT / "docs" / "optax.md").read_text().split("## All of them")[1]
    row = re.search(rf"\| `{name}` \| ([\d,]+).*?\| (.*?)\| (\d+)", table)
    assert row is not None
    assert int(row[1].replace(",", "")) == size(
        jax.eval_shape(optimizer.init, jax.random.key(0))
    )
    assert set(re.findall(r"`(\w+)`(?! with)", row[2])) == needs
    assert int(row[3]) == size(slots(value=1.0)) // params.size
