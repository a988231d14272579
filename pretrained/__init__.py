"""Trained optimizers, ready to use: theta, what it was trained on, and where it fails.

Each is one folder with the weights (`model.safetensors`), how to rebuild the optimizer
around them (`config.json`) and its card (`README.md`). The shipped ones live in
`pretrained/weights` and are loaded by name, without network; your own, by path.

    pretrained.available()                               # {name: one line}
    tx = pretrained.optimizer(name, num_steps=2000)      # an optax transform

    pretrained.save("my_optimizer", optimizer, theta, card)
    tx = pretrained.load("my_optimizer").transform(num_steps=2000)
    tx = pretrained.optimizer("runs/train/theta", num_steps=2000)    # of a run folder
    tx = pretrained.optimizer("velo/params", num_steps=2000)    # VeLO's file, see `released`
"""

from pretrained.card import Card
from pretrained.store import (
    CorruptWeightsError,
    Pretrained,
    UnknownPretrainedError,
    available,
    load,
    optimizer,
    save,
)

__all__ = [
    "Card",
    "CorruptWeightsError",
    "Pretrained",
    "UnknownPretrainedError",
    "available",
    "load",
    "optimizer",
    "save",
]
