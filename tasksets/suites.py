"""Suites: named lists of thousands of task names, and sampling from them.

    names("taskset", split="test")            the names of a suite, in a stable order
    sample(64, suite="small_mlp", seed=1)     tasks for meta-training

    taskset       1000 seeds of twelve families, and the 109 fixed tasks of TaskSet
    taskset-1k    the size of its published set: 88 seeds of each, and the fixed tasks
    metz2020      500 seeds of each family, the size of the set of Metz et al. 2020
    fixed         the fixed tasks of TaskSet
    small         those of taskset-1k that take under 10 ms per step on one CPU core
    digits        1000 networks of mlp_family on bundled data: no download
    bundled       100 seeds each of seven of TaskSet's families, images where there are any
                  being the bundled digits: no download, and cheap
    small_mlp     many lanes in few structures, for meta-training
    quadratic     1000 noisy quadratics
    vit, ...      1000 seeds of any registered family

TaskSet is Metz et al. 2020, arXiv 2002.11887; metz2020 is arXiv 2009.11243, whose "about
6,000 tasks" are not listed anywhere: ours is their number, not their list. Neither is
the list of the 1,162 tasks with published curves in TaskSet's repository; all its users
name seeds below 100. No suite has a task of `tasksets.excluded`: where a seed is, the
next one takes its place, beyond TaskSet's own thousand if need be. Only the places of
training tasks that are the same as a test task stay empty, up to 28 of them.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from typing import Literal, overload

import numpy as np

from tasksets import stacking
from tasksets.excluded import EXCLUDED, TWIN
from tasksets.fixed import TASKSET_GROUPS
from tasksets.names import TaskName, UnknownNameError
from tasksets.presence import data_present, dataset_of
from tasksets.registry import TaskSplit, families, get, split_of
from tasksets.task import Task

TASKSET_FAMILIES = (
    "char_rnn_language_model_family",
    "conv_fc_family",
    "conv_pooling_family",
    "losg_tasks_family",
    "maf_family",
    "mlp_ae_family",
    "mlp_family",
    "mlp_vae_family",
    "nvp_family",
    "quadratic_family",
    "rnn_text_classification_family",
    "word_rnn_language_model_family",
)


_OF_IMAGES = (
    "maf_family",
    "mlp_ae_family",
    "mlp_family",
    "mlp_vae_family",
    "nvp_family",
)


def _seeds(family: str, count: int, dataset: str | None = None) -> Iterator[str]:
    """The first `count` seeds of a family that are not excluded, less the twins."""
    every = (TaskName(family, seed, dataset) for seed in itertools.count())
    counted = (name for name in every if EXCLUDED.get(name.root, TWIN) == TWIN)
    first = itertools.islice(counted, count)
    return (str(name) for name in first if name.root not in EXCLUDED)


def _taskset(seeds_per_family: int) -> Iterator[str]:
    for family in TASKSET_FAMILIES:
        yield from _seeds(family, seeds_per_family)


def _bundled() -> Iterator[str]:
    """Convolutions are left out: many shrink an 8x8 image to nothing."""
    for family in _OF_IMAGES:
        yield from _seeds(family, 100, "digits")
    for family in ("losg_tasks_family", "quadratic_family"):
        yield from _seeds(family, 100)


def _fixed() -> Iterator[str]:
    for group in TASKSET_GROUPS:
        yield from group.configs


def _small() -> list[str]:
    return (files("tasksets") / "small.txt").read_text().split()


_SUITES: dict[str, Callable[[], Iterable[str]]] = {
    "taskset": lambda: [*_taskset(1000), *_fixed()],
    "taskset-1k": lambda: [*_taskset(88), *_fixed()],
    "metz2020": lambda: _taskset(500),
    "fixed": _fixed,
    "small": _small,
    "bundled": _bundled,
    "digits": lambda: _seeds("mlp_family", 1000, "digits"),
    "small_mlp": lambda: _seeds("small_mlp", 10000, "digits"),
    "quadratic": lambda: _seeds("quadratic_family", 1000),
}


def suites() -> list[str]:
    """The names of the suites, without the families, which serve as suites too."""
    return sorted(_SUITES)


def _find(suite: str) -> Callable[[], Iterable[str]]:
    if suite in _SUITES:
        return _SUITES[suite]
    if suite in families():
        return lambda: _seeds(suite, 1000)
    raise UnknownNameError("suite", suite, {*_SUITES, *families()})


def names(
    suite: str, split: TaskSplit | None = None, *, data_here: bool = False
) -> list[str]:
    """The names of a suite, or the first thousand of a family, in a stable order.

    `split`: only those for training or for testing. `data_here`: only those whose data
    are on this machine.
    """
    listed = _find(suite)
    if split not in ("train", "test", None):
        raise ValueError(f"split is 'train' or 'test', not {split!r}")
    chosen = (n for n in listed() if split is None or split_of(n) == split)
    return [name for name in chosen if not data_here or _has_data(name)]


def _has_data(name: str) -> bool:
    dataset = dataset_of(name)
    return dataset is None or data_present(dataset)


def sample_names(
    n: int,
    *,
    suite: str,
    split: TaskSplit | None = "train",
    seed: int = 0,
    data_here: bool = False,
) -> list[str]:
    """`n` different names of a suite, drawn uniformly from those that `names` gives.

    `split` None: from both. `data_here`: what is drawn depends on the machine.
    """
    choice = names(suite, split, data_here=data_here)
    if n > len(choice):
        purpose = f" to {split} with" if split else ""
        here = " whose data are here" if data_here else ""
        raise ValueError(
            f"suite {suite!r} has {len(choice)} tasks{purpose}{here}, {n} were asked"
        )
    order = np.random.RandomState(seed).permutation(len(choice))[:n]
    return [choice[index] for index in order]


@overload
def sample(
    n: int,
    *,
    suite: str,
    split: TaskSplit = ...,
    seed: int = ...,
    data_here: bool = ...,
    group_by_structure: Literal[False] = ...,
) -> list[Task]: ...
@overload
def sample(
    n: int,
    *,
    suite: str,
    split: TaskSplit = ...,
    seed: int = ...,
    data_here: bool = ...,
    group_by_structure: Literal[True],
) -> list[list[Task]]: ...
def sample(
    n: int,
    *,
    suite: str,
    split: TaskSplit = "train",
    seed: int = 0,
    data_here: bool = False,
    group_by_structure: bool = False,
) -> list[Task] | list[list[Task]]:
    """`n` different tasks of a suite, drawn uniformly; as lists that stack if asked.

    Raises `DataNotFoundError` where a task's data are not on this machine; `data_here`
    draws from those whose data are.
    """
    names = sample_names(n, suite=suite, split=split, seed=seed, data_here=data_here)
    tasks = [get(name) for name in names]
    return stacking.group_by_structure(tasks) if group_by_structure else tasks
