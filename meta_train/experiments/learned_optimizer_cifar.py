"""Meta-training a learned optimizer: truncation makes it greedy, and worse in the end.

    p_t = p_{t-1} + rule(theta; g_t, momenta, ...),    meta-loss = mean_{t <= T} loss(p_t)

The rule is a small network that sees one parameter at a time; its weights are theta.
Estimators differ in what they see of an episode of T steps, a window at a time: TBPTT and
truncated ES ask what a window gains from where it starts, PES and NRES what the episode
gains. All are judged by unrolling whole episodes under the thetas that they went through;
the loss is that of an MLP on its training minibatches, in units of log 10.

Vicol, Metz & Sohl-Dickstein 2021 (arXiv 2112.13835) meta-train an optimizer of an MLP with
two hidden layers of 128 on CIFAR-10; settings near theirs are in Vicol 2023 (arXiv
2304.11153, section 4.4): the per-parameter MLP of Metz et al. 2019, windows of 10, the mean
training loss, staggered particles; sigma .01, Adam. The full size has these and T = 1000.
The small version has the 8 x 8 digits, one hidden layer of 8, T = 100, windows of 5, and
the rule `ScaleFree`: the variance of evolution strategies grows with the number of
meta-parameters, of which it has 226 to the per-parameter MLP's 1,762, so that minutes show
bias, not noise. (With T = 200 and windows of 10 they do not: there truncated ES is less
biased, and ahead of a PES that has not converged, NRES ahead of both.)

Criterion, each estimator at its best learning rate out of the same grid, from initial thetas
that differ by seed: the final meta-losses of truncated ES and of TBPTT have a larger median
over seeds than those of PES, and than those of NRES. Beside them: the rule as it starts,
and Adam at the best of 14 learning rates for this very meta-loss.
"""

import dataclasses
import functools
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

import learned_opt
import tasksets
from learned_opt import Adam, LearnedOptimizer
from meta_train.estimators import NRES, PES, TBPTT, TruncatedES
from meta_train.evaluate import LEARNING_RATES
from meta_train.experiments.contest import (
    Contender,
    Run,
    draw_curves,
    jobs,
    meta_losses,
)
from meta_train.experiments.descent import concurrently
from meta_train.experiments.experiment import Claim, Experiment, Report, spread
from meta_train.inner_training import InnerTraining
from meta_train.plots import pyplot, save
from meta_train.truncation import Truncation

_CAP = 1.5  # of losses, in units of the initial one: for estimators and judge alike
_COLORS = {
    "PES": "#c2410c",
    "NRES": "#1d4ed8",
    "truncated ES": "#888888",
    "TBPTT": "#222222",
}


@dataclasses.dataclass(frozen=True)
class LearnedOptimizerCifar(Experiment):
    """The settings.

    Attributes:
      optimizer: whose theta is trained, a name of `learned_opt`.
      dataset: of `tasksets`.
      hidden: widths of the hidden layers.
      batch_size: images of a minibatch.
      horizon: T, inner steps of an episode.
      window: inner steps of a window.
      num_steps: outer steps, a multiple of 15.
      num_particles: of the evolution strategies, both members of a pair counted.
      num_lanes: episodes of TBPTT at once.
      sigma: of the evolution strategies.
      rates: learning rates of Adam, the outer optimizer.
      num_episodes: over which meta-losses are means.
      resumable: keep what is done in the folder, to go on from when stopped.
    """

    name: ClassVar[str] = "learned-optimizer-cifar"
    title: ClassVar[str] = "Truncated estimators end with worse learned optimizers"
    paper: ClassVar[str] = "arXiv 2112.13835, learned optimizer; arXiv 2304.11153, 4.4"

    seeds: tuple[int, ...] = tuple(range(5))
    optimizer: str = "scale_free"
    dataset: str = "digits"
    hidden: tuple[int, ...] = (8,)
    batch_size: int = 16
    horizon: int = 100
    window: int = 5
    num_steps: int = 2400
    num_particles: int = 16
    num_lanes: int = 1
    sigma: float = 0.01
    rates: tuple[float, ...] = (1e-3, 2e-3)
    num_episodes: int = 8
    resumable: bool = False

    @classmethod
    def full(cls) -> "LearnedOptimizerCifar":
        """On CIFAR-10, with the rule of the literature: for an accelerator, for long."""
        return cls(
            optimizer="per_parameter_mlp",
            dataset="cifar10",
            hidden=(128, 128),
            batch_size=128,
            horizon=1000,
            window=10,
            num_steps=15_000,
            num_particles=32,
            num_lanes=4,
            rates=(3e-4, 1e-3, 3e-3),
            resumable=True,
        )

    def run(self, folder: Path) -> Report:
        """Meta-train with every estimator, and judge at the full horizon."""
        rule = learned_opt.get(self.optimizer)()
        runs = concurrently(
            jobs(
                self.contenders(),
                rule.init,
                functools.partial(self._judge, rule),
                rates=self.rates,
                seeds=self.seeds,
                records=15,
                folder=folder / "runs" if self.resumable else None,
            )
        )
        starts = jax.vmap(lambda seed: rule.init(jax.random.key(seed)))
        untrained = self._judge(rule, starts(jnp.array(self.seeds)), 1)
        rates = jnp.log(jnp.array(LEARNING_RATES, jnp.float32))
        adam = jax.vmap(
            lambda rate: Adam().init(jax.random.key(0))._replace(log_learning_rate=rate)
        )(rates)
        tuned = self._judge(Adam(), adam, 1)
        baselines = {
            "untrained rule": untrained,
            f"Adam at {LEARNING_RATES[int(np.argmin(tuned))]:.2g}": tuned.min(
                keepdims=True
            ),
        }
        rows = [
            {
                "estimator": name,
                "best rate": f"{run.rate:g}",
                "meta-loss": spread(run.losses[:, -1]),
                "lowest on the way": spread(run.losses.min(axis=1)),
                "inner steps": f"{run.cost[-1]:.3g}",
            }
            for name, run in runs.items()
        ]
        rows += [
            {
                "estimator": name,
                "best rate": "",
                "meta-loss": spread(losses),
                "lowest on the way": "",
                "inner steps": "",
            }
            for name, losses in baselines.items()
        ]
        figure = self._plot(runs, baselines, folder / f"{self.name}.png")
        return Report(_claims(runs), rows, [figure])

    def system(self, optimizer: LearnedOptimizer) -> InnerTraining:
        """Training the MLP with an optimizer; the loss is that on the minibatch."""
        widths = "-".join(map(str, self.hidden))
        task = tasksets.get(
            f"FixedMLP_cifar10_ce_128x128x128_relu_bs128@{self.dataset}"
            f"?hidden={widths}&batch_size={self.batch_size}"
        )
        return InnerTraining(task, optimizer, train_weight=1.0)

    def contenders(self) -> dict[str, Contender]:
        """By name, the slowest first."""
        system = self.system(learned_opt.get(self.optimizer)())
        truncation = Truncation.constant(self.horizon, self.window)
        pairs = self.num_particles // 2
        estimators = {
            "TBPTT": TBPTT(system, truncation, self.num_lanes, _CAP),
            "truncated ES": TruncatedES(system, truncation, pairs, self.sigma, _CAP),
            "PES": PES(system, truncation, pairs, self.sigma, _CAP),
            "NRES": NRES(system, truncation, pairs, self.sigma, _CAP),
        }
        return {name: Contender(e, self.num_steps) for name, e in estimators.items()}

    def _judge(self, optimizer: LearnedOptimizer, thetas, axes: int) -> np.ndarray:
        keys = jax.random.split(jax.random.key(1), self.num_episodes)
        system = self.system(optimizer)
        return meta_losses(
            system, thetas, axes, keys=keys, num_steps=self.horizon, cap=_CAP
        )

    def _plot(
        self, runs: dict[str, Run], baselines: dict[str, np.ndarray], path: Path
    ) -> Path:
        fig, ax = pyplot().subplots(figsize=(7, 4.5))
        draw_curves(ax, runs, _COLORS)
        for (name, losses), style in zip(baselines.items(), ("--", ":"), strict=True):
            ax.axhline(np.median(losses), color="#999999", ls=style, label=name)
        ax.set(
            ylabel=f"meta-loss over {self.horizon} steps",
            xscale="log",
            title=f"Meta-training {self.optimizer}, windows of {self.window}",
        )
        ax.legend(fontsize=8)
        return save(fig, path)


def _claims(runs: dict[str, Run]) -> list[Claim]:
    def claim(truncated: str, other: str) -> Claim:
        ends, others = runs[truncated].losses[:, -1], runs[other].losses[:, -1]
        text = f"{truncated}: ends with a worse optimizer than {other}"
        measured = f"meta-loss {spread(ends)} against {spread(others)}"
        return Claim(text, measured, bool(np.median(ends) > np.median(others)))

    return [claim(t, o) for t in ("truncated ES", "TBPTT") for o in ("PES", "NRES")]
