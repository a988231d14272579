"""What a comparison runs: every point of a contender, then the chosen one with all seeds.

trials    every point with the first ``tuning_seeds`` seeds (one point: with all)
choose    the point of least loss on inner validation, for each figure its own
finals    the chosen points with all seeds
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from meta_train.evaluate.comparison import Competitor, Results, on_scale
from meta_train.evaluate.contenders import Contender, Point
from meta_train.evaluate.metrics import FIGURES, cut_off, normalise, tuned_point
from meta_train.evaluate.training import Losses
from meta_train.evaluate.workbench import Wanted, Workbench
from tasksets.task import SPLITS

Choice = dict[str, int]  # the index of a point by figure
Spot = tuple[Workbench, int]  # a task: the bench it is on, its index there

_INNER_VALID = SPLITS.index("inner_valid")


@dataclasses.dataclass(frozen=True)
class Study:
    """How many seeds choose, and how many are reported."""

    num_seeds: int
    tuning_seeds: int

    def competitor(self, contender: Contender) -> Competitor:
        """A contender with what its tuning costs."""
        trials = len(contender.points)
        if trials > 1:
            trials *= self.tuning_seeds
        return Competitor(contender.name, trials, contender.baseline, contender.content)

    def trials(self, bench: Workbench, contenders: Sequence[Contender]) -> list[Wanted]:
        """All runs on the tasks of a bench that need no choice."""
        return [
            Wanted(task, point, seed)
            for contender in contenders
            for point in contender.points
            for task in range(len(bench.tasks))
            for seed in range(self._trial_seeds(contender))
        ]

    def finals(
        self, bench: Workbench, contender: Contender, choice: Choice | None = None
    ) -> list[Wanted]:
        """The runs of the chosen points, where the trials are done.

        Args:
          bench: where.
          contender: whose.
          choice: of the points; None: each task its own.
        """
        wanted = []
        for task in range(len(bench.tasks)):
            mine = choice or self.choose((bench, task), contender)
            wanted += [
                Wanted(task, contender.points[index], seed)
                for index in sorted(set(mine.values()))
                for seed in range(self.num_seeds)
            ]
        return wanted

    def estimate(self, bench: Workbench, contenders: Sequence[Contender]) -> int:
        """How many runs are missing on a bench; of finals, at most so many."""
        finals = sum(
            len(FIGURES) * (self.num_seeds - self._trial_seeds(contender))
            for contender in contenders
        )
        trials = len(bench.missing(self.trials(bench, contenders)))
        return trials + (finals * len(bench.tasks) if trials else 0)

    def choose(self, spot: Spot, contender: Contender) -> Choice:
        """The best point on one task by its losses on inner validation."""
        if len(contender.points) == 1:
            return dict.fromkeys(FIGURES, 0)
        u = self._validation(spot, contender)
        return {name: tuned_point(u, figure) for name, figure in FIGURES.items()}

    def choose_for_all(self, spots: Sequence[Spot], contender: Contender) -> Choice:
        """The best point on all tasks alike.

        By the mean over tasks of the validation loss, normalised by what the contender
        itself reached: 1 is the initial loss, 0 the least of all its points.
        """
        u = np.stack([cut_off(self._validation(spot, contender)) for spot in spots])
        initial = u[..., 0].mean(axis=(1, 2))
        n = normalise(u, initial, u.min(axis=(1, 2, 3)))
        return {
            name: int(figure(n).mean(axis=(0, 2)).argmin())
            for name, figure in FIGURES.items()
        }

    def results(
        self, contender: Contender, spots: Sequence[Spot], choice: Choice | None
    ) -> Results:
        """Everything a comparison keeps of a contender whose runs are all done."""
        choices = [choice or self.choose(spot, contender) for spot in spots]
        losses, labels = {}, {}
        for figure in FIGURES:
            points = [contender.points[choice[figure]] for choice in choices]
            runs = np.stack(
                [
                    [self._losses(spot, point, s) for s in range(self.num_seeds)]
                    for spot, point in zip(spots, points, strict=True)
                ]
            )
            losses[figure] = {name: runs[:, :, i] for i, name in enumerate(SPLITS)}
            labels[figure] = tuple(point.label for point in points)
        every = [
            [self._losses(spot, *run) for run in self._runs(contender, mine)]
            for spot, mine in zip(spots, choices, strict=True)
        ]
        lowest = np.array([_lowest(runs) for runs in every])
        return Results(
            losses,
            labels,
            {name: lowest[:, i] for i, name in enumerate(SPLITS)},
        )

    def _trial_seeds(self, contender: Contender) -> int:
        return self.num_seeds if len(contender.points) == 1 else self.tuning_seeds

    def _validation(
        self, spot: Spot, contender: Contender
    ) -> Float[np.ndarray, "points seeds evals"]:
        bench, task = spot
        seeds = range(self._trial_seeds(contender))
        losses = [
            [self._losses(spot, point, seed)[_INNER_VALID] for seed in seeds]
            for point in contender.points
        ]
        return on_scale(bench.tasks[task], np.array(losses))

    def _losses(self, spot: Spot, point: Point, seed: int) -> Losses:
        bench, task = spot
        losses = bench.result(Wanted(task, point, seed))
        if losses is None:
            name = bench.tasks[task].name
            raise RuntimeError(f"{point.label} on {name}, seed {seed}, was not run")
        return losses

    def _runs(
        self, contender: Contender, choice: Choice
    ) -> Iterator[tuple[Point, int]]:
        """The trials and the finals, by point and seed; not what others may have run."""
        for index, point in enumerate(contender.points):
            chosen = index in choice.values()
            seeds = self.num_seeds if chosen else self._trial_seeds(contender)
            yield from ((point, seed) for seed in range(seeds))


def _lowest(runs: Sequence[Losses]) -> Float[np.ndarray, "splits"]:
    """The least finite loss of any run by split; infinite where none is finite."""
    losses = np.stack(runs)
    return np.where(np.isnan(losses), np.inf, losses).min(axis=(0, 2))
