"""A problem around another, which does everything that is left alone."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from tasksets.task import Batch, Drawn, Params, Problem, SplitName


@dataclass(frozen=True)
class Around(Problem):
    """Everything as `inner` does it, with `numbers.inner`."""

    inner: Problem

    def init(self, numbers: Any, key: PRNGKeyArray) -> Params:
        return self.inner.init(numbers.inner, key)

    def draw(
        self, numbers: Any, data: PyTree, split: SplitName, key: PRNGKeyArray
    ) -> Drawn:
        return self.inner.draw(numbers.inner, data, split, key)

    def take(self, numbers: Any, data: PyTree, split: SplitName, drawn: Drawn) -> Batch:
        return self.inner.take(numbers.inner, data, split, drawn)

    def loss(
        self, numbers: Any, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        return self.inner.loss(numbers.inner, params, batch, key)

    def metrics(
        self, numbers: Any, params: Params, batch: Batch, key: PRNGKeyArray
    ) -> dict[str, Float[Array, ""]]:
        return self.inner.metrics(numbers.inner, params, batch, key)

    def one_split(self, data: PyTree) -> bool:
        return self.inner.one_split(data)

    def progress(self, numbers: Any, loss: Float[Array, "..."]) -> Float[Array, "..."]:
        return self.inner.progress(numbers.inner, loss)
