"""What a comparison found: the losses of every contender at its tuned point."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from meta_train.evaluate import metrics
from meta_train.evaluate.metrics import FIGURES
from tasksets import Task
from tasksets.task import SPLITS, SplitName


@dataclasses.dataclass(frozen=True, eq=False)
class Entry:
    """One task of a comparison.

    Attributes:
      task: what is trained.
      num_steps: for how long.
      part: of a suite that has parts, such as "width 64"; empty in one that has none.
      x: where the part is on the axis of a sweep, such as 64; None where there is none.
    """

    task: Task
    num_steps: int
    part: str = ""
    x: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.task, Task):
            raise TypeError(
                f"an entry has a task, as `tasksets.get(name)` gives it: {self.task!r}."
            )


@dataclasses.dataclass(frozen=True)
class Competitor:
    """A contender as results know it.

    Attributes:
      name: as people and the command line call it.
      trials: runs that were needed to choose its point; 1: nothing was chosen.
      baseline: whether what it reached counts as known.
      content: digest of all that decides its results; None if nobody knows.
    """

    name: str
    trials: int
    baseline: bool
    content: str | None

    @property
    def title(self) -> str:
        """The name, which says what the tuning cost."""
        return self.name if self.trials == 1 else f"{self.name}, {self.trials} trials"


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
    """The runs of one contender at its points for each figure.

    Attributes:
      losses: by figure and split, at the point that is best for the figure on inner
        validation, ``[tasks, seeds, evals]``.
      labels: of those points by figure, one per task.
      lowest: by split, the least loss of any of its runs, ``[tasks]``.
      seconds: of a training step by itself, ``[tasks]``; None where nobody measured.
    """

    losses: dict[str, dict[SplitName, Float[np.ndarray, "tasks seeds evals"]]]
    labels: dict[str, tuple[str, ...]]
    lowest: dict[SplitName, Float[np.ndarray, "tasks"]]
    seconds: Float[np.ndarray, "tasks"] | None = None

    def of_tasks(self, chosen: Sequence[int]) -> "Results":
        """The results on some of the tasks, by index."""
        at = np.array(chosen, int)
        return Results(
            {f: {s: x[at] for s, x in by.items()} for f, by in self.losses.items()},
            {f: tuple(labels[i] for i in chosen) for f, labels in self.labels.items()},
            {split: lowest[at] for split, lowest in self.lowest.items()},
            None if self.seconds is None else self.seconds[at],
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """Contenders on tasks.

    Attributes:
      entries: the tasks.
      competitors: the contenders.
      results: of each contender.
    """

    entries: tuple[Entry, ...]
    competitors: tuple[Competitor, ...]
    results: tuple[Results, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Of the contenders."""
        return tuple(competitor.name for competitor in self.competitors)

    @property
    def num_steps(self) -> Float[np.ndarray, "tasks"]:
        """Length of the runs."""
        return np.array([entry.num_steps for entry in self.entries], float)

    def index(self, name: str) -> int:
        """Of a contender.

        Raises:
          LookupError: it is not in the comparison.
        """
        if name not in self.names:
            raise LookupError(f"{name!r} was not compared; there are {self.names}")
        return self.names.index(name)

    @property
    def splits(self) -> tuple[SplitName, ...]:
        """Whose losses are known of all contenders."""
        known = [result.lowest.keys() for result in self.results]
        return tuple(s for s in SPLITS if all(s in keys for keys in known))

    def progress(
        self, figure: str, split: SplitName
    ) -> Float[np.ndarray, "contenders tasks seeds evals"]:
        """Losses on the scale on which each task measures progress."""
        losses = [result.losses[figure][split] for result in self.results]
        return self._on_scale(np.stack(losses, axis=1)).swapaxes(0, 1)

    def normalised(
        self, figure: str, split: SplitName
    ) -> Float[np.ndarray, "contenders tasks seeds evals"]:
        """Losses in units of each task: 1 is the initial loss, 0 the best known.

        The best known loss is the least that any run of a baseline reached on the split
        at any measurement, at whatever point and seed; without baselines, any run.
        """
        u = self.progress(figure, split)
        known = [c.baseline for c in self.competitors]
        if not any(known):
            known = [True] * len(known)
        lowest = [
            r.lowest[split] for r, k in zip(self.results, known, strict=True) if k
        ]
        best = self._on_scale(np.min(lowest, axis=0)[:, None])[:, 0]
        initial = u[0, :, :, 0].mean(axis=1)
        return np.stack([metrics.normalise(one, initial, best) for one in u])

    def scores(
        self, figure: str, split: SplitName
    ) -> Float[np.ndarray, "contenders tasks seeds"]:
        """A figure of the normalised losses: 0 is best, 1 is worst."""
        return FIGURES[figure](self.normalised(figure, split))

    def of_contenders(self, names: Sequence[str]) -> "Comparison":
        """Some of the contenders, in the order given."""
        chosen = [self.index(name) for name in names]
        return dataclasses.replace(
            self,
            competitors=tuple(self.competitors[i] for i in chosen),
            results=tuple(self.results[i] for i in chosen),
        )

    def also_as(self, name: str, other: str) -> "Comparison":
        """With a contender once more, under another name, in front."""
        at = self.index(name)
        again = dataclasses.replace(self.competitors[at], name=other)
        return dataclasses.replace(
            self,
            competitors=(again, *self.competitors),
            results=(self.results[at], *self.results),
        )

    def of_tasks(self, chosen: Sequence[int]) -> "Comparison":
        """Some of the tasks, by index."""
        return Comparison(
            tuple(self.entries[i] for i in chosen),
            self.competitors,
            tuple(result.of_tasks(chosen) for result in self.results),
        )

    def joined(self, other: "Comparison") -> "Comparison":
        """These contenders, and those others of that, on the tasks that both have."""
        places = {_request(entry): i for i, entry in enumerate(other.entries)}
        mine = [i for i, entry in enumerate(self.entries) if _request(entry) in places]
        theirs = other.of_tasks(
            [places[_request(self.entries[i])] for i in mine]
        ).of_contenders([name for name in other.names if name not in self.names])
        ours = self.of_tasks(mine)
        return dataclasses.replace(
            ours,
            competitors=ours.competitors + theirs.competitors,
            results=ours.results + theirs.results,
        )

    def _on_scale(
        self, losses: Float[np.ndarray, "tasks *rest"]
    ) -> Float[np.ndarray, "tasks *rest"]:
        return np.stack(
            [
                on_scale(entry.task, x)
                for entry, x in zip(self.entries, losses, strict=True)
            ]
        )


def _request(entry: Entry) -> tuple[str, int]:
    return entry.task.name, entry.num_steps


def on_scale(
    task: Task, losses: Float[np.ndarray, "*any"]
) -> Float[np.ndarray, "*any"]:
    """Losses as a task measures progress: themselves, or their logarithms."""
    return np.asarray(task.problem.progress(task.numbers, jnp.asarray(losses)), float)
