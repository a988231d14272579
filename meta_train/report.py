"""A run on one HTML page, which needs no network to read: at any moment of the run.

    report.write(Path("runs/mine"))        # runs/mine/report.html

It says how far the run is and how it was made, draws its logs, and names the groups of
tasks that it does worst on.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from meta_train import offline_page
from meta_train.config import TrainConfig
from meta_train.group_log import read_groups
from meta_train.run_log import read_metrics
from meta_train.selection import BASELINE, best, read_evaluations

_RECENT = 100  # outer steps that "of late" means
_WORST = 20  # groups by name


def write(folder: Path) -> Path:
    """Write ``report.html`` into a run folder; its path.

    Raises:
      FileNotFoundError: the folder holds no run.
      ImportError: matplotlib is not installed.
    """
    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"{folder} holds no run: there is no config.json in it."
        )
    from meta_train import run_plots

    config = TrainConfig.load(folder / "config.json")
    metrics = read_metrics(folder)
    timing = read_metrics(folder, "timing.jsonl")
    parts = [offline_page.command(config.command())]
    if metrics and timing:
        summary = _summary(config, metrics, timing)
        parts.append(offline_page.table(["", ""], summary))
        pictures = run_plots.plot_run(folder, config.horizons.window)
        parts += [offline_page.picture(*item) for item in pictures.items()]
        parts += _evaluations(read_evaluations(folder))
        parts += _worst(read_groups(folder), config.horizons.window)
    else:
        parts.append(offline_page.paragraph("No outer step has been made yet."))
    fields = _fields(dataclasses.asdict(config))
    parts += [offline_page.heading("Config"), offline_page.table(["", ""], fields)]
    return offline_page.write(folder / "report.html", f"Run {folder.name}", parts)


def _summary(
    config: TrainConfig,
    metrics: Mapping[str, np.ndarray],
    timing: Mapping[str, np.ndarray],
) -> list[tuple[str, str]]:
    step, seconds = int(metrics["step"][-1]), timing["seconds"].sum()
    recent = metrics["loss"][-_RECENT:]
    inner_steps = timing["inner_steps_per_second"] @ timing["seconds"]
    return [
        ("outer steps", f"{step:,} of {config.outer_steps:,}"),
        ("outer loss, first", f"{_mean(metrics['loss'][:_RECENT]):.4f}"),
        ("outer loss, of late", f"{_mean(recent):.4f} (mean of {len(recent)} steps)"),
        ("updates skipped", f"{int(metrics['skipped'][-1])}"),
        ("estimates of groups lost", f"{int(metrics['lost_groups'].sum())}"),
        ("times theta was rolled back", f"{int(metrics['rollbacks'][-1])}"),
        ("time in outer steps", f"{seconds:,.0f} s"),
        ("inner steps", f"{inner_steps:,.0f}, {inner_steps / seconds:,.0f} a second"),
        ("waited for groups", f"{timing['waited'].sum():,.1f} s"),
        ("checkpoints that failed", f"{_failures(timing['failed_writes'])}"),
    ]


def _mean(values: Float[np.ndarray, "steps"]) -> float:
    """Over the steps that have a value: those in which not every group was lost."""
    known = values[np.isfinite(values)]
    return float(known.mean()) if len(known) else np.nan


def _evaluations(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How theta did on held-out tasks in the course of the run."""
    if not rows:
        return []
    chosen = best(rows)
    heads = ["outer steps", "score", "at the end of training"]
    texts = [
        [str(row["step"]), f"{row['score']:.4f}", f"{row['final']:.4f}"] for row in rows
    ]
    adam = [BASELINE, f"{rows[0]['adam_score']:.4f}", f"{rows[0]['adam_final']:.4f}"]
    marks = [*(row is chosen for row in rows), False]
    last = rows[-1]["tasks"]
    by_task = [
        [name, f"{chosen['tasks'][name]:.4f}", f"{last[name]:.4f}"]
        for name in sorted(last, key=lambda name: -last[name])
    ]
    return [
        offline_page.heading("Evaluations on held-out tasks"),
        offline_page.paragraph(
            f"Mean over {len(last)} tasks that are never trained on, their seeds, and "
            "training, of the normalised validation loss: 1 is the initial loss, 0 the "
            f"lowest of any run of {BASELINE}. Marked is the theta in the folder best."
        ),
        offline_page.table(heads, [*texts, adam], marks),
        offline_page.table(["task", "score, best", "score, last"], by_task),
    ]


def _failures(so_far: np.ndarray) -> int:
    """Over all processes that went on with the run, each of which counts from 0."""
    return int(np.maximum(np.diff(so_far, prepend=0), 0).sum())


def _worst(groups: Sequence[Mapping[str, Any]], window: int) -> list[str]:
    """The groups of highest loss, those first whose estimates were all lost."""
    order = sorted(groups, key=lambda g: -np.nan_to_num(g["loss"], nan=np.inf))
    rows = []
    for group in order[:_WORST]:
        names = list(dict.fromkeys(group["tasks"]))
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        windows = group["windows"]
        rows.append(
            [
                ", ".join(names[:4]) + more,
                f"{group['loss']:.4f}",
                str(group["lost"]),
                f"{group['born']} to {group['step']}",
                "of each lane" if windows is None else str(windows * window),
            ]
        )
    heads = ["tasks", "mean outer loss", "estimates lost", "outer steps", "horizon"]
    title = f"The worst of {len(groups)} groups"
    return [offline_page.heading(title), offline_page.table(heads, rows)]


def _fields(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """All fields of a config, those of configs within among them."""
    rows: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, dict):
            rows += _fields(value)
        else:
            rows.append((name, json.dumps(value)))
    return rows
