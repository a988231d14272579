"""A linear policy for Swimmer, learned online (Vicol, Metz & Sohl-Dickstein 2021).

    action = theta observation,    L_t = 1e-4 |action_t|^2 - velocity_t,

theta is 2 x 8 and starts at 0, episodes have 1000 steps of Swimmer-v5 (`swimmer`), and full
ES (Salimans et al. 2017, arXiv 1703.03864; Mania et al. 2018, arXiv 1803.07055) must see
a whole one for an update. Windows of 100 steps, 4 seconds, allow for ten in its place.
Settings of arXiv 2112.13835, control experiment: ten antithetic pairs, sigma 0.3, for
truncated ES 0.1; SGD. There the gradient is divided by the standard deviation of the
rewards, here learning rates are tuned. Full ES is run with a single pair too, which makes
its updates as dear as those of the others (as in Li et al. 2023, arXiv 2304.12180).

Steps of the environment are counted over all particles. Each estimator has the learning
rate of the same grid at which the return, the median over seeds, is highest on average over
the run. Criteria, for the median over seeds, a return of 250 being the target (the best
linear policies get about 360): PES and NRES meet it in fewer steps than full ES with as
many pairs; NRES does in fewer than full ES with a single pair; truncated ES, which is blind
to what a policy does later, never does.
"""

import dataclasses
import functools
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from meta_train.devices import compiler_options
from meta_train.estimators import NRES, PES, Estimator, FullES, TruncatedES
from meta_train.experiments.contest import inner_steps
from meta_train.experiments.descent import concurrently, descend
from meta_train.experiments.experiment import Claim, Experiment, Report, spread
from meta_train.experiments.swimmer import NUM_ACTIONS, NUM_OBSERVATIONS, Swimmer
from meta_train.plots import pyplot, save
from meta_train.system import episode
from meta_train.truncation import Truncation

_HORIZON, _TARGET = 1000, 250.0
_COLORS = {
    "PES": "#c2410c",
    "NRES": "#1d4ed8",
    "full ES": "#777777",
    "full ES, 1 pair": "#111111",
    "truncated ES": "#bbbbbb",
}

Returns = Float[np.ndarray, "rates seeds records"]


class Finding(NamedTuple):
    """How an estimator did.

    Attributes:
      best: the learning rate with the highest return on average over the run.
      returns: at every rate.
      clock: steps of the environment at each record.
      until: those until the target at the best rate, infinite where it was not met.
    """

    best: int
    returns: Returns
    clock: Float[np.ndarray, "records"]
    until: Float[np.ndarray, "seeds"]


@dataclasses.dataclass(frozen=True)
class LinearSwimmer(Experiment):
    """The settings.

    Attributes:
      budget: steps of the environment that an estimator may take.
      every: steps of the environment between records.
      window: steps in a window.
      num_pairs: antithetic pairs.
      sigma: of the perturbations; of truncated ES a third of it.
      rates: learning rates of SGD.
      episodes: over which the return of a policy is averaged.
      resumable: keep what is done in the folder, to go on from when stopped.
    """

    name: ClassVar[str] = "control"
    title: ClassVar[str] = "Online evolution strategies learn to swim in fewer steps"
    paper: ClassVar[str] = "arXiv 2112.13835, control experiment; arXiv 2304.12180"

    seeds: tuple[int, ...] = (3, 5, 7, 11, 13, 23)
    budget: int = 200_000
    every: int = 10_000
    window: int = 100
    num_pairs: int = 10
    sigma: float = 0.3
    rates: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    episodes: int = 4
    resumable: bool = False

    @classmethod
    def full(cls) -> Self:
        """The steps and the evaluation of the paper, and a wider grid."""
        rates = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
        return cls(budget=500_000, rates=rates, episodes=50, resumable=True)

    def run(self, folder: Path) -> Report:
        """Learn with every estimator."""
        estimators = self.estimators()

        def run(name: str) -> Finding:
            estimator, cost = estimators[name], inner_steps(estimators[name])
            updates = max(1, round(self.every / cost))  # between records
            records = self.budget // max(self.every, cost)
            trace = descend(
                estimator,
                lambda key: jnp.zeros((NUM_ACTIONS, NUM_OBSERVATIONS)),
                optimizer=optax.sgd,
                rates=self.rates,
                seeds=self.seeds,
                num_steps=updates * records,
                records=records,
                folder=folder / "runs" / name if self.resumable else None,
            )
            returns = self.returns(trace.theta)
            clock = cost * trace.step
            best = int(np.argmax(np.median(returns, axis=1).mean(axis=1)))
            until = np.where(returns[best] >= _TARGET, clock, np.inf).min(axis=1)
            return Finding(best, returns, clock, until)

        jobs = {name: functools.partial(run, name) for name in estimators}
        findings = concurrently(jobs)
        rows = [
            {
                "estimator": name,
                "best rate": f"{self.rates[found.best]:g}",
                "return at the end": spread(found.returns[found.best, :, -1]),
                f"steps until {_TARGET:g}": spread(found.until),
            }
            for name, found in findings.items()
        ]
        highest = max(float(found.returns.max()) for found in findings.values())
        note = f"The highest return of any policy met on the way is {highest:.0f}."
        figure = self._plot(findings, highest, folder / "control.png")
        return Report(self._claims(findings), rows, [figure], [note])

    def estimators(self) -> dict[str, Estimator]:
        """By name."""
        system, pairs, sigma = Swimmer(), self.num_pairs, self.sigma
        windows = Truncation.constant(_HORIZON, self.window)
        return {
            "full ES, 1 pair": FullES(system, windows, 1, sigma),
            "PES": PES(system, windows, pairs, sigma),
            "NRES": NRES(system, windows, pairs, sigma),
            "full ES": FullES(system, windows, pairs, sigma),
            "truncated ES": TruncatedES(system, windows, pairs, sigma / 3),
        }

    def returns(self, thetas: Float[np.ndarray, "*batch 2 8"]) -> Returns:
        """Mean return of whole episodes of each policy, -inf where it is no number."""

        @jax.jit(compiler_options=compiler_options())
        @jax.vmap
        def mean_return(theta: Float[Array, "2 8"]) -> Float[Array, ""]:
            keys = jax.random.split(jax.random.key(0), self.episodes)
            losses = jax.vmap(lambda key: episode(Swimmer(), theta, key, _HORIZON)[1])
            return -_HORIZON * jnp.mean(losses(keys))

        *batch, actions, seen = thetas.shape
        found = np.asarray(mean_return(thetas.reshape(-1, actions, seen)))
        return np.where(np.isfinite(found), found, -np.inf).reshape(batch)

    def _claims(self, findings: dict[str, Finding]) -> list[Claim]:
        def faster(ours: str, theirs: str) -> Claim:
            steps, others = findings[ours].until, findings[theirs].until
            return Claim(
                f"{ours} meets the target in fewer steps than {theirs}",
                f"{spread(steps)} against {spread(others)}",
                bool(np.median(steps) < np.median(others)),
            )

        truncated = findings["truncated ES"]
        highest = np.median(truncated.returns, axis=1).max()
        return [
            faster("PES", "full ES"),
            faster("NRES", "full ES"),
            faster("NRES", "full ES, 1 pair"),
            Claim(
                "truncated ES never meets it, at any learning rate",
                f"highest median return {highest:.0f}",
                bool(highest < _TARGET),
            ),
        ]

    def _plot(
        self,
        findings: dict[str, Finding],
        highest: float,
        path: Path,
    ) -> Path:
        fig, (left, right) = pyplot().subplots(
            1, 2, figsize=(12, 4.5), width_ratios=(3, 2)
        )
        for name, found in findings.items():
            color = _COLORS[name]
            curve = np.maximum(found.returns, -1e3)
            for ax, x, values in (
                (left, found.clock, curve[found.best]),
                (right, self.rates, curve[:, :, -1].T),
            ):
                ax.plot(x, np.median(values, axis=0), color=color, label=name)
                low, high = values.min(axis=0), values.max(axis=0)
                ax.fill_between(x, low, high, color=color, alpha=0.12)
        left.axhline(highest, color="k", ls=":", lw=1, label="highest met")
        left.axhline(_TARGET, color="#999999", ls="--", lw=1, label="target")
        left.set(
            xlabel="steps of the environment, all particles",
            ylabel="return",
            ylim=(-50, 400),
            title="Each at its best learning rate, range over seeds",
        )
        right.set(
            xlabel="learning rate",
            xscale="log",
            ylim=(-50, 400),
            title=f"After {self.budget:,} steps",
        )
        left.legend(fontsize=7)
        for ax in (left, right):
            ax.grid(alpha=0.25)
        return save(fig, path)
