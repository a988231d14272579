"""Tasks by name: the families and fixed tasks there are, and the task of a name.

    get("mlp_family/seed7@digits")    the task of a name, the same on every machine
    config("TwoD_Bowl10")             the config that it is built from
    split_of("mlp_family/seed7")      whether it is for training or for testing

A hash of the name's root, `family/seedN`, sends a fifth of all tasks to the test split.
What follows in a name does not count, so that no variant of a test task is trained on.
"""

import hashlib
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tasksets.data import DataNotFoundError
from tasksets.families import mlp, quadratic, small_mlp
from tasksets.family import Build, Family, FixedTasks
from tasksets.names import TaskName, UnknownNameError, override, parse
from tasksets.task import Task

TaskSplit = Literal["train", "test"]

_FAMILIES: dict[str, Family] = {}
_FIXED: dict[str, FixedTasks] = {}  # by the name of a task


def register(source: Family | FixedTasks) -> None:
    """Adds a family, whose tasks are `name/seedN`, or a group of fixed tasks."""
    new = [source.name] if isinstance(source, Family) else list(source.configs)
    for name in new:
        if name in _FAMILIES or name in _FIXED:
            raise ValueError(f"there is a task or family {name!r} already")
    if isinstance(source, Family):
        _FAMILIES[source.name] = source
    else:
        _FIXED.update(dict.fromkeys(new, source))


for _module in (mlp, quadratic, small_mlp):
    register(_module.FAMILY)


def families() -> list[str]:
    """The registered families."""
    return sorted(_FAMILIES)


def fixed() -> list[str]:
    """The names of the fixed tasks."""
    return sorted(_FIXED)


def split_of(name: str) -> TaskSplit:
    """Which split a task is in, by a hash of `family/seedN`: a fifth is for test."""
    root = parse(name).root.encode()
    digest = hashlib.blake2b(root, digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % 5 == 0 else "train"


def config(name: str) -> Any:
    """The config of a name, with its data set and fields applied."""
    return _configure(name)[1]


def get(name: str) -> Task:
    """The task of a name: `family/seedN` or a fixed task's, with `[@dataset][?field=v]`.

    Raises `UnknownNameError` for names nobody knows, with the nearest that somebody
    does, and `DataNotFoundError` for a data set that is not on this machine.
    """
    task_name, task_config, build = _configure(name)
    # A task may be asked for inside a trace; its leaves must not be tracers.
    with jax.ensure_compile_time_eval():
        try:
            problem, numbers, data = build(task_config)
        except DataNotFoundError as error:
            raise DataNotFoundError(error.dataset, task=str(task_name)) from None
        numbers = jax.tree.map(jnp.asarray, numbers)
    return Task(problem, numbers, data, str(task_name))


def _configure(name: str) -> tuple[TaskName, Any, Build]:
    task_name = parse(name)
    plain, build = _plain_config(task_name)
    task_config, canonical = override(plain, task_name)
    return canonical, task_config, build


def _plain_config(name: TaskName) -> tuple[Any, Build]:
    if name.seed is None:
        if name.family in _FAMILIES:
            raise ValueError(
                f"{name.family!r} is a family; its tasks are '{name.family}/seed0', "
                f"'{name.family}/seed1' and so on"
            )
        if name.family not in _FIXED:
            raise UnknownNameError("task", name.family, {*_FIXED, *_FAMILIES})
        group = _FIXED[name.family]
        return group.configs[name.family], group.build
    if name.family not in _FAMILIES:
        raise UnknownNameError("family", name.family, _FAMILIES)
    family = _FAMILIES[name.family]
    return family.sample(name.seed), family.build
