"""The variance of PES on a recurrent network (Vicol, Metz & Sohl-Dickstein 2021).

A character-level LSTM reads T = 1000 characters, theta (its weights) held still; the loss
is the mean cross-entropy of the next character. An episode is cut into W windows. To first
order in the perturbations, with ``g_st`` the derivative of the loss of window s in the theta
of window t, ``G = sum_st g_st`` the gradient and P the size of theta, one antithetic pair has

    tr Var = sum_st P min(s, t) sum_i g_si . g_ti  +  (sum_i g_si) . (sum_i g_ti),

sums over i to min(s, t). With one window, and for NRES with any number, that is
``(P + 1) |G|^2``. Where gradients of windows are alike and each window answers for its own
theta alone, PES comes down to about ``P/2 |G|^2``; where they are independent, ``|G|^2``
grows as W and the variance as W squared.

Texts are as in the paper (arXiv 2112.13835, section on variance): real, of characters drawn
at random, or of one character over and over (`character_lstm`). The variance over ``|G|^2``
is computed for many texts from derivatives by the formula, and for the first of each
kind from many estimates of the estimators themselves. Criteria, for the median over seeds:
at random it grows linearly in W (slope of 0.8 to 1.2 in logarithms from 10 to 100 windows)
and more than 40 times from 1 to 100; for one character it falls throughout, to between 0.45
and 0.6 P; for real text it falls and then rises above where it began. The estimates of PES,
of GPES, and of NRES, which has the same variance for any W, agree with the formula within
four standard errors, themselves below a tenth.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from meta_train.devices import compiler_options
from meta_train.diagnostics import gradients
from meta_train.estimators import GPES, NRES, PES, EvolutionStrategy
from meta_train.experiments.character_lstm import (
    CharacterLSTM,
    Memory,
    Weights,
    texts,
)
from meta_train.experiments.descent import concurrently
from meta_train.experiments.experiment import Claim, Experiment, Report, spread
from meta_train.plots import pyplot, save
from meta_train.system import unroll
from meta_train.truncation import Truncation

_COLORS = {"real text": "#c2410c", "random": "#1d4ed8", "repeated": "#15803d"}


def window_gradients(
    system: CharacterLSTM, theta: Weights, num_windows: int
) -> Float[Array, "windows windows theta"]:
    """``g_st``: of the sum of losses of window s in the theta of window t."""
    flat, unravel = ravel_pytree(theta)
    key = jax.random.key(0)
    steps = (system.text.size - 1) // num_windows

    def window(state: Memory, flat: Array) -> tuple[Memory, Array]:
        xs = system.inputs(state, key, steps)
        state, losses = unroll(system, unravel(flat), state, xs)
        return state, jnp.sum(losses)

    losses = lambda flats: jax.lax.scan(window, system.init(key), flats)[1]
    return jax.jacrev(losses)(jnp.tile(flat, (num_windows, 1)))


def relative_variance(g: Float[np.ndarray, "w w theta"], num_windows: int) -> float:
    """Of PES with ``num_windows`` windows, by the formula, over ``|G|^2``.

    The windows of g are merged into as many, each of several that share their theta.
    """
    merged, size = len(g) // num_windows, g.shape[-1]
    g = g.reshape(num_windows, merged, num_windows, merged, size).sum(axis=(1, 3))
    products = np.zeros((num_windows, num_windows))  # sum_i g_si . g_ti
    so_far = np.zeros((num_windows, size))  # sum_i g_ti
    crossed = 0.0
    for i in range(num_windows):
        column = g[:, i].astype(np.float64)
        products += column @ column.T
        so_far += column
        # All s, t whose minimum is i: the diagonal once, what is beyond it twice.
        own = so_far[i]
        crossed += own @ (2 * so_far[i + 1 :].sum(axis=0) + own)
    windows = np.arange(1, num_windows + 1)
    earlier = np.minimum.outer(windows, windows)
    total = so_far.sum(axis=0)
    return float((size * np.sum(earlier * products) + crossed) / (total @ total))


class Check(NamedTuple):
    """The variance of an estimator at some text, found in two ways.

    Attributes:
      exact: by the formula.
      mean: of what estimates tell.
      error: the standard error of that.
    """

    text: str
    estimator: str
    windows: int
    exact: float
    mean: float
    error: float


@dataclasses.dataclass(frozen=True)
class LSTMVariance(Experiment):
    """The settings.

    Attributes:
      corpus: where the real texts are from, a name of `tasksets.text`.
      horizon: characters of an episode, T.
      windows: numbers of windows of an episode, each of which divides the last.
      checked: those of them at which estimates are made.
      interval: windows that share a perturbation of GPES.
      num_pairs: antithetic pairs of one estimate.
      num_estimates: of every estimator.
      sigma: of the estimators.
    """

    name: ClassVar[str] = "lstm-variance"
    title: ClassVar[str] = "What the variance of PES depends on, on a character LSTM"
    paper: ClassVar[str] = "arXiv 2112.13835, section on variance"

    seeds: tuple[int, ...] = tuple(range(10))
    corpus: str = "python_docs"
    horizon: int = 1000
    windows: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    checked: tuple[int, ...] = (10, 100)
    interval: int = 5
    num_pairs: int = 100
    num_estimates: int = 12
    sigma: float = 1e-3

    @classmethod
    def full(cls) -> Self:
        """Windows down to one character (some 8 GB of derivatives), more estimates."""
        return cls(
            corpus="tiny_shakespeare",
            windows=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000),
            checked=(1, 10, 100, 1000),
            num_pairs=1000,
            num_estimates=50,
        )

    def run(self, folder: Path) -> Report:
        """Compute the variances for every seed, and estimate them for the first."""
        curves: dict[str, list[list[float]]] = {kind: [] for kind in _COLORS}
        jobs: dict[str, Callable[[], Check]] = {}
        derive = jax.jit(
            window_gradients, static_argnums=2, compiler_options=compiler_options()
        )
        of_seed = texts(self.corpus, self.horizon, self.seeds)
        for seed, systems in zip(self.seeds, of_seed, strict=True):
            for kind, system in systems.items():
                theta = system.weights(jax.random.key(seed))
                g = np.asarray(derive(system, theta, self.windows[-1]))
                curves[kind].append([relative_variance(g, w) for w in self.windows])
                if seed == self.seeds[0]:
                    jobs |= self._checks(kind, system, theta, g)
        found = {kind: np.array(values) for kind, values in curves.items()}
        checks = list(concurrently(jobs).values())
        size = float(found["repeated"][0, 0]) - 1  # of theta
        figure = self._plot(found, checks, size, folder / "lstm-variance.png")
        claims = [*self._claims(found, size), *_agreement(checks)]
        note = f"P = {size:.0f}; variances are those of one pair over |G|^2."
        return Report(claims, self._rows(found, checks), [figure], [note])

    def _checks(
        self, kind: str, system: CharacterLSTM, theta: Weights, g: np.ndarray
    ) -> dict[str, Callable[[], Check]]:
        """Estimates to be made at a text, by estimator and number of windows."""
        truth = g.sum(axis=(0, 1)) / self.horizon  # of the mean loss
        jobs = {}

        def check(estimator: EvolutionStrategy, windows: int, as_pes: int) -> None:
            name = type(estimator).__name__
            exact = relative_variance(g, as_pes)

            def job() -> Check:
                samples = gradients(
                    estimator, theta, jax.random.key(0), self.num_estimates
                )
                squares = np.sum((np.asarray(samples) - truth) ** 2, axis=1)
                # Of one pair, where a sample is the mean over many.
                squares *= self.num_pairs / np.sum(truth**2)
                error = float(np.std(squares, ddof=1) / np.sqrt(len(squares)))
                return Check(kind, name, windows, exact, float(squares.mean()), error)

            jobs[f"{kind}, {name}, {windows}"] = job

        for windows in self.checked:
            window = Truncation.constant(self.horizon, self.horizon // windows)
            settings = system, window, self.num_pairs, self.sigma
            check(PES(*settings), windows, windows)
            check(NRES(*settings), windows, 1)
            if windows % self.interval == 0:
                gpes = GPES(*settings, interval=self.interval)
                check(gpes, windows, windows // self.interval)
        return jobs

    def _rows(
        self, found: dict[str, np.ndarray], checks: list[Check]
    ) -> list[dict[str, str | int]]:
        estimates = {
            (
                c.text,
                c.windows,
                c.estimator,
            ): f"{c.mean:.0f} +- {c.error:.0f} ({c.exact:.0f})"
            for c in checks
        }
        return [
            {"text": kind, "windows": windows, "PES by the formula": spread(curve)}
            | {
                f"{name}, first seed (formula)": estimates.get(
                    (kind, windows, name), ""
                )
                for name in ("PES", "GPES", "NRES")
            }
            for kind, curves in found.items()
            for windows, curve in zip(self.windows, curves.T, strict=True)
        ]

    def _claims(self, found: dict[str, np.ndarray], size: float) -> list[Claim]:
        windows = np.array(self.windows)
        many = (windows >= 10) & (windows <= 100)
        random, repeated, real = (found[k] for k in ("random", "repeated", "real text"))
        slope = np.polyfit(np.log(windows[many]), np.log(random[:, many].T), 1)[0]
        growth = random[:, many][:, -1] / random[:, 0]
        linear = abs(np.median(slope) - 1) < 0.2 and np.median(growth) > 40
        end = repeated[:, -1] / size
        falls = np.all(np.diff(np.median(repeated, axis=0)) < 0)
        middle = np.median(real, axis=0)
        dips = np.sum(real.min(axis=1) < real[:, 0])
        rises = np.sum(real[:, -1] > real[:, 0])
        return [
            Claim(
                "random characters: variance grows linearly in the number of windows",
                f"slope {spread(slope)}, by a factor of {spread(growth)}",
                bool(linear),
            ),
            Claim(
                "one character: variance falls, to about half of that of full ES",
                f"to {spread(end)} P",
                bool(falls and 0.45 < np.median(end) < 0.6),
            ),
            Claim(
                "real text: variance falls, then rises above that of full ES",
                f"to {middle.min() / middle[0]:.2f}, then {middle[-1] / middle[0]:.2f} "
                f"times; falls for {dips} and rises for {rises} of {len(real)} texts",
                bool(middle.min() < middle[0] < middle[-1]),
            ),
        ]

    def _plot(
        self,
        found: dict[str, np.ndarray],
        checks: list[Check],
        size: float,
        path: Path,
    ) -> Path:
        fig, ax = pyplot().subplots(figsize=(7, 4.5))
        for kind, curves in found.items():
            color = _COLORS[kind]
            middle = np.median(curves, axis=0)
            ax.plot(self.windows, middle, color=color, label=f"PES, {kind}")
            low, high = curves.min(axis=0), curves.max(axis=0)
            ax.fill_between(self.windows, low, high, color=color, alpha=0.15)
        for c in checks:
            if c.estimator != "GPES":
                color = _COLORS[c.text] if c.estimator == "PES" else "#777777"
                ax.errorbar(c.windows, c.mean, 2 * c.error, fmt="o", color=color, ms=4)
        ax.axhline(size + 1, color="#777777", ls="--", label="NRES and full ES, P + 1")
        ax.axhline(size / 2, color="#777777", ls=":", label="P / 2")
        ax.set(
            xlabel=f"windows of an episode of {self.horizon} characters",
            ylabel="variance of a pair / squared norm of the gradient",
            xscale="log",
            yscale="log",
            title="Lines: formula, range over seeds; points: estimates, 2 standard errors",
        )
        ax.grid(alpha=0.25)
        ax.legend(fontsize=8)
        return save(fig, path)


def _agreement(checks: list[Check]) -> list[Claim]:
    """Whether estimates agree with the formula, estimator by estimator."""
    claims = []
    for name, text in (
        ("PES", "PES has the variance of the formula"),
        ("GPES", "GPES has that of PES with the windows of each perturbation merged"),
        ("NRES", "NRES has the variance of full ES whatever the windows"),
    ):
        own = [check for check in checks if check.estimator == name]
        farthest = max(abs(c.mean - c.exact) / c.error for c in own)
        coarsest = max(c.error / c.exact for c in own)
        claims.append(
            Claim(
                text,
                f"at most {farthest:.1f} standard errors off, these up to {coarsest:.1%}",
                farthest < 4 and coarsest < 0.1,
            )
        )
    return claims
