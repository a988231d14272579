"""Many hyperparameters at once: a rate and a momentum for every tensor of an MLP.

    m_t = g_t + d_i m_{t-1},    p_t = p_{t-1} - r_i m_t    for the tensors i = 1..12
    r_i = e^{theta_i},          d_i = sigmoid(theta_{12 + i})

in training an MLP with five hidden layers; the meta-loss is the mean over T steps of the
loss on validation images (in units of log 10). Evolution strategies follow a gradient in
all 24 directions at once, a random search has to hit them together.

Settings of Vicol, Metz & Sohl-Dickstein 2021 (arXiv 2112.13835, many hyperparameters):
Fashion-MNIST, layers of 100, T = 1000, windows of 10, 10 particles, sigma .3, Adam, starts
drawn from rates in (1e-4, 1e-2) and momenta in (.01, .9); the search draws rates from
(1e-8, 10) and momenta from (.01, .999), all uniform in theta. There theta has five numbers
more, the shares of hidden units in use: they belong to the network, not to an optimizer,
and are left out. The small version has the 8 x 8 digits, layers of 16 and T = 200; with a
fifth of the steps to learn in, it starts from rates five times as high.

Compute is inner steps of all particles, those of a descent at every learning rate that was
tried. A point of the search costs one episode, and the search keeps the point whose own
episode went best; a descent is where it is. What either has is then judged by means over
the same episodes for all, which cost nothing (and by which the rate is chosen). Criterion:
at equal compute, the final meta-loss of PES, and of NRES, at its best learning rate, has
a lower median over seeds than that of the search. Shown beside them is the best single
rate and momentum for all tensors out of a grid.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logit
from jaxtyping import Array, Float, Int, PRNGKeyArray

import tasksets
from learned_opt import Layout, Rule, Signals
from meta_train.estimators import NRES, PES
from meta_train.experiments.contest import (
    Contender,
    Run,
    draw_curves,
    inner_steps,
    jobs,
    meta_losses,
)
from meta_train.experiments.descent import concurrently
from meta_train.experiments.experiment import Claim, Experiment, Report, spread
from meta_train.inner_training import InnerTraining
from meta_train.plots import pyplot, save
from meta_train.truncation import Truncation

_CAP = 1.5  # of losses, in units of the initial one: for estimators and judge alike
_SEARCH = "random search"
_RECORDS = 20  # of a descent
_COLORS = {"PES": "#c2410c", "NRES": "#1d4ed8", _SEARCH: "#888888"}


class Hyperparameters(NamedTuple):
    """theta: one number of each kind for every tensor."""

    log_rate: Float[Array, "tensors"]
    logit_momentum: Float[Array, "tensors"]


class Range(NamedTuple):
    """What random hyperparameters are between; uniform in theta."""

    rate: tuple[float, float]
    momentum: tuple[float, float]

    def draw(self, key: PRNGKeyArray, num_tensors: int) -> Hyperparameters:
        """Independent draws for every tensor."""
        draw = functools.partial(jax.random.uniform, shape=(num_tensors,))
        rate_key, momentum_key = jax.random.split(key)
        low, high = jnp.log(jnp.array(self.rate))
        rates = draw(rate_key, minval=low, maxval=high)
        low, high = logit(jnp.array(self.momentum))
        return Hyperparameters(rates, draw(momentum_key, minval=low, maxval=high))


STARTS = Range(rate=(1e-4, 1e-2), momentum=(0.01, 0.9))  # for T = 1000
SEARCHED = Range(rate=(1e-8, 10.0), momentum=(0.01, 0.999))


class MomentumState(NamedTuple):
    """Steps done, and a decaying sum of gradients."""

    step: Int[Array, ""]
    slots: tuple[Any]


@dataclasses.dataclass(frozen=True)
class MomentumPerTensor(Rule):
    """Heavy ball with a rate and a momentum for every tensor.

    Attributes:
      num_tensors: of the model.
      starts: what ``init`` draws from.
    """

    num_tensors: int
    starts: Range = STARTS

    def init(self, key: PRNGKeyArray) -> Hyperparameters:
        """A start, uniform in theta."""
        return self.starts.draw(key, self.num_tensors)

    def start(self, theta: Hyperparameters, params: Any, layout: Layout):
        """No gradients so far."""
        del theta
        zeros = layout.map(jnp.zeros_like, params)
        return MomentumState(jnp.zeros((), jnp.int32), (zeros,))

    def advance(
        self,
        theta: Hyperparameters,
        state: MomentumState,
        grads: Any,
        params: Any,
        layout: Layout,
        signals: Signals,
    ) -> tuple[Any, MomentumState]:
        """One step."""
        del params, signals
        rates = layout.spread(jnp.exp(theta.log_rate))
        momenta = layout.spread(jax.nn.sigmoid(theta.logit_momentum))
        m = layout.map(lambda g, d, m: g + d * m, grads, momenta, *state.slots)
        steps = layout.map(lambda r, m: -r * m, rates, m)
        return steps, MomentumState(state.step + 1, (m,))


@dataclasses.dataclass(frozen=True)
class ManyHyperparameters(Experiment):
    """The settings.

    Attributes:
      dataset: of `tasksets`.
      hidden: widths of the hidden layers.
      batch_size: images of a minibatch.
      horizon: T, inner steps of an episode.
      window: inner steps of a window.
      num_steps: outer steps, a multiple of 20.
      num_particles: both members of a pair counted.
      sigma: of the evolution strategies.
      rates: learning rates of Adam.
      num_episodes: over which meta-losses are means.
      resumable: keep what is done in the folder, to go on from when stopped.
    """

    name: ClassVar[str] = "many-hyperparameters"
    title: ClassVar[str] = "PES tunes 24 hyperparameters faster than random search"
    paper: ClassVar[str] = "arXiv 2112.13835, tuning many hyperparameters"

    seeds: tuple[int, ...] = (3, 5, 7)
    dataset: str = "digits"
    hidden: tuple[int, ...] = (16,) * 5
    batch_size: int = 32
    horizon: int = 200
    window: int = 10
    num_steps: int = 3000
    num_particles: int = 10
    sigma: float = 0.3
    rates: tuple[float, ...] = (1e-2, 3e-2)
    num_episodes: int = 4
    resumable: bool = False

    @classmethod
    def full(cls) -> "ManyHyperparameters":
        """On Fashion-MNIST, at the size of the paper: for an accelerator."""
        return cls(
            seeds=(3, 5, 7, 11),
            dataset="fashion_mnist",
            hidden=(100,) * 5,
            batch_size=100,
            horizon=1000,
            num_steps=50_000,
            rates=(3e-3, 1e-2, 3e-2),
            num_episodes=10,
            resumable=True,
        )

    def run(self, folder: Path) -> Report:
        """Descend and search at equal compute."""
        system = self.system()
        keys = jax.random.split(jax.random.key(1), self.num_episodes)
        judge = functools.partial(
            meta_losses, system, keys=keys, num_steps=self.horizon, cap=_CAP
        )
        truncation = Truncation.constant(self.horizon, self.window)
        contenders = {
            kind.__name__: Contender(
                kind(system, truncation, self.num_particles // 2, self.sigma, _CAP),
                self.num_steps,
            )
            for kind in (PES, NRES)
        }
        descents = jobs(
            contenders,
            system.optimizer.init,
            judge,
            rates=self.rates,
            seeds=self.seeds,
            records=_RECORDS,
            folder=folder / "runs" if self.resumable else None,
        )
        steps = self.num_steps // _RECORDS * np.arange(1, _RECORDS + 1)
        cost = len(self.rates) * steps * inner_steps(contenders["PES"].estimator)
        searches = {
            seed: functools.partial(self._search, system, cost, seed)
            for seed in self.seeds
        }
        done: dict[Any, Any] = concurrently(
            descents | searches | {"shared": functools.partial(self._shared, judge)}
        )
        runs: dict[str, Run] = {
            name: done[name]._replace(cost=cost) for name in descents
        }
        found = [done[seed] for seed in searches]
        found = jax.tree.map(lambda *seeds: np.stack(seeds), *found)
        runs[_SEARCH] = Run(float("nan"), cost, found, judge(found, 2))
        rate, momentum, shared = done["shared"]
        rows = [self._row(name, run, runs[_SEARCH]) for name, run in runs.items()]
        note = (
            f"The best single rate and momentum of a grid, {rate:.2g} and {momentum:.2g} "
            f"for all tensors, have a meta-loss of {shared:.3g}."
        )
        figure = self._plot(runs, shared, folder / f"{self.name}.png")
        return Report(_claims(runs), rows, [figure], [note])

    def system(self) -> InnerTraining:
        """Training the MLP; the loss is that on validation images, after the step."""
        widths = "-".join(map(str, self.hidden))
        task = tasksets.get(
            f"FixedMLP_mnist_ce_128x128x128_relu_bs128@{self.dataset}"
            f"?hidden={widths}&batch_size={self.batch_size}"
        )
        longer = 1000 / self.horizon  # a rate times the number of steps is what counts
        starts = STARTS._replace(rate=tuple(longer * rate for rate in STARTS.rate))
        return InnerTraining(task, MomentumPerTensor(self.num_tensors, starts))

    @property
    def num_tensors(self) -> int:
        """Of the MLP: a matrix and a vector for every layer."""
        return 2 * len(self.hidden) + 2

    def _search(
        self,
        system: InnerTraining,
        cost: Float[np.ndarray, "records"],
        seed: int,
    ) -> Hyperparameters:
        """The best points of a random search when it has spent as much as a descent."""
        affordable = np.maximum(cost // self.horizon, 1).astype(int)  # points
        draw = jax.vmap(lambda key: SEARCHED.draw(key, self.num_tensors))
        draw_key, *episode_keys = jax.random.split(jax.random.key(seed))
        thetas = draw(jax.random.split(draw_key, affordable[-1]))
        own = meta_losses(
            system,
            thetas,
            1,
            keys=jnp.stack(episode_keys),
            num_steps=self.horizon,
            cap=_CAP,
        )
        best = np.array([np.argmin(own[:points]) for points in affordable])
        return jax.tree.map(lambda x: np.asarray(x)[best], thetas)

    def _shared(self, judge: Callable[..., np.ndarray]) -> tuple[float, float, float]:
        """The best rate and momentum that all tensors can share, and their meta-loss."""
        rates = np.logspace(-4, 1, 16)
        momenta = np.array([0.01, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99])
        rates, momenta = (x.ravel() for x in np.meshgrid(rates, momenta))
        tensors = np.ones((1, self.num_tensors), np.float32)
        log_rate, logit_momentum = np.log(rates), np.log(momenta / (1 - momenta))
        theta = Hyperparameters(
            jnp.float32(log_rate[:, None] * tensors),
            jnp.float32(logit_momentum[:, None] * tensors),
        )
        losses = judge(theta, 1)
        best = int(np.argmin(losses))
        return float(rates[best]), float(momenta[best]), float(losses[best])

    def _row(self, name: str, run: Run, search: Run) -> dict[str, str]:
        passed = run.losses < np.median(search.losses[:, -1])
        steps = np.where(passed.any(axis=1), run.cost[passed.argmax(axis=1)], np.inf)
        return {
            "method": name,
            "best rate": "" if np.isnan(run.rate) else f"{run.rate:g}",
            "meta-loss": spread(run.losses[:, -1]),
            "lowest on the way": spread(run.losses.min(axis=1)),
            "inner steps": f"{run.cost[-1]:.3g}",
            "inner steps to pass the search": f"{np.median(steps):.3g}",
        }

    def _plot(self, runs: dict[str, Run], shared: float, path: Path) -> Path:
        fig, ax = pyplot().subplots(figsize=(7, 4.5))
        draw_curves(ax, runs, _COLORS)
        ax.axhline(shared, color="k", ls=":", label="best shared rate and momentum")
        ax.set(
            ylabel="meta-loss",
            title=f"{2 * self.num_tensors} hyperparameters, range over seeds",
        )
        ax.legend(fontsize=8)
        return save(fig, path)


def _claims(runs: dict[str, Run]) -> list[Claim]:
    search = runs[_SEARCH].losses[:, -1]

    def claim(name: str) -> Claim:
        ends = runs[name].losses[:, -1]
        text = f"{name}: beats random search at equal compute"
        measured = f"{spread(ends)} against {spread(search)}"
        return Claim(text, measured, bool(np.median(ends) < np.median(search)))

    return [claim("PES"), claim("NRES")]
