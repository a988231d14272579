"""Measured initial and best-known losses, for `Task.normalize`.

    name,initial,best

`initial` is the mean loss at the start over several draws of the parameters, `best` the
lowest that any of a range of tuned runs reached on any split (TaskSet, Metz et al. 2020,
arXiv 2002.11887, normalises by the same two). A task that is not in the table, which
any `?field=value` makes it, has the closed forms of its family instead;
`registry.measured` says what the table has of a task. It is made by
`python -m benchmarks.known_losses`.
"""

import csv
import functools
from importlib.resources import files
from typing import NamedTuple


class KnownLosses(NamedTuple):
    """The losses that are 1 and 0 after normalisation."""

    initial: float
    best: float


@functools.cache
def table() -> dict[str, KnownLosses]:
    """All measured losses, by the name of the task."""
    with (files("tasksets") / "known_losses.csv").open(encoding="utf-8") as file:
        return {
            row["name"]: KnownLosses(float(row["initial"]), float(row["best"]))
            for row in csv.DictReader(file)
        }
