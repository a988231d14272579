"""Evaluating by name: suites and optimizers as the command line names them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meta_train.durations import over
from meta_train.evaluate import shipped, suites, timing
from meta_train.evaluate.baselines import ALL
from meta_train.evaluate.by_name import contender
from meta_train.evaluate.cache import Cache
from meta_train.evaluate.comparing import Progress, compare
from meta_train.evaluate.comparison import Comparison, Entry
from meta_train.evaluate.contenders import Contender
from meta_train.evaluate.settings import Settings
from meta_train.evaluate.tidy import table
from tasksets.array_cache import cache_folder

if TYPE_CHECKING:
    import pandas as pd

AGAINST = ("adam:tuned", "adam:lr=0.001", "prodigy")  # what costs little and says much


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """What to evaluate, and on what."""

    optimizers: tuple[str | Contender, ...]
    """Pretrained names, run folders, paths, or baselines such as adam:tuned."""
    against: tuple[str, ...] = AGAINST
    """Baselines to run beside them; 'all' is every one there is."""
    suite: str | tuple[str, ...] = "eval-small"
    """A suite by its name, or tasks by theirs."""
    num_tasks: int | None = None
    """The first so many of the suite; None: all."""
    task_options: str = ""
    """Fields to fix in every task, as 'hidden=32&activation=relu'."""
    horizon: int = 2000
    """Steps of training, a multiple of 25."""
    seeds: int = 3
    """Initialisations and batch orders of each task."""
    tuning_seeds: int = 1
    """How many of them choose where there is something to tune."""
    timed: bool = False
    """Also measure what a step takes, one optimizer after the other."""

    def contenders(self) -> list[Contender]:
        """All that are compared, each once, the optimizers first."""
        against = [
            x for name in self.against for x in (ALL if name == "all" else (name,))
        ]
        found: dict[str, Contender] = {}
        for x in (*self.optimizers, *against):
            if not isinstance(x, (str, Contender)):
                raise TypeError(
                    f"what is compared has a name: `evaluate.fixed(name, tx)` for an optax "
                    "transform, `evaluate.learned(name, optimizer, theta)` for a learned "
                    f"optimizer; got a {type(x).__name__}."
                )
            one = x if isinstance(x, Contender) else contender(x)
            other = found.setdefault(one.name, one)
            if other is not one and (
                one.content is None or one.content != other.content
            ):
                raise ValueError(
                    f"two contenders are named {one.name!r} and are not the same."
                )
        return list(found.values())

    def run(
        self,
        *,
        cache: Cache,
        budget: float | None = None,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        warn: Callable[[str], None] = print,
    ) -> Comparison:
        """Compare them; what ships with the package is taken from there, and added.

        Args:
          cache: of results.
          budget: seconds after which to begin nothing more.
          on_progress: see `compare`.
          warn: likewise.

        Raises:
          LookupError: there is no such suite or optimizer.
          ValueError: see `compare`.
          tasksets.DataNotFoundError: a data set is not on this machine.
        """
        stop = over(budget)
        contenders = self.contenders()
        items = suites.items(self.suite, self.num_tasks)
        entries = suites.entries(items, self.horizon, self.task_options)
        known = self._shipped(entries, cache, warn)
        have = {} if known is None else {c.content: c.name for c in known.competitors}
        missing = [c for c in contenders if c.content is None or c.content not in have]
        if missing or known is None:
            found = compare(
                entries,
                missing,
                num_seeds=self.seeds,
                tuning_seeds=self.tuning_seeds,
                cache=cache,
                stop=stop,
                on_progress=on_progress,
                warn=warn,
            )
            known = found if known is None else found.joined(known)
        for one in contenders:  # what ships has it by another name
            if one.name not in known.names and one.content in have:
                known = known.also_as(have[one.content], one.name)
        if not self.timed:
            return known
        count = lambda done, total: on_progress(Progress(done, total))
        return timing.timed(known, contenders, on_timed=count)

    def protocol(self) -> dict[str, Any]:
        """What results that ship must have in common with ones made here."""
        settings = dataclasses.asdict(Settings())
        return {**settings, "seeds": self.seeds, "tuning_seeds": self.tuning_seeds}

    def _shipped(
        self, entries: Sequence[Entry], cache: Cache, warn: Callable[[str], None]
    ) -> Comparison | None:
        if not isinstance(self.suite, str):
            return None
        path = shipped.path(self.suite, self.horizon, self.seeds)
        if not path.exists():
            return None
        every = [contender(name) for name in ALL]
        if self.num_tasks is not None:  # the best for some tasks may be another
            every = [one for one in every if one.tuned == "per task"]
        try:
            known = shipped.load(path, entries, every, self.protocol(), cache)
        except ValueError as error:
            warn(f"the shipped baselines are not used: {error}")
            return None
        changed = [one.name for one in every if one.name not in known.names]
        if changed:
            warn(f"shipped results of other code are not used: {', '.join(changed)}")
        return known if known.names else None


def run(
    *optimizers: str | Contender,
    against: str | Sequence[str] = AGAINST,
    suite: str | Sequence[str] = "eval-small",
    num_tasks: int | None = None,
    task_options: str = "",
    horizon: int = 2000,
    seeds: int = 3,
    tuning_seeds: int = 1,
    timed: bool = False,
    tuned_for: str = "final",
    cache: Path | None = None,
) -> "pd.DataFrame":
    """Evaluate optimizers; a tidy table of every measurement.

        losses = evaluate.run("scale_free", "adam:tuned", suite="eval-small")
        test = losses[losses.split == "test"]
        test.groupby(["optimizer", "step"]).normalised.mean()

    Args:
      *optimizers: by name, or contenders.
      against: a baseline, or several, to run beside them; () for what is named alone.
      suite: name of a suite, or the names of tasks.
      num_tasks: the first so many of it.
      task_options: fields to fix in every task.
      horizon: steps of training.
      seeds: per task.
      tuning_seeds: how many of them choose.
      timed: whether to measure what a step takes.
      tuned_for: "final" or "mean over training": what every contender was tuned for.
      cache: folder of results; None: `default_cache()`.

    Returns:
      The columns of `table`.
    """
    evaluation = Evaluation(
        tuple(optimizers),
        (against,) if isinstance(against, str) else tuple(against),
        suite if isinstance(suite, str) else tuple(suite),
        num_tasks,
        task_options,
        horizon,
        seeds,
        tuning_seeds,
        timed,
    )
    folder = default_cache() if cache is None else cache
    return table(evaluation.run(cache=Cache(folder)), tuned_for)


def default_cache() -> Path:
    """Where results are kept unless somebody says otherwise."""
    return cache_folder() / "evaluations"
