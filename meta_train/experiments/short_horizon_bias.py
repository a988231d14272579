"""Short-horizon bias: who looks a few steps ahead lowers the learning rate too early.

    L(x) = sum_i h_i x_i^2 / 2,    x_t = x_{t-1} - lr_t h (x_{t-1} - c_t),
    c_ti ~ N(0, .01 / h_i),        lr_t = e^{theta_0} (1 + 10 t/T)^(-e^{theta_1})

The noisy quadratic of Wu et al. 2018 (arXiv 1803.02021): 50 curvatures from 1 to 1e-3,
samples whose minimum c_t is off by noise. A high rate is what flat directions need in the
long run; a low one is what takes the noise out of steep directions at once. The second
moments of x have a closed form, so that the meta-loss (the sum of L over T = 1000 steps,
in expectation) is exact here, as are its optimum over a grid of theta and the schedule
that is best one step ahead, ``lr_t = sum_i h_i^2 m_i / sum_i h_i^3 (m_i + .01 / h_i)``
with ``m_i = E x_i^2``. Estimators see samples only.

Criteria, for every seed, each estimator at its best learning rate out of the same grid: PES
and NRES with windows of 10, full ES and BPTT end within 5 % of the optimum; truncated ES
and TBPTT with windows of 10 end more than 25 % above it, and at a last rate less than half
the optimum's; and the median loss of both falls with every tenfold longer window.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from meta_train.estimators import NRES, PES, TBPTT, Estimator, FullES, TruncatedES
from meta_train.experiments.descent import concurrently, descend
from meta_train.experiments.experiment import Claim, Experiment, Report, spread
from meta_train.plots import pyplot, save
from meta_train.truncation import Truncation

_START = (float(np.log(0.1)), 0.0)
_SHORT = (1, 10, 100)
_BY_WINDOW = {
    kind: (*(f"{kind}, window {k}" for k in _SHORT), whole)
    for kind, whole in (("truncated ES", "full ES"), ("TBPTT", "BPTT"))
}
_COLORS = {
    "PES, window 10": "#c2410c",
    "NRES, window 10": "#1d4ed8",
    "full ES": "#15803d",
    "BPTT": "#7e22ce",
    "truncated ES, window 10": "#aaaaaa",
    "TBPTT, window 10": "#555555",
}
_NOISE = 0.01  # variance of c, times the curvature


class Iterate(NamedTuple):
    """Where stochastic gradient descent is, and after how many steps."""

    x: Float[Array, "dimensions"]
    step: Float[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NoisyQuadratic:
    """The system; theta is ``[2]``.

    Attributes:
      curvature: h.
      horizon: T, steps of an episode.
    """

    curvature: Float[Array, "dimensions"]
    horizon: int = dataclasses.field(metadata={"static": True})

    def init(self, key: PRNGKeyArray) -> Iterate:
        """Standard normal."""
        return Iterate(jax.random.normal(key, self.curvature.shape), jnp.zeros(()))

    def step(
        self, theta: Float[Array, "2"], state: Iterate, key: PRNGKeyArray
    ) -> tuple[Iterate, Float[Array, ""]]:
        """One step on a fresh sample, and the loss without noise after it."""
        h = self.curvature
        c = jax.random.normal(key, h.shape) * jnp.sqrt(_NOISE / h)
        x = state.x - schedule(theta, state.step / self.horizon) * h * (state.x - c)
        return Iterate(x, state.step + 1), 0.5 * jnp.sum(h * x**2)


def schedule(theta: Float[Any, "*b 2"], progress: Any) -> Float[Any, "*b"]:
    """The learning rate after a share ``progress`` of the steps."""
    return jnp.exp(theta[..., 0] - jnp.exp(theta[..., 1]) * jnp.log1p(10 * progress))


def meta_losses(
    system: NoisyQuadratic, theta: Float[Any, "*b 2"]
) -> Float[np.ndarray, "*b"]:
    """The exact meta-loss of each theta, infinite where it diverges."""

    @jax.jit
    @functools.partial(jnp.vectorize, signature="(2)->()")
    def total(theta: Float[Array, "2"]) -> Float[Array, ""]:
        rates = schedule(theta, jnp.arange(system.horizon) / system.horizon)
        after = functools.partial(_moments, system)
        return jnp.sum(jax.lax.scan(after, jnp.ones_like(system.curvature), rates)[1])

    return np.nan_to_num(total(theta), nan=np.inf, posinf=np.inf)


def greedy(
    system: NoisyQuadratic,
) -> tuple[Float[Array, "steps"], Float[Array, "steps"]]:
    """The rates that are best one step ahead, and the expected losses they get."""
    h = system.curvature

    def step(m: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        rate = jnp.sum(h**2 * m) / jnp.sum(h**3 * (m + _NOISE / h))
        m, loss = _moments(system, m, rate)
        return m, (rate, loss)

    return jax.lax.scan(step, jnp.ones_like(h), length=system.horizon)[1]


def _moments(system: NoisyQuadratic, m: Array, rate: Array) -> tuple[Array, Array]:
    """``E x^2``, ``[dimensions]``, and ``E L`` after a step from what they were."""
    h = system.curvature
    m = (1 - rate * h) ** 2 * m + (rate * h) ** 2 * _NOISE / h
    return m, 0.5 * jnp.sum(h * m)


class Run(NamedTuple):
    """What an estimator did at its best learning rate, and the inner steps of an update."""

    rate: float
    step: Float[np.ndarray, "records"]
    theta: Float[np.ndarray, "seeds records 2"]
    losses: Float[np.ndarray, "seeds records"]
    cost: int


@dataclasses.dataclass(frozen=True)
class ShortHorizonBias(Experiment):
    """The settings.

    Attributes:
      num_steps: outer steps, a multiple of 100.
      horizon: T, inner steps of an episode, a multiple of 100.
      budget: an estimator has this over its window many pairs or lanes, and at least
        one: 50 pairs with windows of 10.
      sigma: of the evolution strategies.
      loss_cap: losses above count as this much, for every estimator; the loss is 3.6 at
        the start, and soon infinite where the rate exceeds 2.
      rates: learning rates of Adam.
      grid: points along each side of the grid of theta.
      resumable: keep what is done in the folder, to go on from when stopped.
    """

    name: ClassVar[str] = "short-horizon-bias"
    title: ClassVar[str] = "Short windows lower the learning rate too early"
    paper: ClassVar[str] = "arXiv 1803.02021; arXiv 2112.13835"

    num_steps: int = 3000
    horizon: int = 1000
    budget: int = 500
    sigma: float = 0.1
    loss_cap: float = 10.0
    rates: tuple[float, ...] = (1e-2, 3e-2, 1e-1)
    grid: int = 60
    resumable: bool = False

    @classmethod
    def full(cls) -> "ShortHorizonBias":
        """More outer steps, particles and seeds, on a finer grid."""
        seeds = (0, 1, 2, 3, 4)
        return cls(seeds, num_steps=10_000, budget=1000, grid=300, resumable=True)

    def run(self, folder: Path) -> Report:
        """Descend with every estimator, and look up the exact meta-losses."""
        system = NoisyQuadratic(jnp.logspace(0, -3, 50), self.horizon)
        contenders = self.contenders(system)
        traces = concurrently(
            {
                name: lambda name=name, estimator=estimator: descend(
                    estimator,
                    lambda key: jnp.array(_START),
                    rates=self.rates,
                    seeds=self.seeds,
                    num_steps=self.num_steps,
                    folder=folder / "runs" / name if self.resumable else None,
                )
                for name, (estimator, _) in contenders.items()
            }
        )
        runs = {}
        for name, (step, theta, _) in traces.items():
            losses = meta_losses(system, theta)
            best = int(np.argmin(np.median(losses[..., -1], axis=1)))
            cost = contenders[name][1]
            runs[name] = Run(self.rates[best], step, theta[best], losses[best], cost)
        sides = np.linspace(-2, 1, self.grid), np.linspace(-2, 2, self.grid)
        thetas = np.stack(np.meshgrid(*sides), axis=-1).reshape(-1, 2)
        losses = meta_losses(system, thetas)
        optimum, lowest = thetas[np.argmin(losses)], float(np.min(losses))
        rates, greedy_losses = map(np.asarray, greedy(system))
        rows = [
            {
                "estimator": name,
                "best rate": f"{run.rate:g}",
                "meta-loss": spread(run.losses[:, -1]),
                "last learning rate": spread(schedule(run.theta[:, -1], 1.0)),
                "inner steps per update": run.cost,
            }
            for name, run in runs.items()
        ]
        note = (
            f"The optimum over the grid has a meta-loss of {lowest:.4g} and ends at a rate "
            f"of {schedule(optimum, 1.0):.3g}; the schedule that is best one step ahead, in "
            f"closed form, has {greedy_losses.sum():.4g} and ends at {rates[-1]:.3g}."
        )
        figure = self._plot(runs, optimum, lowest, rates, folder)
        return Report(_claims(runs, optimum, lowest), rows, [figure], [note])

    def contenders(self, system: NoisyQuadratic) -> dict[str, tuple[Estimator, int]]:
        """By name, each with the inner steps of an update."""

        def build(kind: Any, k: int, particles: int, **options: float) -> Any:
            number, windows = (
                max(1, self.budget // k),
                Truncation.constant(self.horizon, k),
            )
            estimator = kind(system, windows, number, loss_cap=self.loss_cap, **options)
            return estimator, number * particles * k

        def evolve(kind: type, k: int, particles: int = 2) -> Any:
            return build(kind, k, particles, sigma=self.sigma)

        return {
            "PES, window 10": evolve(PES, 10),
            "NRES, window 10": evolve(NRES, 10),
            "full ES": evolve(FullES, self.horizon),
            "BPTT": build(TBPTT, self.horizon, 1),
            # Its third particle runs at theta itself, to carry on from.
            **{f"truncated ES, window {k}": evolve(TruncatedES, k, 3) for k in _SHORT},
            **{f"TBPTT, window {k}": build(TBPTT, k, 1) for k in _SHORT},
        }

    def _plot(
        self,
        runs: dict[str, Run],
        optimum: Float[np.ndarray, "2"],
        lowest: float,
        one_step: Float[np.ndarray, "steps"],
        folder: Path,
    ) -> Path:
        fig, (left, middle, right) = pyplot().subplots(1, 3, figsize=(15, 4.5))
        steps = np.arange(self.horizon)
        for name, color in _COLORS.items():
            run = runs[name]
            cost, ends = run.step * run.cost, (run.losses.min(0), run.losses.max(0))
            left.plot(cost, np.median(run.losses, 0), color=color, label=name)
            left.fill_between(cost, *ends, color=color, alpha=0.15)
            for theta in run.theta[:, -1]:
                middle.plot(steps, schedule(theta, steps / self.horizon), color=color)
        rates = schedule(optimum, steps / self.horizon)
        middle.plot(steps, rates, "k:", label="optimum")
        middle.plot(steps, one_step, ":", color="#aaaaaa", label="best one step ahead")
        left.axhline(lowest, color="k", ls=":", label="optimum")
        right.axhline(lowest, color="k", ls=":", label="optimum")
        for label, names in _BY_WINDOW.items():
            ends = np.stack([runs[name].losses[:, -1] for name in names])
            right.plot((*_SHORT, self.horizon), np.median(ends, 1), "o-", label=label)
        for name in ("PES, window 10", "NRES, window 10"):
            ends = runs[name].losses[:, -1]
            right.plot([10] * len(ends), ends, "D", color=_COLORS[name], label=name)
        labels = "inner steps of all particles", "inner step", "window"
        for ax, label in zip((left, middle, right), labels, strict=True):
            ax.set(xlabel=label, ylabel="meta-loss", xscale="log", yscale="log")
            ax.legend(fontsize=7)
        left.set_title("Each estimator at its best learning rate")
        middle.set(title="Schedules found", ylabel="learning rate", xscale="linear")
        right.set_title("Meta-loss reached against the window")
        return save(fig, folder / f"{self.name}.png")


def _claims(
    runs: dict[str, Run], optimum: Float[np.ndarray, "2"], lowest: float
) -> list[Claim]:
    above = {name: 100 * (run.losses[:, -1] / lowest - 1) for name, run in runs.items()}
    claims = []
    for name in ("PES, window 10", "NRES, window 10", "full ES", "BPTT"):
        near = bool(np.all(above[name] < 5))
        measured = f"{spread(above[name])} % above it"
        claims.append(Claim(f"{name}: reaches the optimum", measured, near))
    for name in ("truncated ES, window 10", "TBPTT, window 10"):
        last = schedule(runs[name].theta[:, -1], 1.0) / schedule(optimum, 1.0)
        far, low = np.all(above[name] > 25), np.all(last < 0.5)
        measured = f"{spread(above[name])} % above it"
        claims.append(Claim(f"{name}: misses the optimum", measured, bool(far)))
        measured = f"{spread(last)} of the optimum's"
        claims.append(Claim(f"{name}: ends at too low a rate", measured, bool(low)))
    for kind, names in _BY_WINDOW.items():
        medians = [float(np.median(above[name])) for name in names]
        measured = ", ".join(f"{x:.3g} %" for x in medians) + " above the optimum"
        text = f"{kind}: bias shrinks with windows of 1, 10, 100, 1000"
        claims.append(Claim(text, measured, bool(np.all(np.diff(medians) < 0))))
    return claims
