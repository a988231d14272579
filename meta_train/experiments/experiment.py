"""What an experiment is: a claim of a paper, settings, and a report of what came out."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from jaxtyping import Float

Row = Mapping[str, str | float | int]


class Claim(NamedTuple):
    """One sentence of a paper, held against a measurement.

    Attributes:
      text: what is claimed, in one sentence.
      measured: what came out, with its spread over seeds.
      holds: whether it meets the criterion that the experiment's docstring states.
    """

    text: str
    measured: str
    holds: bool


@dataclasses.dataclass(frozen=True)
class Report:
    """What an experiment found.

    Attributes:
      claims: the paper's, each with its verdict.
      rows: the table of results, in columns of equal names.
      figures: pictures that were written.
      notes: what a reader should know to judge the claims.
    """

    claims: Sequence[Claim]
    rows: Sequence[Row]
    figures: Sequence[Path] = ()
    notes: Sequence[str] = ()

    @property
    def reproduced(self) -> bool:
        """Whether every claim holds."""
        return all(claim.holds for claim in self.claims)


@dataclasses.dataclass(frozen=True)
class Experiment(abc.ABC):
    """An experiment: its fields are its settings, their defaults run in minutes.

    Attributes:
      name: how the command line calls it.
      title: what it shows.
      paper: where it is from.
      seeds: of every run; at least three.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    paper: ClassVar[str]

    seeds: tuple[int, ...] = (0, 1, 2)

    @classmethod
    def full(cls) -> Self:
        """The experiment at the size of the paper."""
        return cls()

    @abc.abstractmethod
    def run(self, folder: Path) -> Report:
        """Run it; ``folder`` exists, gets figures, and keeps what a rerun can use."""


def spread(values: Float[np.ndarray, "seeds"]) -> str:
    """Median and range over seeds."""
    low, middle, high = np.min(values), np.median(values), np.max(values)
    return f"{middle:.3g} [{low:.3g}, {high:.3g}]"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table in Markdown."""
    columns = list(rows[0])
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        lines.append(f"| {' | '.join(_text(row[name]) for name in columns)} |")
    return lines


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
