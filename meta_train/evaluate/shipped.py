"""Results that ship with the package, so that a new optimizer costs only its own runs.

    shipped/<suite>-<steps>x<seeds>.npz

holds what a comparison of all baselines found: their losses at their tuned points, how low
they ever came, and fingerprints of what the names stood for. Made by
`python -m benchmarks.evaluation_baselines`.
"""

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from meta_train.evaluate import fingerprints
from meta_train.evaluate.cache import FORMAT, Cache
from meta_train.evaluate.comparison import Comparison, Competitor, Entry, Results
from meta_train.evaluate.contenders import Contender
from meta_train.evaluate.metrics import FIGURES
from tasksets.task import SplitName

_SPLITS: tuple[SplitName, ...] = ("train", "outer_valid", "test")


def path(suite: str, num_steps: int, num_seeds: int) -> Path:
    """Where the results of a suite are, if they ship."""
    folder = Path(str(files("meta_train.evaluate") / "shipped"))
    return folder / f"{suite}-{num_steps}x{num_seeds}.npz"


def save(
    path: Path,
    comparison: Comparison,
    contenders: Sequence[Contender],
    protocol: dict[str, Any],
) -> None:
    """Write a comparison.

    Args:
      path: of the file.
      comparison: what was found.
      contenders: of which, in its order; all have a content.
      protocol: plain values that must be equal where it is loaded.
    """
    arrays: dict[str, Any] = {}
    prints = fingerprints.by_content(contenders)
    for i, (result, one) in enumerate(zip(comparison.results, contenders, strict=True)):
        arrays[f"fingerprint of {i}"] = _behaviour(one, prints)
        for split in _SPLITS:
            arrays[f"{i} lowest {split}"] = result.lowest[split].astype(np.float32)
        for figure in _distinct(result):
            losses = [result.losses[figure][split] for split in _SPLITS]
            arrays[f"{i} {figure}"] = np.stack(losses).astype(np.float32)
    tasks = [entry.task for entry in comparison.entries]
    for t, found in enumerate(fingerprints.of_tasks(tasks)):
        arrays[f"fingerprint of task {t}"] = found
    meta = {
        "format": FORMAT,
        "protocol": protocol,
        "tasks": [[entry.task.name, entry.num_steps] for entry in comparison.entries],
        "competitors": [vars(competitor) for competitor in comparison.competitors],
        "labels": [result.labels for result in comparison.results],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, meta=np.array(json.dumps(meta)), **arrays)


def load(
    path: Path,
    entries: Sequence[Entry],
    contenders: Sequence[Contender],
    protocol: dict[str, Any],
    cache: Cache = Cache(None),
) -> Comparison:
    """What `save` wrote, for the same tasks, of the contenders that do what they did.

    Args:
      path: of the file.
      entries: the tasks, some or all of those it was made of.
      contenders: whose results are wanted; others' are left out.
      protocol: as it was saved with.
      cache: where fingerprints of the tasks are kept.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is of other tasks, of another protocol, or of other data or code.
    """
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays["meta"]))
    if (meta["format"], meta["protocol"]) != (FORMAT, protocol):
        raise ValueError(f"{path} was made under another protocol: {meta['protocol']}")
    places = {tuple(task): place for place, task in enumerate(meta["tasks"])}
    mine = []
    task_prints = fingerprints.of_tasks([entry.task for entry in entries], cache)
    for entry, task_print in zip(entries, task_prints, strict=True):
        place = places.get((entry.task.name, entry.num_steps))
        if place is None:
            raise ValueError(f"{path} does not have {entry.task.name}")
        found = arrays[f"fingerprint of task {place}"]
        if not fingerprints.agree(found, task_print):
            raise ValueError(f"{path}: {entry.task.name} is of other data or code here")
        mine.append(place)
    now = {contender.content: contender for contender in contenders}
    prints = fingerprints.by_content(contenders)
    competitors, results = [], []
    for i, fields in enumerate(meta["competitors"]):
        one, was = now.get(fields["content"]), arrays[f"fingerprint of {i}"]
        if one is None or not fingerprints.agree(was, _behaviour(one, prints)):
            continue
        competitors.append(Competitor(**fields))
        results.append(_results(arrays, i, meta["labels"][i]).of_tasks(mine))
    return Comparison(tuple(entries), tuple(competitors), tuple(results))


def _behaviour(
    contender: Contender, prints: Mapping[str, Float[np.ndarray, "numbers"]]
) -> Float[np.ndarray, "points numbers"]:
    return np.stack([prints[point.content or ""] for point in contender.points])


def _distinct(result: Results) -> list[str]:
    """The figures for which points were chosen that no figure before had chosen."""
    found: list[str] = []
    for figure in FIGURES:
        if all(result.labels[figure] != result.labels[other] for other in found):
            found.append(figure)
    return found


def _results(
    arrays: dict[str, np.ndarray], i: int, labels: dict[str, list[str]]
) -> Results:
    named = {figure: tuple(names) for figure, names in labels.items()}
    losses = {}
    for figure in FIGURES:
        same = next(f for f in FIGURES if named[f] == named[figure])
        stacked = arrays[f"{i} {same}"]
        losses[figure] = dict(zip(_SPLITS, stacked, strict=True))
    lowest: dict[SplitName, np.ndarray] = {
        s: arrays[f"{i} lowest {s}"] for s in _SPLITS
    }
    return Results(losses, named, lowest)
