"""The demonstration: meta-train on real images, then compare on tasks never seen.

A learned optimizer is trained on small networks that classify scikit-learn's handwritten
digits, all of one structure, with different initialisation scales, parametrisations, label
noise and amounts of data. Then it trains, untuned, new tasks of that distribution, a wider
network, a deeper one with another nonlinearity, and two other data sets.
"""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tasksets
from meta_train import evaluate
from meta_train.config import TrainConfig
from meta_train.evaluate import Curves, Row

NUM_STEPS = 500  # of every evaluation run
NUM_SEEDS = 3
_STRUCTURE = "hidden=32&activation=relu"

# Row title -> (number of tasks, what follows family/seedN in their names).
_ROWS = {
    "digits, new tasks (in distribution)": (10, f"@digits?{_STRUCTURE}"),
    "digits, width 128": (6, "@digits?hidden=128&activation=relu"),
    "digits, depth 5, tanh": (6, "@digits?hidden=24-24-24-24&activation=tanh"),
    "breast cancer (another data set)": (6, f"@breast_cancer?{_STRUCTURE}"),
    "wine (another data set)": (6, f"@wine?{_STRUCTURE}"),
}


def config(optimizer: str = "scale_free", seed: int = 0) -> TrainConfig:
    """What the demonstration trains."""
    return TrainConfig(
        optimizer=optimizer,
        suite="small_mlp",
        task_options=_STRUCTURE,
        seed=seed,
    )


def tasks() -> dict[str, list[tasksets.Task]]:
    """The held-out tasks by row; no name was, or can be, trained on."""
    held_out: Iterator[str] = iter(tasksets.names("small_mlp", split="test"))
    return {
        title: [
            tasksets.get(next(held_out).partition("@")[0] + options)
            for _ in range(count)
        ]
        for title, (count, options) in _ROWS.items()
    }


def compare(
    learned: evaluate.Contender,
    on_group: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Curves]]:
    """Run the learned optimizer and the baselines on every held-out task."""
    contenders = (learned, *evaluate.baselines())
    rows, done = {}, 0
    for title, row_tasks in tasks().items():
        rows[title] = evaluate.run(
            row_tasks, contenders, num_steps=NUM_STEPS, num_seeds=NUM_SEEDS
        )
        done += 1
        on_group(done, len(_ROWS))
    return rows


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One claim about the comparison and whether it held."""

    claim: str
    holds: bool


def verdicts(tables: dict[str, list[Row]]) -> list[Verdict]:
    """What the demonstration set out to show, checked."""
    result = []
    for baseline in ("Adam 1e-3", "Prodigy, defaults"):
        lost = [
            f"{title} ({mine.split}, {mine.figure})"
            for title, rows in tables.items()
            for mine, theirs in _pairs(rows, baseline)
            if mine.mean >= theirs.mean
        ]
        claim = f"beats {baseline} on every row"
        result.append(Verdict(claim + _but(lost), not lost))
    in_distribution = next(iter(tables.values()))
    tuned = "Adam, best of 14 rates per task"
    lost = [
        f"{mine.split}"
        for mine, theirs in _pairs(in_distribution, tuned)
        if mine.figure == "mean over run" and mine.mean >= theirs.mean
    ]
    claim = "beats per-task-tuned Adam in mean loss over the run, in distribution"
    result.append(Verdict(claim + _but(lost), not lost))
    return result


def _pairs(rows: list[Row], baseline: str) -> Iterator[tuple[Row, Row]]:
    learned = rows[0].contender
    theirs = {(r.split, r.figure): r for r in rows if r.contender == baseline}
    for row in rows:
        if row.contender == learned:
            yield row, theirs[row.split, row.figure]


def _but(lost: list[str]) -> str:
    return f"; not in: {', '.join(lost)}" if lost else ""


def readable(theta_folder: Path) -> dict[str, Any]:
    """How a person uses what was just trained."""
    return {
        "python": f"pretrained.load({str(theta_folder)!r}).transform(num_steps=...)"
    }
