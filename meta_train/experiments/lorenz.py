"""Learning the parameters of a chaotic system (Li et al. 2023, arXiv 2304.12180).

    x' = a (y - x),   y' = (r - z) x - y,   z' = x y - b z,    L_t = (z_t - z*_t)^2,

the system of Lorenz (1963) in steps of 0.005, with z* its course for a = 10, r = 28,
b = 8/3, and theta = (log a, log r). Errors grow some thousandfold in the 2000 steps of an
episode: as a function of theta the loss is all ridges, while smoothed by noise it is a
bowl. Derivatives, however exact, are those of the ridges.

Settings are those of the paper: theta moves by SGD from (3.116, 3.7) after windows of 100
steps. All estimators spend the same inner steps on an update, but for truncated ES, which
has a third particle, and BPTT, which has one episode. Losses are smoothed as evolution
strategies smooth them; an estimator *arrives* where the median over seeds of its final loss
is within a tenth of the lowest loss on a grid of theta. Each has the learning rate, out of
the same grid, at which it arrives in the fewest steps, or ends lowest where it never does.

Criteria: derivatives (BPTT, TBPTT, UORO, DODGE) and truncated ES do not arrive, NRES and full
ES do; and to be there first takes NRES fewer inner steps than PES, fewer than full ES, and
fewer of those that must be taken one after the other, which is what time costs where
there are workers enough.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from meta_train import surface
from meta_train.devices import compiler_options
from meta_train.estimators import (
    BPTT,
    DODGE,
    NRES,
    PES,
    TBPTT,
    UORO,
    Estimator,
    FullES,
    TruncatedES,
)
from meta_train.experiments.contest import Run, draw_curves, inner_steps
from meta_train.experiments.descent import Trace, concurrently, descend
from meta_train.experiments.experiment import Claim, Experiment, Report, spread
from meta_train.plots import pyplot, save
from meta_train.surface_plots import draw_lines
from meta_train.truncation import Truncation

_TIME_STEP, _B = 0.005, 8 / 3
_POSITION = (1.2, 1.3, 1.6)
_TRUTH = (float(np.log(10.0)), float(np.log(28.0)))
_START = (3.116, 3.7)
_WORST = 1e4  # losses above it, and those that are no numbers, count as this much
_COLORS = {
    "NRES": "#1d4ed8",
    "PES": "#c2410c",
    "full ES": "#15803d",
    "truncated ES": "#7e22ce",
    "TBPTT": "#555555",
    "BPTT": "#111111",
    "UORO": "#cccccc",
    "DODGE": "#999999",
}


class Course(NamedTuple):
    """An episode in progress: where the point is, and how many steps it has taken."""

    position: Float[Array, "3"]
    step: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Lorenz:
    """The system; theta is ``(log a, log r)``.

    Attributes:
      target: z* after every step.
    """

    target: Float[Array, "steps"]

    @classmethod
    def observed(cls, num_steps: int) -> Self:
        """With the true parameters' course as its target."""
        theta = jnp.array(_TRUTH)

        def body(position: Array, _: None) -> tuple[Array, Array]:
            position = _flow(theta, position)
            return position, position[2]

        _, target = jax.lax.scan(body, jnp.array(_POSITION), length=num_steps)
        return cls(target)

    def init(self, key: PRNGKeyArray) -> Course:
        """Always the same point."""
        del key
        return Course(jnp.array(_POSITION), jnp.zeros((), jnp.int32))

    def inputs(
        self, state: Course, key: PRNGKeyArray, num_steps: int
    ) -> Float[Array, "steps"]:
        """What is observed in the steps to come."""
        del key
        return jax.lax.dynamic_slice(self.target, (state.step,), (num_steps,))

    def step(
        self, theta: Float[Array, "2"], state: Course, key: PRNGKeyArray
    ) -> tuple[Course, Float[Array, ""]]:
        """One step."""
        return self.advance(theta, state, self.inputs(state, key, 1)[0])

    def advance(
        self, theta: Float[Array, "2"], state: Course, x: Float[Array, ""]
    ) -> tuple[Course, Float[Array, ""]]:
        """One step, what is observed after it being known."""
        position = _flow(theta, state.position)
        return Course(position, state.step + 1), (position[2] - x) ** 2


def _flow(theta: Float[Array, "2"], position: Float[Array, "3"]) -> Float[Array, "3"]:
    """Where Euler's method moves a point."""
    (a, r), (x, y, z) = jnp.exp(theta), position
    slope = jnp.stack([a * (y - x), (r - z) * x - y, x * y - _B * z])
    return position + _TIME_STEP * slope


class Finding(NamedTuple):
    """How an estimator did.

    Attributes:
      run: at its best learning rate.
      steps: inner steps of all particles until the target, infinite where it was missed.
      sequential: of these, how many must be taken one after the other.
      arrives: whether the median final loss meets the target.
    """

    run: Run
    steps: Float[np.ndarray, "seeds"]
    sequential: Float[np.ndarray, "seeds"]
    arrives: bool


@dataclasses.dataclass(frozen=True)
class LearningLorenz(Experiment):
    """The settings.

    Attributes:
      num_updates: outer steps.
      records: how often theta is recorded.
      num_pairs: antithetic pairs of the online evolution strategies.
      horizon: inner steps in an episode.
      window: inner steps in a window.
      sigma: of the evolution strategies.
      rates: learning rates of SGD.
      draws: antithetic pairs of the smoothed loss.
      resumable: keep what is done in the folder, to go on from when stopped.
    """

    name: ClassVar[str] = "lorenz"
    title: ClassVar[str] = "Derivatives get lost on a chaotic loss, noise finds the way"
    paper: ClassVar[str] = "arXiv 2304.12180, experiment on the Lorenz system"

    num_updates: int = 1000
    records: int = 25
    num_pairs: int = 100
    horizon: int = 2000
    window: int = 100
    sigma: float = 0.04
    rates: tuple[float, ...] = (1e-12, 1e-10, 1e-8, 1e-6, 1e-5, 3e-5, 1e-4, 3e-4)
    draws: int = 64
    resumable: bool = False

    @classmethod
    def full(cls) -> Self:
        """The pairs, outer steps and seeds of the paper."""
        return cls(
            seeds=(101, 103, 107, 109, 113),
            num_updates=5000,
            records=100,
            num_pairs=200,
            rates=(1e-13, 1e-12, 1e-10, 1e-8, 1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4),
            resumable=True,
        )

    def run(self, folder: Path) -> Report:
        """Descend with every estimator."""
        system = Lorenz.observed(self.horizon)
        estimators = self.estimators(system)
        raw = surface.meta_loss(system, jax.random.key(0)[None], self.horizon)
        smooth = surface.smoothed(raw, self.sigma, jax.random.key(1), self.draws)
        heights = jax.jit(jax.vmap(smooth), compiler_options=compiler_options())
        around = np.linspace(-0.6, 0.6, 25)
        grid = np.stack(np.meshgrid(around, around), axis=-1).reshape(-1, 2)
        lowest = float(np.min(heights(jnp.float32(np.array(_TRUTH) + grid))))

        def run(name: str) -> Finding:
            trace = descend(
                estimators[name],
                lambda key: jnp.array(_START),
                optimizer=optax.sgd,
                rates=self.rates,
                seeds=self.seeds,
                num_steps=self.num_updates,
                records=self.records,
                folder=folder / "runs" / name if self.resumable else None,
            )
            return self._finding(estimators[name], trace, heights, 1.1 * lowest)

        jobs = {name: functools.partial(run, name) for name in estimators}
        findings = concurrently(jobs)
        fig, (left, right) = pyplot().subplots(1, 2, figsize=(12, 4.5))
        offsets, log_r = np.linspace(-0.5, 0.5, 201), jnp.array([0.0, 1.0])
        slices = {
            label: surface.line(height, jnp.array(_TRUTH), log_r, offsets)
            for label, height in (("loss", raw), ("smoothed loss", smooth))
        }
        draw_lines(left, offsets, slices)
        left.axvline(0, color="#999999", ls=":", label="truth")
        left.set(xlabel="log r less its true value", ylabel="loss", ylim=(0, 400))
        left.legend(fontsize=8)
        draw_curves(right, {k: found.run for k, found in findings.items()}, _COLORS)
        right.axhline(lowest, color="k", ls=":", lw=1, label="lowest on a grid")
        right.set(ylabel="smoothed loss", xscale="log", ylim=(0, 400))
        right.set_title("Each at its best learning rate, range over seeds")
        right.legend(fontsize=7)
        figure = save(fig, folder / "lorenz.png")
        rows = [_row(name, found) for name, found in findings.items()]
        note = (
            f"The lowest smoothed loss on a grid around the truth is {lowest:.1f}; to "
            f"arrive is to end below {1.1 * lowest:.1f}."
        )
        return Report(_claims(findings), rows, [figure], [note])

    def estimators(self, system: Lorenz) -> dict[str, Estimator]:
        """By name."""
        windows = Truncation.constant(self.horizon, self.window)
        pairs, lanes = self.num_pairs, 2 * self.num_pairs
        few = max(1, pairs * self.window // self.horizon)
        return {
            "UORO": UORO(system, windows, lanes),
            "NRES": NRES(system, windows, pairs, self.sigma),
            "PES": PES(system, windows, pairs, self.sigma),
            "full ES": FullES(system, windows, few, self.sigma),
            "truncated ES": TruncatedES(system, windows, pairs, self.sigma),
            "BPTT": BPTT(system, windows, 1),
            "TBPTT": TBPTT(system, windows, lanes),
            "DODGE": DODGE(system, windows, lanes),
        }

    def _finding(
        self, estimator: Any, trace: Trace, height: Any, target: float
    ) -> Finding:
        losses = np.asarray(height(trace.theta.reshape(-1, 2)))
        losses = np.where(losses < _WORST, losses, _WORST)
        losses = losses.reshape(trace.theta.shape[:-1])
        until = np.where(losses < target, trace.step, np.inf).min(axis=2)
        final = np.median(losses[..., -1], axis=1)
        arrives = final < target
        speed = np.where(arrives, np.median(until, axis=1), np.inf)
        i = int(np.lexsort((final, speed))[0])  # by speed, then by final loss
        cost = inner_steps(estimator)
        sequence = self.horizon if estimator.whole_episodes else self.window
        run = Run(self.rates[i], cost * trace.step, trace.theta[i], losses[i])
        return Finding(run, cost * until[i], sequence * until[i], bool(arrives[i]))


def _row(name: str, found: Finding) -> dict[str, str]:
    return {
        "estimator": name,
        "best rate": f"{found.run.rate:g}",
        "final loss": spread(found.run.losses[:, -1]),
        "inner steps until the target": spread(found.steps),
        "of them in sequence": spread(found.sequential),
    }


def _claims(findings: dict[str, Finding]) -> list[Claim]:
    def arrives(name: str, verdict: bool) -> Claim:
        found = findings[name]
        text = "arrives" if verdict else "does not arrive at any learning rate"
        measured = f"final loss {spread(found.run.losses[:, -1])}"
        return Claim(f"{name} {text}", measured, found.arrives == verdict)

    def faster(other: str, unit: str, words: str) -> Claim:
        ours, theirs = (getattr(findings[name], unit) for name in ("NRES", other))
        return Claim(
            f"NRES needs fewer {words} than {other}",
            f"{spread(ours)} against {spread(theirs)}",
            bool(np.median(ours) < np.median(theirs)),
        )

    lost = ("BPTT", "TBPTT", "UORO", "DODGE", "truncated ES")
    return [
        *(arrives(name, False) for name in lost),
        *(arrives(name, True) for name in ("NRES", "full ES")),
        faster("PES", "steps", "inner steps"),
        faster("full ES", "steps", "inner steps"),
        faster("full ES", "sequential", "inner steps in sequence"),
    ]
