"""What theta is judged by while it trains: a few tasks that it is never trained on."""

import dataclasses

from meta_train.curriculum import TaskMix
from meta_train.evaluate import Entry, Settings


@dataclasses.dataclass(frozen=True)
class Proxy:
    """When theta is evaluated on held-out tasks, and on which; see `selection`."""

    proxy_every: int | None = None
    """Outer steps between evaluations on held-out tasks; None: there are none."""
    proxy_suites: tuple[str, ...] = ()
    """Suites whose test tasks those are; empty: those of the mix, by its weights."""
    proxy_tasks: int = 8
    proxy_horizon: int = 500
    """Training steps on each, a multiple of 25."""
    proxy_seeds: int = 2
    """Initialisations and batch orders of each task."""

    def __post_init__(self) -> None:
        for name in ("proxy_every", "proxy_tasks", "proxy_horizon", "proxy_seeds"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        if self.proxy_horizon % Settings().num_evals:
            raise ValueError(
                f"proxy_horizon={self.proxy_horizon} is not a multiple of the "
                f"{Settings().num_evals} measurements of a run."
            )

    def entries(self, mix: TaskMix) -> list[Entry]:
        """The tasks: the same ones for every run of a mix, whatever its seed.

        Raises:
          ValueError: there are too few held-out tasks.
          LookupError: an unknown suite, or data that are not on this machine.
        """
        plain = dataclasses.replace(mix, augmentation=0.0)
        if self.proxy_suites:  # of which neither shares nor options of the mix speak
            plain = dataclasses.replace(
                plain, suites=self.proxy_suites, weights=(), task_options=()
            )
        tasks = plain.sample(self.proxy_tasks, seed=0, split="test")
        return [Entry(task, self.proxy_horizon) for task in tasks]
