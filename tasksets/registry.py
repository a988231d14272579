"""Tasks by name: the families and fixed tasks there are, and the task of a name.

    get("mlp_family/seed7@digits")    the task of a name, the same on every machine
    config("TwoD_Bowl10")             the config that it is built from
    split_of("mlp_family/seed7")      whether it is for training or for testing

A hash of the name's root, `family/seedN`, sends a fifth of all tasks to the test split.
What follows in a name does not count, so that no variant of a test task is trained on.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from tasksets import known_losses, wrappers
from tasksets.data import DataNotFoundError, available
from tasksets.families import FAMILIES
from tasksets.family import Build, Family, FixedTasks
from tasksets.fixed import TASKSET_GROUPS
from tasksets.known_losses import KnownLosses
from tasksets.names import TaskName, UnknownNameError, override, parse
from tasksets.placing import on_device
from tasksets.task import Task

TaskSplit = Literal["train", "test"]

_FAMILIES: dict[str, Family] = {}
_FIXED: dict[str, FixedTasks] = {}  # by the name of a task


def register(source: Family | FixedTasks) -> None:
    """Adds a family, whose tasks are `name/seedN`, or a group of fixed tasks.

    Raises:
      ValueError: a name is taken, or is none that a task's name could begin with.
    """
    is_family = isinstance(source, Family)
    new = [source.name] if is_family else list(source.configs)
    for name in new:
        _require_readable(name, 0 if is_family else None)
        if name in _FAMILIES or name in _FIXED:
            raise ValueError(f"there is a task or family {name!r} already")
    if isinstance(source, Family):
        _FAMILIES[source.name] = source
    else:
        _FIXED.update(dict.fromkeys(new, source))


def _require_readable(name: str, seed: int | None) -> None:
    whole = TaskName(name, seed)
    base, suffix = wrappers.split(str(whole))
    try:
        readable = not suffix and parse(base) == whole
    except ValueError:
        readable = False
    if not readable:
        raise ValueError(
            f"{name!r} cannot name tasks: letters, digits and _, a letter first, and no "
            "'seed' with a number at the end"
        )


for _known in (*FAMILIES, *TASKSET_GROUPS):
    register(_known)
_SHIPPED = frozenset((*_FAMILIES, *_FIXED))


def families() -> list[str]:
    """The registered families."""
    return sorted(_FAMILIES)


def fixed() -> list[str]:
    """The names of the fixed tasks."""
    return sorted(_FIXED)


def ships(name: str) -> bool:
    """Whether a name is of a task of this package, not of one registered since."""
    try:
        return parse(wrappers.split(name)[0]).family in _SHIPPED
    except (LookupError, ValueError):  # nobody's
        return False


def root_of(name: str) -> str:
    """`family/seedN` or the name of a fixed task, without what follows in a name."""
    return parse(wrappers.split(name)[0]).root


def with_options(name: str, options: str) -> str:
    """The name with fields of its config set, as "hidden=32&dataset=iris"; those win."""
    base, suffix = wrappers.split(name)
    task_name = parse(base)
    new = parse(f"{task_name.root}?{options}").fields
    named = {field for field, _ in new}
    kept = tuple(item for item in task_name.fields if item[0] not in named)
    dataset = None if "dataset" in named else task_name.dataset
    return (
        f"{dataclasses.replace(task_name, dataset=dataset, fields=kept + new)}{suffix}"
    )


def split_of(name: str) -> TaskSplit:
    """Which split a task is in, by a hash of `family/seedN`: a fifth is for test."""
    task_name = parse(wrappers.split(name)[0])
    _source(task_name)  # raises for a name nobody knows
    digest = hashlib.blake2b(task_name.root.encode(), digest_size=8).digest()
    return "test" if int.from_bytes(digest, "big") % 5 == 0 else "train"


def config(name: str) -> Any:
    """The config of a name, with its data set and fields applied."""
    return _configure(wrappers.split(name)[0])[1]


def measured(name: str) -> KnownLosses | None:
    """The measured losses that normalise a task; None: closed forms of its family do."""
    task_name, task_config, _ = _configure(wrappers.split(name)[0])
    return _measured(task_name, task_config)


def get(name: str) -> Task:
    """The task of a name: `family/seedN` or a fixed task's, then its variant.

    `@dataset` swaps the data set, `?field=value&field=value` changes the config, and
    `+wrapper:field=value` wraps the task (`tasksets.wrappers`), the innermost first.

    Raises `UnknownNameError` for names nobody knows, with the nearest that somebody
    does, and `DataNotFoundError` for a data set that is not on this machine.
    """
    return _make(name, lambda source: source.build)


def outline(name: str) -> Task:
    """The task of a name, perhaps with placeholders for numbers; made at once.

    It has the structure of the task and costs as much, which is enough to choose by.
    `filled_in` makes it the task. Raises what `get` raises.
    """
    return _make(name, lambda source: _outline_of(source) or source.build)


def filled_in(outline: Task) -> Task:
    """The task that an outline, not wrapped since, is one of."""
    name = parse(wrappers.split(outline.name)[0])
    return outline if _outline_of(_source(name)) is None else get(outline.name)


def _outline_of(source: Family | FixedTasks) -> Build | None:
    return source.outline if isinstance(source, Family) else None


def _make(name: str, build_of: Callable[[Family | FixedTasks], Build]) -> Task:
    base, suffix = wrappers.split(name)
    task_name, task_config, source = _configure(base)
    build = build_of(source)
    # A task may be asked for inside a trace; its leaves must not be tracers.
    with jax.ensure_compile_time_eval():
        try:
            problem, numbers, data = build(task_config)
        except DataNotFoundError as error:
            raise DataNotFoundError(error.dataset, task=str(task_name)) from None
        known = _measured(task_name, task_config)
        if known is not None:
            numbers = numbers._replace(
                initial_loss=jnp.float32(known.initial),
                best_loss=jnp.float32(known.best),
            )
        numbers = jax.tree.map(jnp.asarray, numbers)
        task = Task(problem, numbers, on_device(data), str(task_name))
        return wrappers.apply(task, suffix)


def _measured(name: TaskName, config: Any) -> KnownLosses | None:
    """By either name of a task on its own data set: with `@dataset`, and without."""
    spellings = [name]
    own = getattr(_plain(name), "dataset", None)
    if own is not None and config.dataset == own:
        spellings = [dataclasses.replace(name, dataset=x) for x in (own, None)]
    known = (known_losses.table().get(str(spelling)) for spelling in spellings)
    return next((losses for losses in known if losses is not None), None)


def _configure(name: str) -> tuple[TaskName, Any, Family | FixedTasks]:
    task_name = parse(name)
    task_config, canonical = override(_plain(task_name), task_name)
    if "num_per_valid" in dict(canonical.fields) and task_config.dataset in available():
        raise ValueError(
            f"{canonical}: {task_config.dataset!r} comes in its four splits, so "
            "num_per_valid would change nothing"
        )
    if getattr(task_config, "batch_size", 1) < 1:
        raise ValueError(f"{canonical}: batch_size is at least 1")
    return canonical, task_config, _source(task_name)


def _plain(name: TaskName) -> Any:
    """The config without what the name changes."""
    source = _source(name)
    if isinstance(source, FixedTasks):
        return source.configs[name.family]
    assert name.seed is not None
    return source.sample(name.seed)


def _source(name: TaskName) -> Family | FixedTasks:
    if name.seed is None:
        if name.family in _FAMILIES:
            raise ValueError(
                f"{name.family!r} is a family; its tasks are '{name.family}/seed0', "
                f"'{name.family}/seed1' and so on"
            )
        if name.family not in _FIXED:
            raise UnknownNameError("task", name.family, {*_FIXED, *_FAMILIES})
        return _FIXED[name.family]
    if name.family not in _FAMILIES:
        raise UnknownNameError("family", name.family, _FAMILIES)
    return _FAMILIES[name.family]
