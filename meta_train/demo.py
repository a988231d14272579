"""The demonstration: meta-train on real images, then compare on tasks never seen.

A learned optimizer is trained on two small networks (one hidden layer with relu, two with
tanh) that classify scikit-learn's handwritten digits, with different initialisation
scales, parametrisations, label noise and amounts of data. Then it trains, untuned, new
tasks of that distribution, a wider network, a deeper one, and two other data sets.
"""

import dataclasses
from collections.abc import Callable, Iterator

import tasksets
from meta_train import evaluate
from meta_train.config import TrainConfig
from meta_train.evaluate import Contender, Curves, Row

NUM_STEPS = 500  # of every evaluation run
NUM_SEEDS = 3
_RELU = "hidden=32&activation=relu"
_TANH = "hidden=20-20&activation=tanh"

# Row title -> (number of tasks, what follows family/seedN in their names) per structure.
_ROWS = {
    "digits, new tasks (in distribution)": (
        (6, f"@digits?{_RELU}"),
        (6, f"@digits?{_TANH}"),
    ),
    "digits, width 128": ((6, "@digits?hidden=128&activation=relu"),),
    "digits, 5 layers, tanh": ((6, "@digits?hidden=24-24-24-24&activation=tanh"),),
    "breast cancer (another data set)": ((6, f"@breast_cancer?{_RELU}"),),
    "wine (another data set)": ((6, f"@wine?{_RELU}"),),
}


def config(optimizer: str = "scale_free", seed: int = 0) -> TrainConfig:
    """What the demonstration trains."""
    train = TrainConfig(
        optimizer=optimizer,
        suite="small_mlp",
        task_options=(_RELU, _TANH),
        train_weight=0.3,
        outer_steps=2600,
        seed=seed,
    )
    if optimizer == "scale_free":
        return train
    # Networks that start from nothing: smaller perturbations, smaller and more steps.
    return dataclasses.replace(
        train, sigma=0.01, outer_learning_rate=1e-3, outer_steps=20_000
    )


def tasks() -> dict[str, list[tasksets.Task]]:
    """The held-out tasks by row; no name was, or can be, trained on."""
    held_out: Iterator[str] = iter(tasksets.names("small_mlp", split="test"))
    return {
        title: [
            tasksets.get(next(held_out).partition("@")[0] + options)
            for count, options in structures
            for _ in range(count)
        ]
        for title, structures in _ROWS.items()
    }


def compare(
    learned: Contender,
    on_row: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, list[Curves]]:
    """Run the learned optimizer and the baselines on every held-out task."""
    contenders = (learned, *evaluate.baselines())
    rows: dict[str, list[Curves]] = {}
    for title, row_tasks in tasks().items():
        on_row(len(rows), len(_ROWS))
        rows[title] = evaluate.run(
            row_tasks, contenders, num_steps=NUM_STEPS, num_seeds=NUM_SEEDS
        )
    on_row(len(rows), len(_ROWS))
    return rows


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One claim about the comparison and whether it held."""

    claim: str
    holds: bool


def verdicts(tables: dict[str, list[Row]]) -> list[Verdict]:
    """What the demonstration set out to show, checked on the held-out (test) losses."""
    result = []
    for baseline in ("Adam 1e-3", "Prodigy, defaults"):
        lost = [
            f"{title}, {mine.figure}"
            for title, rows in tables.items()
            for mine, theirs in _pairs(rows, baseline, "test")
            if mine.mean >= theirs.mean
        ]
        claim = f"lower test loss than {baseline} on every row, over the run and final"
        result.append(Verdict(claim + _but(lost), not lost))
    in_distribution = next(iter(tables.values()))
    tuned = "Adam, best of 14 rates per task"
    lost = [
        f"{mine.mean:.4f} against {theirs.mean:.4f}"
        for mine, theirs in _pairs(in_distribution, tuned, "test")
        if mine.figure == "mean over run" and mine.mean >= theirs.mean
    ]
    claim = (
        "lower mean test loss over the run than per-task-tuned Adam, in distribution"
    )
    result.append(Verdict(claim + _but(lost), not lost))
    return result


def _pairs(rows: list[Row], baseline: str, split: str) -> Iterator[tuple[Row, Row]]:
    """The learned optimizer's row beside the baseline's, for each figure."""
    learned = rows[0].contender
    theirs = {r.figure: r for r in rows if (r.contender, r.split) == (baseline, split)}
    for row in rows:
        if (row.contender, row.split) == (learned, split):
            yield row, theirs[row.figure]


def _but(lost: list[str]) -> str:
    return f" (lost: {'; '.join(lost)})" if lost else ""
