"""A classifier's learning-rate schedule: truncation lets the rate decay too fast.

    lr_t = e^{theta_0} (1 + t / T)^(-e^{theta_1}),    t = 0..T-1

for an MLP that SGD with momentum .9 trains on images. Meta-losses are the mean over the T
steps of the training loss (in units of log 10, on the minibatch that comes next), or of the
*accuracy* on validation images, negated: piecewise constant, so that its gradient is zero
and nothing but evolution can follow it. Falling rates take out the noise of minibatches
at once, high ones pay later; who looks at one window lets the rate fall.

Settings of Vicol, Metz & Sohl-Dickstein 2021 (arXiv 2112.13835, MNIST experiment): an MLP
784-100-100-10, T = 5000, windows of 10 and 100, 1000 particles, sigma .1, Adam, from a rate
of .003 and a decay of 30. There PES ends where the rate hardly decays, truncated ES at an
exponent near 10. Here pixels are in [0, 1] rather than standardised, and there is no weight
decay (1e-10 there); the small version has the 8 x 8 digits and T = 500.

Criteria, each estimator at its best learning rate out of the same grid: with windows of 10,
on the training loss, truncated ES and TBPTT end for every seed at a larger exponent than PES
and NRES for any, and at a larger meta-loss, as medians over seeds; so does truncated ES on
the accuracy, as for the meta-loss; PES and NRES get to the optimum of the grid but for a
tenth of what there is to gain from the start, for every seed, with both windows and
objectives; TBPTT of the accuracy is zero.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

import tasksets
from meta_train.estimators import NRES, PES, TBPTT, TruncatedES
from meta_train.experiments.contest import (
    Contender,
    Run,
    draw_curves,
    jobs,
    meta_losses,
)
from meta_train.experiments.descent import concurrently
from meta_train.experiments.experiment import Claim, Experiment, Report, spread
from meta_train.inner_training import InnerState, InnerTraining, Inputs
from meta_train.objectives import Measured
from meta_train.plots import pyplot, save
from meta_train.surface_plots import draw_ways
from meta_train.system import System
from meta_train.truncation import Truncation

_START = (0.003, 30.0)  # first rate, exponent
_CAP = 1.5  # of losses, in units of the initial one: for estimators and judge alike
_EXPONENTS = (-2.2, 2.2)  # decades of the grid
LOSS, ACCURACY = "training loss", "accuracy"
_RIGHT, _WRONG = ("PES", "NRES"), ("truncated ES", "TBPTT")
_COLORS = {
    "PES": "#c2410c",
    "NRES": "#1d4ed8",
    "truncated ES": "#888888",
    "TBPTT": "#222222",
}


@dataclasses.dataclass(frozen=True)
class DecayingMomentum:
    """SGD with momentum .9 and the schedule; theta ``[2]`` is natural logarithms."""

    def init(self, key: PRNGKeyArray) -> Float[Array, "2"]:
        """The paper's start."""
        del key
        return jnp.log(jnp.array(_START))

    def transform(
        self, theta: Float[Array, "2"], *, num_steps: ArrayLike | None = None
    ) -> optax.GradientTransformationExtraArgs:
        """The schedule of a run of ``num_steps``, which must be given."""
        assert num_steps is not None
        rate, exponent = jnp.exp(theta)
        schedule = lambda step: rate * (1 + step / num_steps) ** -exponent
        return optax.with_extra_args_support(optax.sgd(schedule, momentum=0.9))


def negative_accuracy(
    system: InnerTraining, state: InnerState, x: Inputs
) -> Float[Array, ""]:
    """On the validation images that a step drew, after the step."""
    drawn, key = x.outer_valid
    batch = system.task.take("outer_valid", drawn)
    return -system.task.metrics(state.params, batch, key)["accuracy"]


class Setting(NamedTuple):
    """What estimators are compared on.

    Attributes:
      objective: LOSS or ACCURACY.
      window: inner steps of a window.
      num_steps: how many outer steps are taken.
      rates: learning rates of Adam; fewer steps need larger ones.
    """

    objective: str
    window: int
    num_steps: int
    rates: tuple[float, ...]

    def __str__(self) -> str:
        return f"{self.objective}, windows of {self.window}"


class Optimum(NamedTuple):
    """The best schedule of a grid, the meta-losses of all of it, that of the start."""

    theta: Float[np.ndarray, "2"]
    loss: float
    heights: Float[np.ndarray, "rates exponents"]
    start: float


@dataclasses.dataclass(frozen=True)
class MnistLrSchedule(Experiment):
    """The settings.

    Attributes:
      dataset: of `tasksets`.
      hidden: widths of the hidden layers.
      batch_size: images of a minibatch, for training and for accuracies.
      horizon: T, inner steps of an episode.
      settings: objectives and windows.
      num_particles: of the evolution strategies, both members of a pair counted.
      num_lanes: episodes of TBPTT at once.
      sigma: of the evolution strategies.
      decades: of the first rates on the grid.
      grid: points along each side of the grid.
      num_episodes: over which meta-losses are means.
      resumable: keep what is done in the folder, to go on from when stopped.
    """

    name: ClassVar[str] = "mnist-lr-schedule"
    title: ClassVar[str] = "Short windows let the learning rate decay too fast"
    paper: ClassVar[str] = "arXiv 2112.13835, MNIST learning-rate schedule"

    seeds: tuple[int, ...] = tuple(range(5))
    dataset: str = "digits"
    hidden: tuple[int, ...] = (16, 16)
    batch_size: int = 16
    horizon: int = 500
    settings: tuple[Setting, ...] = (
        Setting(LOSS, 10, 1000, (1e-2, 3e-2)),
        Setting(LOSS, 100, 100, (1e-1,)),
        Setting(ACCURACY, 10, 1000, (1e-2, 3e-2)),
    )
    num_particles: int = 10
    num_lanes: int = 2
    sigma: float = 0.1
    decades: tuple[float, float] = (-3.0, 0.0)
    grid: int = 21
    num_episodes: int = 4
    resumable: bool = False

    @classmethod
    def full(cls) -> "MnistLrSchedule":
        """On MNIST, at the size of the paper: for an accelerator, and for long."""
        return cls(
            dataset="mnist",
            hidden=(100, 100),
            batch_size=100,
            horizon=5000,
            settings=tuple(
                s._replace(num_steps=5000, rates=(1e-2, 3e-2, 1e-1))
                for s in cls.settings
            ),
            num_particles=1000,
            num_lanes=50,
            decades=(-3.0, -0.5),
            grid=40,
            resumable=True,
        )

    def run(self, folder: Path) -> Report:
        """Descend in every setting, and look up the grid."""
        systems = self.systems()
        keys = jax.random.split(jax.random.key(1), self.num_episodes)
        judges = {
            objective: functools.partial(
                meta_losses, system, keys=keys, num_steps=self.horizon, cap=_CAP
            )
            for objective, system in systems.items()
        }
        # All at once: no device waits for the end of a setting.
        descents = {
            (setting, name): job
            for setting in self.settings
            for name, job in jobs(
                self.contenders(setting, systems[setting.objective]),
                DecayingMomentum().init,
                judges[setting.objective],
                rates=setting.rates,
                seeds=self.seeds,
                records=10,
                folder=folder / "runs" / str(setting) if self.resumable else None,
            ).items()
        }
        grids = {
            name: functools.partial(self._optimum, judge)
            for name, judge in judges.items()
        }
        done: dict[Any, Any] = concurrently(descents | grids)
        runs: dict[Setting, dict[str, Run]] = {s: {} for s in self.settings}
        for setting, name in descents:
            runs[setting][name] = done[setting, name]
        optima: dict[str, Optimum] = {name: done[name] for name in grids}
        slope = self._slope_of_accuracy(systems[ACCURACY])
        rows = [
            _row(str(setting), name, run.theta[:, -1], run.losses[:, -1], run)
            for setting, contenders in runs.items()
            for name, run in contenders.items()
        ]
        for objective, (theta, loss, _, start) in optima.items():
            at_start = np.log(np.array([_START]))
            rows.append(_row(objective, "start", at_start, np.array([start])))
            rows.append(_row(objective, "grid", theta[None], np.array([loss])))
        note = (
            f"Meta-losses are means over {self.num_episodes} episodes, the same for all "
            f"thetas. The optimum is the best of {self.grid} x {self.grid} points on just "
            "these, and sharper than what a perturbed theta can use."
        )
        figure = self._plot(runs, optima, folder / f"{self.name}.png")
        return Report(_claims(runs, optima, slope), rows, [figure], [note])

    def systems(self) -> dict[str, System]:
        """By objective."""
        widths = "-".join(map(str, self.hidden))
        task = tasksets.get(
            f"FixedMLP_mnist_ce_128x128x128_relu_bs128@{self.dataset}"
            f"?hidden={widths}&batch_size={self.batch_size}"
        )
        training = InnerTraining(task, DecayingMomentum(), train_weight=1.0)
        return {LOSS: training, ACCURACY: Measured(training, negative_accuracy)}

    def contenders(self, setting: Setting, system: System) -> dict[str, Contender]:
        """By name, the slowest first; TBPTT for the training loss only."""
        truncation = Truncation.constant(self.horizon, setting.window)
        pairs = self.num_particles // 2
        estimators = {
            "TBPTT": TBPTT(system, truncation, self.num_lanes, _CAP),
            "truncated ES": TruncatedES(system, truncation, pairs, self.sigma, _CAP),
            "PES": PES(system, truncation, pairs, self.sigma, _CAP),
            "NRES": NRES(system, truncation, pairs, self.sigma, _CAP),
        }
        if setting.objective == ACCURACY:
            del estimators["TBPTT"]
        return {name: Contender(e, setting.num_steps) for name, e in estimators.items()}

    def _optimum(self, judge: Callable[..., np.ndarray]) -> Optimum:
        sides = [
            np.linspace(low, high, self.grid) * np.log(10)
            for low, high in (self.decades, _EXPONENTS)
        ]
        thetas = np.stack(np.meshgrid(*sides, indexing="ij"), axis=-1)
        heights = judge(jnp.float32(thetas), 2)
        theta = thetas[np.unravel_index(np.argmin(heights), heights.shape)]
        start = float(judge(jnp.log(jnp.array([_START])), 1)[0])
        return Optimum(theta, float(heights.min()), heights, start)

    def _slope_of_accuracy(self, system: System) -> float:
        """The norm of what TBPTT takes for the gradient of the accuracy, at the start."""
        truncation = Truncation.constant(self.horizon, self.settings[0].window)
        estimator = TBPTT(system, truncation, self.num_lanes)
        theta, key = jnp.log(jnp.array(_START)), jax.random.key(2)
        estimate = jax.jit(lambda e: e.estimate(theta, e.init(theta, key), key)[0])
        return float(jnp.linalg.norm(estimate(estimator).grad))

    def _plot(
        self,
        runs: dict[Setting, dict[str, Run]],
        optima: dict[str, Optimum],
        path: Path,
    ) -> Path:
        fig, axes = pyplot().subplots(2, 2, figsize=(12, 9))
        start = np.broadcast_to(np.log(_START), (len(self.seeds), 1, 2))
        for ax, (setting, contenders) in zip(axes.flat, runs.items(), strict=False):
            optimum = optima[setting.objective]
            sides = [np.linspace(*d, self.grid) for d in (_EXPONENTS, self.decades)]
            shades = ax.pcolormesh(*sides, optimum.heights)
            fig.colorbar(shades, ax=ax, label=f"meta-loss ({setting.objective})")
            decades = lambda theta: theta[..., ::-1] / np.log(10)
            ways = {
                name: decades(np.concatenate([start, run.theta], axis=1))
                for name, run in contenders.items()
            }
            draw_ways(ax, ways, _COLORS)
            ax.plot(*decades(start[0, 0]), "w*", ms=12, mec="black", label="start")
            best = decades(optimum.theta)
            ax.plot(*best, "wX", ms=9, mec="black", label="grid optimum")
            ax.set(
                xlabel="log10 of the exponent of the decay",
                ylabel="log10 of the first rate",
                xlim=_EXPONENTS,
                ylim=self.decades,
                title=str(setting),
            )
            ax.legend(fontsize=7, loc="lower left")
        ax, setting = axes.flat[-1], self.settings[0]
        draw_curves(ax, runs[setting], _COLORS)
        loss = optima[setting.objective].loss
        ax.axhline(loss, color="#999999", ls=":", label="grid optimum")
        ax.set(title=f"{setting}, range over seeds")
        ax.legend(fontsize=7)
        return save(fig, path)


def _row(
    setting: str,
    name: str,
    theta: Float[np.ndarray, "seeds 2"],
    losses: Float[np.ndarray, "seeds"],
    run: Run | None = None,
) -> dict[str, str]:
    rates, exponents = np.exp(theta).T
    return {
        "objective": setting,
        "estimator": name,
        "best rate": f"{run.rate:g}" if run else "",
        "meta-loss": spread(losses),
        "first rate": spread(rates),
        "exponent": spread(exponents),
        "inner steps": f"{run.cost[-1]:.2g}" if run else "",
    }


def _claims(
    runs: dict[Setting, dict[str, Run]], optima: dict[str, Optimum], slope: float
) -> list[Claim]:
    def above(what: str, values: dict[str, np.ndarray], name: str, low, high) -> Claim:
        """``low`` of the values of one estimator is above ``high`` of the right ones."""
        others = max(high(values[right]) for right in _RIGHT)
        measured = f"{spread(values[name])}, they at most {others:.3g}"
        text = f"{name}, {what} than PES and NRES"
        return Claim(text, measured, bool(low(values[name]) > others))

    claims = []
    for setting, contenders in runs.items():
        ends = {name: run.losses[:, -1] for name, run in contenders.items()}
        exponents = {
            name: np.exp(run.theta[:, -1, 1]) for name, run in contenders.items()
        }
        if setting.window == min(s.window for s in runs):
            for name in [name for name in _WRONG if name in contenders]:
                what = f"{setting}: ends with a larger median meta-loss"
                claims.append(above(what, ends, name, np.median, np.median))
                if setting.objective == LOSS:
                    what = f"{setting}: decays with a larger exponent"
                    claims.append(above(what, exponents, name, np.min, np.max))
        _, lowest, _, start = optima[setting.objective]
        for name in _RIGHT:
            gap = (ends[name] - lowest) / (start - lowest)
            text = f"{name}, {setting}: reaches the optimum"
            measured = f"{spread(100 * gap)} % of the gain is missing"
            claims.append(Claim(text, measured, bool(np.all(gap < 0.1))))
    text = "TBPTT has no gradient of the accuracy"
    return [*claims, Claim(text, f"norm {slope:g}", slope == 0)]
