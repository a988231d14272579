"""reduced_batch: a fraction of every batch.

    batch' = the first max(1, floor(fraction * batch size)) examples of the batch

For any task whose batch is a pytree of arrays with one leading axis, the examples, that
are drawn independently.
"""

from dataclasses import dataclass
from typing import ClassVar

import jax
from jaxtyping import PyTree

from tasksets.task import SPLITS, Batch, Drawn, SplitName, Task
from tasksets.wrappers.wrapper import WrappedNumbers, WrappedProblem, Wrapper, require


@dataclass(frozen=True)
class ReducedBatchProblem(WrappedProblem):
    """A problem with smaller batches."""

    batch_size: int

    def take(
        self, numbers: WrappedNumbers, data: PyTree, split: SplitName, drawn: Drawn
    ) -> Batch:
        batch = self.inner.take(numbers.inner, data, split, drawn)
        return jax.tree.map(lambda leaf: leaf[: self.batch_size], batch)


@dataclass(frozen=True)
class ReducedBatch(Wrapper):
    """Keeps a fraction of every batch."""

    keyword: ClassVar[str] = "reduced_batch"
    fraction: float  # of the examples of a batch; U(.01, 1) in VeLO

    def __post_init__(self) -> None:
        require(0 < self.fraction <= 1, self, "fraction is in (0, 1]")

    def wrap(self, task: Task) -> tuple[ReducedBatchProblem, tuple[()]]:
        batch_size = max(1, int(self.fraction * whole_batch_size(task)))
        return ReducedBatchProblem(task.problem, batch_size), ()


def whole_batch_size(task: Task) -> int:
    """Examples in a batch of `task`; raises where its batches are not of examples."""
    sizes = set()
    for split in SPLITS:
        batch = jax.eval_shape(
            lambda task, key, split=split: task.batch(split, key),
            task,
            jax.random.key(0),
        )
        shapes = [leaf.shape for leaf in jax.tree.leaves(batch)]
        if not shapes:
            raise ValueError(f"{task!r} has no batch to reduce: its loss uses no data")
        if not all(shapes) or len({shape[0] for shape in shapes}) > 1:
            raise ValueError(
                f"cannot reduce the batch of {task!r}: every array of a batch needs the "
                f"examples as its first axis, and those of {split!r} have the shapes "
                f"{', '.join(map(str, shapes))}"
            )
        sizes.add(shapes[0][0])
    if len(sizes) > 1:
        raise ValueError(
            f"cannot reduce the batch of {task!r}: its splits serve batches of "
            f"different sizes, {sorted(sizes)}"
        )
    return sizes.pop()
