"""lopt_pes: training a learned optimizer, as a task for another optimizer.

    loss(theta) = mean over the steps of an episode of the outer loss (`InnerTraining`)

The parameters of the task are the meta-parameters of an optimizer, and the gradient of
the task is not the derivative of its loss but the PES estimate (Vicol et al. 2021, arXiv
2112.13835) of the gradient of the meta-loss, as in the learned-optimizer tasks of VeLO
(Metz et al. 2022, arXiv 2211.09760). Every call unrolls whole episodes, window by
window, from fresh inner problems, because a loss is a pure function that remembers
nothing; so the estimate has no truncation bias and costs `horizon` inner steps for each
of 2 `num_pairs` particles. Normalisation: 1 where the inner loss stays at its start,
best 0.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

import learned_opt
import tasksets
from learned_opt import LearnedOptimizer
from meta_train.estimators.pes import PES
from meta_train.inner_training import InnerTraining
from meta_train.system import Theta
from meta_train.truncation import Truncation
from tasksets import Family, Problem, Task
from tasksets.task import SplitName

_NAME = "lopt_pes"
_OPTIMIZERS = ("adam", "momentum", "nadamw", "per_parameter_mlp", "scale_free")


@dataclasses.dataclass(frozen=True)
class LoptPesConfig:
    """Every field of the family, with how it is sampled."""

    optimizer: str  # whose theta is trained; uniform over five
    task: str  # what it trains; small_mlp on digits, seed U{0..9999} of those allowed
    window: int  # inner steps between perturbations; round(logU(5, 20))
    num_windows: int  # of an episode; U{1..5}
    num_pairs: int  # antithetic pairs; 1, 2 or 4
    sigma: float  # of the perturbations; logU(.003, .03)


def sample(seed: int) -> LoptPesConfig:
    """The config of `seed`; where that is for training, its inner task is too."""
    rng = np.random.RandomState(seed)
    config = LoptPesConfig(
        optimizer=str(rng.choice(_OPTIMIZERS)),
        task=_inner_task(rng),
        window=round(np.exp(rng.uniform(np.log(5), np.log(20)))),
        num_windows=int(rng.randint(1, 6)),
        num_pairs=int(rng.choice([1, 2, 4])),
        sigma=float(np.exp(rng.uniform(np.log(0.003), np.log(0.03)))),
    )
    if tasksets.split_of(f"{_NAME}/seed{seed}") == "train":
        while tasksets.split_of(config.task) == "test":
            config = dataclasses.replace(config, task=_inner_task(rng))
    return config


def _inner_task(rng: np.random.RandomState) -> str:
    return f"small_mlp/seed{rng.randint(10000)}@digits"


class LoptPesNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    inner: Any  # the inner task's
    initial_loss: Float[Array, "*lanes"]  # 1: the inner loss stays at its start
    best_loss: Float[Array, "*lanes"]  # 0


@dataclasses.dataclass(frozen=True)
class LoptPesProblem(Problem):
    """The structure of a task of this family; its data are the inner task's."""

    inner: Problem
    optimizer: LearnedOptimizer
    truncation: Truncation
    num_pairs: int
    sigma: float

    def init(self, numbers: LoptPesNumbers, key: PRNGKeyArray) -> Theta:
        return self.optimizer.init(key)

    def one_split(self, data: PyTree) -> bool:
        return True

    def take(
        self, numbers: LoptPesNumbers, data: PyTree, split: SplitName, drawn: Any
    ) -> Task:
        """The inner task; each episode draws its own batches."""
        del split, drawn
        return Task(self.inner, numbers.inner, data)

    def loss(
        self, numbers: LoptPesNumbers, params: Theta, batch: Task, key: PRNGKeyArray
    ) -> Float[Array, ""]:
        """The mean meta-loss of the particles; differentiates to the PES estimate.

        NaN where a particle diverged, whose losses the estimate leaves out: a theta that
        lets training diverge must not look like a good one.
        """
        theta = jax.tree.map(jax.lax.stop_gradient, params)
        system = InnerTraining(batch, self.optimizer)
        estimator = PES(system, self.truncation, self.num_pairs, self.sigma)
        init_key, *window_keys = jax.random.split(key, 1 + self.truncation.max_windows)

        def window(state: Any, key: PRNGKeyArray) -> tuple[Any, Any]:
            estimate, state = estimator.estimate(theta, state, key)
            diverged = estimate.metrics["guarded"] > 0
            return state, (jnp.where(diverged, jnp.nan, estimate.loss), estimate.grad)

        state = estimator.init(theta, init_key)
        _, (losses, grads) = jax.lax.scan(window, state, jnp.stack(window_keys))
        grad = jax.tree.map(lambda g: jnp.mean(g, axis=0), grads)
        # Adds nothing but the gradient.
        moved = jax.tree.map(lambda g, p, t: jnp.sum(g * (p - t)), grad, params, theta)
        return jnp.mean(losses) + sum(jax.tree.leaves(moved))


def build(config: LoptPesConfig) -> tuple[LoptPesProblem, LoptPesNumbers, PyTree]:
    """The task of a config; the inner task's data must be there."""
    inner = tasksets.get(config.task)
    horizon = config.window * config.num_windows
    problem = LoptPesProblem(
        inner=inner.problem,
        optimizer=learned_opt.get(config.optimizer)(),
        truncation=Truncation.constant(horizon, config.window, stagger=False),
        num_pairs=config.num_pairs,
        sigma=config.sigma,
    )
    numbers = LoptPesNumbers(inner.numbers, jnp.float32(1), jnp.float32(0))
    return problem, numbers, inner.data


FAMILY = Family(_NAME, sample, build)
tasksets.register(FAMILY)
