"""Where tasks come from: a family samples configs, a fixed group lists them.

Either way a config is a frozen dataclass, and `build` makes the task of one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import PyTree

from tasksets.task import Problem

Build = Callable[[Any], tuple[Problem, Any, PyTree]]  # -> problem, numbers, data


@dataclass(frozen=True)
class Family:
    """A distribution over configs; its tasks are called `name/seedN`.

    Attributes:
      name: of the family.
      sample: maps a seed to a config.
      build: makes the task of a config.
      outline: makes the same task but for the values of its numbers, at once; for
        families whose numbers take seconds to draw, None elsewhere.
    """

    name: str
    sample: Callable[[int], Any]
    build: Build
    outline: Build | None = None


@dataclass(frozen=True)
class FixedTasks:
    """A group of hand-made configs, each under its own name."""

    name: str
    configs: Mapping[str, Any]  # name of a task -> config
    build: Build
