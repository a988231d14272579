"""The suites to evaluate on, none of whose tasks was, or can be, trained on.

    eval-100      100 held-out tasks of TaskSet; how they were drawn: see
                  `python -m benchmarks.evaluation_suites`
    eval-small    20 of them, of least cost
    width, depth, horizon, families, text, ...    how far it generalises: see `sweeps`

Every suite of `tasksets` serves too, and every family: its test tasks, in a random order.
"""

from collections.abc import Sequence
from importlib.resources import files

import tasksets
from meta_train.evaluate.comparison import Entry
from meta_train.evaluate.sweeps import SWEEPS, Item
from tasksets.names import UnknownNameError

_LISTED = ("eval-100", "eval-small")


def suite_names() -> list[str]:
    """The names of all suites."""
    names = (*_LISTED, *SWEEPS, *tasksets.suites(), *tasksets.families())
    return list(dict.fromkeys(names))


def items(suite: str | Sequence[str], num_tasks: int | None = None) -> tuple[Item, ...]:
    """The tasks of a suite by name, or tasks that are named; the first so many.

    Raises:
      LookupError: there is no such suite; the message has the nearest.
      ValueError: none of its tasks are asked for.
    """
    if num_tasks is not None and num_tasks < 1:
        raise ValueError(f"the number of tasks must be at least 1, not {num_tasks}.")
    if not isinstance(suite, str):
        found = tuple(map(Item, suite))
    elif suite in _LISTED:
        text = (files("meta_train.evaluate") / "suites" / f"{suite}.txt").read_text()
        found = tuple(Item(name) for name in text.split())
    elif suite in SWEEPS:
        found = SWEEPS[suite]
    elif suite in suite_names():
        most = len(tasksets.names(suite, "test"))
        count = min(num_tasks or most, most)
        names = tasksets.sample_names(count, suite=suite, split="test")
        found = tuple(Item(name) for name in names)
    else:
        raise UnknownNameError("suite", suite, suite_names())
    return found[:num_tasks]


def entries(items: Sequence[Item], num_steps: int, options: str = "") -> list[Entry]:
    """The tasks themselves.

    Args:
      items: by name.
      num_steps: for those that do not say.
      options: fields to fix in every task, as "hidden=32&activation=relu".

    Raises:
      tasksets.DataNotFoundError: a data set is not on this machine.
    """
    name = lambda i: tasksets.with_options(i.name, options) if options else i.name
    return [
        Entry(tasksets.get(name(i)), i.num_steps or num_steps, i.part, i.x)
        for i in items
    ]
