"""Toy regression: a learning-rate schedule on a chaotic meta-loss, in two dimensions.

    f(x) = sqrt(x_0^2 + 5) - sqrt(5) + sin(x_1)^2 exp(-5 x_0^2) + |x_1 - 100| / 4
    x_t  = x_{t-1} - lr_t f'(x_{t-1}),    lr_t = (1 - t/T) e^{theta_0} + (t/T) e^{theta_1}

Gradient descent starts at x = (1, 1), whence the valley of x_0 = 0 is near and rippled,
and the minimum at x_1 = 100 far away. The meta-loss is the sum of f(x_t) over T = 100
steps. Raising theta_0 pays only much later, which windows of ten steps do not see, and
does so on a surface so rugged that its exact gradient says little: a way to the optimum
takes both a whole episode's credit and smoothing. Settings of Vicol, Metz &
Sohl-Dickstein 2021 (arXiv 2112.13835, toy experiment): windows of 10, 100 particles, Adam
(b1 = .99) from theta = (-4, -4).

Criteria, for every seed after 2000 outer steps, each estimator at its best learning rate
out of the same grid: PES and NRES end at a meta-loss below 620 (the lowest is 555);
truncated ES, TBPTT and RTRL, whose gradient is unbiased but not smoothed, do not.
"""

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray

from meta_train import surface
from meta_train.estimators import (
    NRES,
    PES,
    RTRL,
    TBPTT,
    Estimator,
    FullES,
    TruncatedES,
)
from meta_train.experiments.descent import Trace, concurrently, descend
from meta_train.experiments.experiment import Claim, Experiment, Report, spread
from meta_train.plots import pyplot, save
from meta_train.surface_plots import draw_plane, draw_ways
from meta_train.truncation import Truncation

_HORIZON, _WINDOW = 100, 10
_NEAR = 620  # the meta-loss of what has arrived
_START = (-4.0, -4.0)


class ToyState(NamedTuple):
    """Where gradient descent is, and after how many steps."""

    x: Float[Array, "2"]
    step: Float[Array, ""]


class ToyRegression:
    """The system; theta is ``[2]``: the logarithms of the first and last rate."""

    def init(self, key: PRNGKeyArray) -> ToyState:
        """Always (1, 1)."""
        del key
        return ToyState(jnp.ones(2), jnp.zeros(()))

    def step(
        self, theta: Float[Array, "2"], state: ToyState, key: PRNGKeyArray
    ) -> tuple[ToyState, Float[Array, ""]]:
        """One step of gradient descent, and f where it leads."""
        del key
        progress = state.step / _HORIZON
        first, last = jnp.exp(theta)
        rate = (1 - progress) * first + progress * last
        x = state.x - rate * jax.grad(toy_loss)(state.x)
        return ToyState(x, state.step + 1), toy_loss(x)


def toy_loss(x: Float[Array, "2"]) -> Float[Array, ""]:
    """The function that the inner steps descend."""
    bowl = jnp.sqrt(x[0] ** 2 + 5) - jnp.sqrt(5.0)
    ripples = jnp.sin(x[1]) ** 2 * jnp.exp(-5 * x[0] ** 2)
    return bowl + ripples + 0.25 * jnp.abs(x[1] - 100)


class Contender(NamedTuple):
    """An estimator, the inner steps of an update, and how it is drawn."""

    estimator: Estimator
    cost: int
    color: str


@dataclasses.dataclass(frozen=True)
class ToyRegressionSchedule(Experiment):
    """The settings.

    Attributes:
      num_steps: outer steps, a multiple of 100.
      num_particles: of every evolution strategy, both members of a pair counted.
      sigma: of the evolution strategies but truncated ES, which has 1 in the paper
        and is run with both.
      rates: learning rates of Adam.
      grid: points along each side of the surface over [-5, 5]^2.
      resumable: keep what is done in the folder, to go on from when stopped.
    """

    name: ClassVar[str] = "toy-regression"
    title: ClassVar[str] = "On a chaotic surface both smoothing and full credit matter"
    paper: ClassVar[str] = "arXiv 2112.13835, toy 2-D regression"

    num_steps: int = 2000
    num_particles: int = 100
    sigma: float = 0.3
    rates: tuple[float, ...] = (3e-3, 1e-2, 3e-2, 1e-1)
    grid: int = 300
    resumable: bool = False

    @classmethod
    def full(cls) -> "ToyRegressionSchedule":
        """Ten times the outer steps on a surface of 2000 x 2000 points."""
        return cls(num_steps=20_000, grid=2000, resumable=True)

    def run(self, folder: Path) -> Report:
        """Descend with every estimator and draw the ways on the surface."""
        contenders = self.contenders()
        traces = concurrently(
            {
                name: lambda name=name, contender=contender: descend(
                    contender.estimator,
                    lambda key: jnp.array(_START),
                    optimizer=lambda rate: optax.adam(rate, b1=0.99),
                    rates=self.rates,
                    seeds=self.seeds,
                    num_steps=self.num_steps,
                    folder=folder / "runs" / name if self.resumable else None,
                )
                for name, contender in contenders.items()
            }
        )
        losses = {name: meta_losses(trace.theta) for name, trace in traces.items()}
        offsets = np.linspace(-5, 5, self.grid)
        axes = jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])
        heights = surface.plane(_height(), jnp.zeros(2), axes, offsets)
        rows = [
            self._row(name, contender.cost, traces[name], losses[name])
            for name, contender in contenders.items()
        ]
        figure = self._plot(contenders, traces, losses, offsets, heights, folder)
        start = float(meta_losses(jnp.array(_START)))
        smooth = _smooth(heights, offsets, self.sigma)
        notes = [
            f"The meta-loss is {start:.4g} at the start. Its lowest among {self.grid} x "
            f"{self.grid} points is {_lowest(heights, offsets)}; smoothed with sigma = "
            f"{self.sigma:g}, as evolution strategies see it, {_lowest(smooth, offsets)}. "
            "The table has meta-losses that are not smoothed.",
            f"Inner steps are those of all particles; 'until {_NEAR}' counts those until the "
            "first record below, and the run may rise above again. TBPTT and RTRL have no "
            "chance in them, so that their seeds coincide.",
        ]
        return Report(self._claims(losses), rows, [figure], notes)

    def contenders(self) -> dict[str, Contender]:
        """By name; the smoothing ones in colour."""
        system, pairs = ToyRegression(), self.num_particles // 2
        windows = Truncation.constant(_HORIZON, _WINDOW, stagger=False)
        window, particles = _WINDOW, self.num_particles

        def evolve(kind: type, sigma: float, steps: int, color: str) -> Contender:
            return Contender(kind(system, windows, pairs, sigma), steps, color)

        def differentiate(kind: type, color: str) -> Contender:
            return Contender(kind(system, windows, num_lanes=1), window, color)

        # Truncated ES runs a third particle, at theta itself, to carry on from.
        third = window * 3 * pairs
        return {
            "PES": evolve(PES, self.sigma, window * particles, "#c2410c"),
            "NRES": evolve(NRES, self.sigma, window * particles, "#1d4ed8"),
            "full ES": evolve(FullES, self.sigma, _HORIZON * particles, "#15803d"),
            "truncated ES, sigma 1": evolve(TruncatedES, 1.0, third, "#bbbbbb"),
            f"truncated ES, sigma {self.sigma:g}": evolve(
                TruncatedES, self.sigma, third, "#999999"
            ),
            "TBPTT": differentiate(TBPTT, "#777777"),
            "RTRL": differentiate(RTRL, "#333333"),
        }

    def _row(
        self, name: str, cost: int, trace: Trace, losses: np.ndarray
    ) -> dict[str, str | int]:
        best = _best(losses)
        below = losses[best] < _NEAR
        steps = np.where(below.any(axis=1), trace.step[below.argmax(axis=1)], np.inf)
        until = cost * np.median(steps)
        by_rate = np.median(losses[..., -1], axis=1)
        return {
            "estimator": name,
            "best rate": f"{self.rates[best]:g}",
            "meta-loss": spread(losses[best, :, -1]),
            "by rate": ", ".join(f"{loss:.4g}" for loss in by_rate),
            "inner steps per update": cost,
            f"inner steps until {_NEAR}": f"{until:.3g}"
            if np.isfinite(until)
            else "never",
        }

    def _claims(self, losses: dict[str, np.ndarray]) -> list[Claim]:
        claims = []
        for name in losses:
            curves = losses[name][_best(losses[name])]
            ends, lowest = curves[:, -1], np.min(curves)
            measured = f"meta-loss {spread(ends)}, lowest on the way {lowest:.4g}"
            if name in ("PES", "NRES"):
                text, holds = (
                    f"settles near the optimum (< {_NEAR})",
                    np.all(ends < _NEAR),
                )
            else:
                text, holds = "does not settle there", np.all(ends >= _NEAR)
            if name != "full ES":
                claims.append(Claim(f"{name}: {text}", measured, bool(holds)))
        return claims

    def _plot(
        self,
        contenders: dict[str, Contender],
        traces: dict[str, Trace],
        losses: dict[str, np.ndarray],
        offsets: np.ndarray,
        heights: np.ndarray,
        folder: Path,
    ) -> Path:
        fig, (left, right) = pyplot().subplots(1, 2, figsize=(12, 5))
        labels = "log of the first rate", "log of the last rate"
        draw_plane(left, offsets, heights, labels=labels, limits=(500, 1e4), log=True)
        colors = {name: contender.color for name, contender in contenders.items()}
        start = np.broadcast_to(np.array(_START), (len(self.seeds), 1, 2))
        ways = {
            name: np.concatenate([start, trace.theta[_best(losses[name])]], axis=1)
            for name, trace in traces.items()
        }
        draw_ways(left, ways, colors)
        best = np.unravel_index(np.argmin(heights), heights.shape)
        left.plot(*offsets[list(best)], "k*", ms=11, mec="white", label="grid optimum")
        left.set(xlim=(-5, 5), ylim=(-5, 5), title="Ways taken, one line per seed")
        left.legend(fontsize=7, loc="upper left")
        for name, trace in traces.items():
            curve = losses[name][_best(losses[name])]
            steps, color = trace.step * contenders[name].cost, colors[name]
            right.plot(steps, np.median(curve, axis=0), color=color, label=name)
            low, high = curve.min(axis=0), curve.max(axis=0)
            right.fill_between(steps, low, high, color=color, alpha=0.15)
        right.axhline(heights.min(), color="k", ls=":", lw=1, label="grid optimum")
        right.set(
            xlabel="inner steps of all particles",
            ylabel="meta-loss",
            xscale="log",
            title="Each estimator at its best learning rate, range over seeds",
        )
        right.grid(alpha=0.25)
        right.legend(fontsize=7)
        return save(fig, folder / "toy-regression.png")


def _height() -> surface.Height:
    """The sum of the losses of an episode, as a function of theta."""
    mean = surface.meta_loss(
        ToyRegression(), jax.random.split(jax.random.key(0), 1), 100
    )
    return lambda theta: _HORIZON * mean(theta)


def meta_losses(theta: Float[Any, "*batch 2"]) -> Float[np.ndarray, "*batch"]:
    """The meta-loss of each theta, infinite where it is not a number."""
    losses = np.asarray(jax.jit(jnp.vectorize(_height(), signature="(2)->()"))(theta))
    return np.where(np.isfinite(losses), losses, np.inf)


def _smooth(
    heights: Float[np.ndarray, "n n"], offsets: Float[np.ndarray, "n"], sigma: float
) -> Float[np.ndarray, "n n"]:
    """The surface under Gaussian noise that stays within it."""
    kernel = np.exp(-((offsets[:, None] - offsets) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum(axis=1, keepdims=True)
    return kernel @ heights @ kernel.T


def _lowest(heights: Float[np.ndarray, "n n"], offsets: Float[np.ndarray, "n"]) -> str:
    i, j = np.unravel_index(np.argmin(heights), heights.shape)
    return f"{heights[i, j]:.4g} at ({offsets[i]:.2f}, {offsets[j]:.2f})"


def _best(losses: Float[np.ndarray, "rates seeds records"]) -> int:
    """The learning rate with the lowest median final loss."""
    return int(np.argmin(np.median(losses[..., -1], axis=1)))
