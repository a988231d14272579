"""Draws the tasks of the suites eval-100 and eval-small.

    python -m benchmarks.evaluation_suites

Goes through the test tasks of TaskSet's families in a random order (seed `_SEED`), and
takes those that cost at most `_MOST_FLOPS` in matrix products and `_MOST_ENTRIES` in other
numbers computed per training step, and have at most `_MOST_PARAMETERS` parameters, until
each family has its number. Data are mnist, fashion_mnist, or none; language models of
characters read tiny_shakespeare, all of which are complete and free to download anywhere.
The fixed tasks are all that qualify.
Nothing else decides, least of all how any optimizer does on a task; a task only has to
build and have a finite loss and gradient at the start.

eval-small are those of least cost in each family, about a fifth of them.
"""

from collections import defaultdict
from pathlib import Path

import jax
import numpy as np
from rich.progress import track

import tasksets
from meta_train import evaluate
from meta_train.devices import compiler_options

_SEED = 0
_MOST_FLOPS = 40e6
_MOST_ENTRIES = 13e6
_MOST_PARAMETERS = 200_000
_DATA = (None, "mnist", "fashion_mnist")
_TEXT = "tiny_shakespeare"

# Tasks of each family in eval-100, in eval-small. No more convolutions and VAEs qualify.
_NUMBERS = {
    "mlp_family": (19, 4),
    "losg_tasks_family": (16, 3),
    "mlp_ae_family": (14, 3),
    "quadratic_family": (13, 2),
    "nvp_family": (11, 2),
    "conv_pooling_family": (4, 2),
    "mlp_vae_family": (8, 1),
    "conv_fc_family": (3, 1),
    "maf_family": (6, 1),
    "char_rnn_language_model_family": (4, 1),
}
_FIXED = 2
_FOLDER = Path(evaluate.__file__).with_name("suites")


def main() -> None:
    """Writes both lists, and prints what each task costs."""
    rng = np.random.RandomState(_SEED)
    candidates: dict[str, list[str]] = defaultdict(list)
    for name in tasksets.names("taskset", "test"):
        candidates[name.partition("/")[0] if "/" in name else ""].append(name)
    chosen: dict[str, float] = {}
    small: list[str] = []
    for family, (count, few) in track(_NUMBERS.items(), "drawing"):
        order = rng.permutation(len(candidates[family]))
        mine = _first(count, [candidates[family][i] for i in order])
        if len(mine) < count:
            raise SystemExit(f"only {len(mine)} tasks of {family} qualify")
        chosen |= mine
        small += sorted(mine, key=lambda name: mine[name])[:few]
    fixed = _first(_FIXED + 1, candidates[""])
    if len(fixed) != _FIXED:
        raise SystemExit(f"{len(fixed)} fixed tasks qualify: {', '.join(fixed)}")
    chosen |= fixed
    # In a random order, any part of the list is a fair part.
    names = [list(chosen)[i] for i in rng.permutation(len(chosen))]
    _write("eval-100", names)
    _write("eval-small", [name for name in names if name in small])
    for name in names:
        print(f"{name:60} {chosen[name]:8.2f} ms")


def _first(count: int, names: list[str]) -> dict[str, float]:
    """The first names that qualify, with their cost."""
    found: dict[str, float] = {}
    for name in names:
        if name.startswith("char_rnn"):
            name = f"{name}@{_TEXT}"
        elif tasksets.dataset_of(name) not in _DATA:
            continue
        cost = _cost(tasksets.get(name))
        if cost is None:
            continue
        status = tasksets.check(name, 1, compiler_options()).status
        if status == "ok":
            found[name] = cost
        if len(found) == count:
            break
    return found


def _cost(task: tasksets.Task) -> float | None:
    """Milliseconds per training step, about; None: too many, or too many parameters."""
    params = jax.eval_shape(task.init, jax.random.key(0))
    if sum(leaf.size for leaf in jax.tree.leaves(params)) > _MOST_PARAMETERS:
        return None
    products, entries = tasksets.gradient_operations(task)
    if products > _MOST_FLOPS or entries > _MOST_ENTRIES:
        return None
    # A rough guess, whose only use is to rank them.
    return products / 80e6 + entries / 10e6


def _write(suite: str, names: list[str]) -> None:
    (_FOLDER / f"{suite}.txt").write_text("\n".join(names) + "\n")


if __name__ == "__main__":
    main()
