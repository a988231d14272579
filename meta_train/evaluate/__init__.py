"""Comparing optimizers on held-out tasks, so that a sceptic can believe it.

Every contender meets the same initial parameters and the same batches; baselines are
tuned, by validation losses; results are kept by content, so that each run is made once;
figures come with intervals over tasks. docs/evaluation.md says how each is computed.

    losses = evaluate.run("scale_free", "adam:tuned", suite="eval-small")   # a tidy table

    entries = [Entry(task, 500) for task in tasks]                          # or by hand
    comparison = evaluate.compare(entries, [evaluate.contender("adam:tuned"), mine])
    evaluate.standings(comparison)
"""

from meta_train.evaluate.baselines import ALL, LEARNING_RATES, baseline
from meta_train.evaluate.by_name import contender
from meta_train.evaluate.cache import Cache
from meta_train.evaluate.comparing import NothingInTimeError, Progress, compare
from meta_train.evaluate.comparison import Comparison, Competitor, Entry, Results
from meta_train.evaluate.contenders import (
    Contender,
    Kind,
    Point,
    fixed,
    grid,
    learned,
)
from meta_train.evaluate.intervals import Interval, bootstrap
from meta_train.evaluate.metrics import FIGURES
from meta_train.evaluate.running import AGAINST, Evaluation, default_cache, run
from meta_train.evaluate.settings import Settings
from meta_train.evaluate.standing import REFERENCE, Standing, standings, summary
from meta_train.evaluate.suites import suite_names
from meta_train.evaluate.tidy import table

__all__ = [
    "AGAINST",
    "ALL",
    "FIGURES",
    "LEARNING_RATES",
    "REFERENCE",
    "Cache",
    "Comparison",
    "Competitor",
    "Contender",
    "Entry",
    "Evaluation",
    "Interval",
    "Kind",
    "NothingInTimeError",
    "Point",
    "Progress",
    "Results",
    "Settings",
    "Standing",
    "baseline",
    "bootstrap",
    "compare",
    "contender",
    "default_cache",
    "fixed",
    "grid",
    "learned",
    "run",
    "standings",
    "suite_names",
    "summary",
    "table",
]
