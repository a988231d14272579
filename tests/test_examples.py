"""The scripts in examples/ do what they say, at a small size."""

import runpy
from pathlib import Path

import numpy as np
import optax
import pytest

import pretrained
import tasksets

SCRIPT = Path(__file__).parents[1] / "examples" / "train_anything.py"
STEPS = 30
SMALLER = {"layers=2": "layers=1", "patch_length=64": "patch_length=16"}


@pytest.fixture(scope="module")
def script():
    return runpy.run_path(str(SCRIPT))


@pytest.mark.parametrize(
    "optimizer",
    [
        name if name == "scale_free" else pytest.param(name, marks=pytest.mark.slow)
        for name in pretrained.available()
    ],
)
def test_every_pretrained_optimizer_trains_every_model(script, optimizer):
    tx = pretrained.optimizer(optimizer, num_steps=STEPS)
    for name, dtype in script["MODELS"].values():
        for large, small in SMALLER.items():
            name = name.replace(large, small)
        losses = np.asarray(script["train"](tasksets.get(name), tx, STEPS, dtype))
        assert losses.shape == (STEPS,) and np.isfinite(losses).all()
        assert losses[-5:].mean() < 0.8 * losses[0]


def test_the_script_prints_a_line_for_every_model_and_optimizer(
    script, monkeypatch, capsys
):
    asked = []

    def train(task, tx, steps, dtype):
        assert isinstance(tx, optax.GradientTransformationExtraArgs)
        asked.append((task.name, dtype))
        return np.linspace(3.0, 1.0, steps)

    monkeypatch.setitem(script["main"].__globals__, "train", train)
    script["main"](steps=21)
    optimizers = [*pretrained.available(), "adam 1e-3"]
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{model:24} {optimizer:16} 3.000 -> 1.050"
        for model in script["MODELS"]
        for optimizer in optimizers
    ]
    tasks = [(tasksets.get(name).name, of) for name, of in script["MODELS"].values()]
    assert asked == [task for task in tasks for _ in optimizers]


def test_its_code_is_short():
    text = SCRIPT.read_text().split('"""', 2)[2]
    start = text.index("@functools")
    code = [line for line in text[start:].splitlines() if line.strip()]
    assert len(code) <= 32
