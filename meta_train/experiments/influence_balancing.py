"""Influence balancing: a gradient whose sign truncation gets wrong (Tallec & Ollivier 2017).

    s_t = A s_{t-1} + theta v,    L_t = (s_t[0] - 1)^2 / 2,

with one half on the diagonal and the first superdiagonal of the 23 x 23 matrix A, and +1
for ten and -1 for thirteen entries of v. One step ahead theta raises s[0]; in the long run
it lowers it six times as much, so that the loss becomes (6 theta + 1)^2 / 2 with its
minimum at theta = -1/6, while whoever looks a few steps ahead walks the other way from
theta = 1/2. Settings of Vicol, Metz & Sohl-Dickstein 2021 (arXiv 2112.13835, figure 2):
theta moves by SGD after every step, episodes never end.

Every estimator gets its best learning rate out of the same grid. Criteria, for every seed:
truncated ES and TBPTT with windows of 1 and 10 end above the initial loss of 8 at every
learning rate that moves theta at all; PES and NRES with 1000 particles and RTRL end below
1e-8. And over the seeds: the median of PES with 10 ends a thousand times above that with
1000.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from meta_train.estimators import (
    NRES,
    PES,
    RTRL,
    TBPTT,
    UORO,
    Estimator,
    PESAnalytic,
    TruncatedES,
)
from meta_train.experiments.descent import Trace, concurrently, descend
from meta_train.experiments.experiment import Claim, Experiment, Report, spread
from meta_train.plots import pyplot, save
from meta_train.system import episode
from meta_train.truncation import Truncation

_SIZE, _POSITIVE = 23, 10
_START = 0.5


class Influence:
    """The system; theta is a number."""

    def init(self, key: PRNGKeyArray) -> Float[Array, "23"]:
        """All ones."""
        del key
        return jnp.ones(_SIZE)

    def step(
        self, theta: Array, state: Float[Array, "23"], key: PRNGKeyArray
    ) -> tuple[Float[Array, "23"], Float[Array, ""]]:
        """One step, without randomness."""
        del key
        neighbour = jnp.append(state[1:], 0.0)
        sign = jnp.where(jnp.arange(_SIZE) < _POSITIVE, 1.0, -1.0)
        state = 0.5 * state + 0.5 * neighbour + theta * sign
        return state, 0.5 * (state[0] - 1) ** 2


@dataclasses.dataclass(frozen=True)
class InfluenceBalancing(Experiment):
    """The settings.

    Attributes:
      num_steps: outer steps, one inner step each where the window is 1.
      sigma: of the evolution strategies.
      rates: learning rates of SGD.
    """

    name: ClassVar[str] = "influence-balancing"
    title: ClassVar[str] = "Truncation walks the wrong way, PES and RTRL the right one"
    paper: ClassVar[str] = "arXiv 2112.13835, figure 2; arXiv 1702.05043"

    num_steps: int = 3000
    sigma: float = 0.1
    rates: tuple[float, ...] = (1e-6, 1e-5, 1e-4, 1e-3)

    def run(self, folder: Path) -> Report:
        """Descend with every estimator."""
        traces = concurrently(
            {
                name: lambda estimator=estimator: descend(
                    estimator,
                    lambda key: jnp.float32(_START),
                    optimizer=optax.sgd,
                    rates=self.rates,
                    seeds=self.seeds,
                    num_steps=self.num_steps,
                )
                for name, estimator in self.estimators().items()
            }
        )
        losses = {name: _losses(trace) for name, trace in traces.items()}
        rows = [self._row(name, losses[name]) for name in traces]
        figure = self._plot(traces, losses, folder / "influence-balancing.png")
        return Report(self._claims(losses), rows, [figure])

    def estimators(self) -> dict[str, Estimator]:
        """By name; particles count both members of a pair."""
        system = Influence()

        def window(steps: int) -> Truncation:
            never = self.num_steps * steps
            return Truncation.constant(never, steps, stagger=False)

        def evolve(kind: Any, particles: int) -> Estimator:
            return kind(system, window(1), particles // 2, self.sigma)

        return {
            "PES, 1000 particles": evolve(PES, 1000),
            "PES, 100": evolve(PES, 100),
            "PES, 10": evolve(PES, 10),
            "PES with analytic gradients, 1000": evolve(PESAnalytic, 1000),
            "NRES, 1000": evolve(NRES, 1000),
            "NRES, 4": evolve(NRES, 4),
            "RTRL": RTRL(system, window(1), num_lanes=1),
            "UORO": UORO(system, window(1), num_lanes=1),
            "truncated ES, 1000": evolve(TruncatedES, 1000),
            "TBPTT, window 1": TBPTT(system, window(1), num_lanes=1),
            "TBPTT, window 10": TBPTT(system, window(10), num_lanes=1),
            "TBPTT, window 100": TBPTT(system, window(100), num_lanes=1),
        }

    def _row(self, name: str, losses: Float[np.ndarray, "rates seeds records"]):
        best = _best(losses)
        return {
            "estimator": name,
            "best rate": f"{self.rates[best]:g}",
            "final loss": spread(losses[best, :, -1]),
        }

    def _claims(self, losses: dict[str, np.ndarray]) -> list[Claim]:
        def final(name: str) -> np.ndarray:
            return losses[name][_best(losses[name]), :, -1]

        def wrong(name: str) -> Claim:
            # Whatever the rate: the initial loss is 8.
            ends = losses[name][..., -1]
            text = f"{name}: theta goes the wrong way at every learning rate"
            measured = f"lowest loss {np.min(ends):.3g}, the start has 8"
            return Claim(text, measured, bool(np.all(ends > 8)))

        def right(name: str) -> Claim:
            text = f"{name}: converges to the optimum"
            ends = final(name)
            return Claim(text, f"loss {spread(ends)}", bool(np.all(ends < 1e-8)))

        few = final("PES, 10")
        return [
            *map(wrong, ("truncated ES, 1000", "TBPTT, window 1", "TBPTT, window 10")),
            *map(right, ("PES, 1000 particles", "RTRL", "NRES, 1000")),
            Claim(
                "PES needs many particles where episodes never end",
                f"10 particles: loss {spread(few)}",
                bool(np.median(few) > 1e3 * np.median(final("PES, 1000 particles"))),
            ),
        ]

    def _plot(
        self, traces: dict[str, Trace], losses: dict[str, np.ndarray], path: Path
    ) -> Path:
        plt = pyplot()
        fig, ax = plt.subplots(figsize=(9, 4.5))
        for i, (name, trace) in enumerate(traces.items()):
            color = plt.get_cmap("tab20")(i)
            curve = losses[name][_best(losses[name])]
            ax.plot(trace.step, np.median(curve, axis=0), color=color, label=name)
            low, high = curve.min(axis=0), curve.max(axis=0)
            ax.fill_between(trace.step, low, high, color=color, alpha=0.12, lw=0)
        ax.axhline(8, color="#999999", ls=":", label="loss at the start")
        ax.set(
            xlabel="outer steps",
            ylabel="loss in the long run",
            yscale="log",
            ylim=(1e-16, 1e6),
            title="Influence balancing, best learning rates",
        )
        ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        return save(fig, path)


def _losses(trace: Trace) -> Float[np.ndarray, "rates seeds records"]:
    """The loss that each recorded theta has after 500 steps, infinite if diverged."""

    @jax.jit
    @jnp.vectorize
    def long_run(theta: Array) -> Array:
        _, losses = episode(Influence(), theta, jax.random.key(0), 500)
        return losses[-1]

    losses = np.asarray(long_run(jnp.asarray(trace.theta)))
    return np.where(np.isfinite(losses), losses, np.inf)


def _best(losses: Float[np.ndarray, "rates seeds records"]) -> int:
    """The learning rate with the lowest median final loss."""
    return int(np.argmin(np.median(losses[..., -1], axis=1)))
