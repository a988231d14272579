"""A family: a distribution over configs, and the task that a config describes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxtyping import PyTree

from tasksets.task import Problem


@dataclass(frozen=True)
class Family:
    """Everything that the registry knows about a family."""

    name: str
    sample: Callable[[int], Any]  # seed -> config, a frozen dataclass
    build: Callable[[Any], tuple[Problem, Any, PyTree]]  # -> problem, numbers, data
