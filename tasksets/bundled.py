"""The data sets that need no download: four classics that ship with scikit-learn.

Examples that occur twice are dropped, the rest is shuffled by a fixed permutation and
cut in four: 1/9 for each held-out split, the rest for training.

    digits         1200/199/199/199  8x8 grey images, 10 classes
    breast_cancer   380/ 63/ 63/ 63  30 features, 2 classes
    wine            121/ 19/ 19/ 19  13 features, 3 classes
    iris            101/ 16/ 16/ 16   4 features, 3 classes
"""

import functools

import jax.numpy as jnp
import numpy as np

from tasksets.data import Dataset, DatasetInfo, Split, register_data

NAMES = ("digits", "breast_cancer", "wine", "iris")


def _load(name: str) -> Dataset:
    from sklearn import datasets  # lazy: half a second that not every user needs

    bunch = getattr(datasets, f"load_{name}")()
    inputs, first = np.unique(bunch.data, axis=0, return_index=True)
    labels = bunch.target[first].astype(np.int32)
    order = np.random.RandomState(0).permutation(len(inputs))
    inputs, labels = inputs[order], labels[order]
    num_held_out = len(inputs) // 9
    num_train = len(inputs) - 3 * num_held_out

    if name == "digits":
        inputs = inputs.reshape(-1, 8, 8, 1).astype(np.uint8)
        scale = 1 / 16
    else:
        mean, std = inputs[:num_train].mean(0), inputs[:num_train].std(0)
        inputs = ((inputs - mean) / std).astype(np.float32)
        scale = 1.0

    bounds = num_train + num_held_out * np.arange(3)
    pieces = zip(np.split(inputs, bounds), np.split(labels, bounds), strict=True)
    splits = [Split(jnp.asarray(x), jnp.asarray(y)) for x, y in pieces]
    info = DatasetInfo(name, inputs.shape[1:], len(bunch.target_names), scale)
    return Dataset(*splits, info=info)


for _name in NAMES:
    register_data(_name, functools.partial(_load, _name))
