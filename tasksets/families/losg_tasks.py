"""losg_tasks_family: fourteen kinds of small analytic and sampled problems.

One of the twelve families of TaskSet (Metz et al. 2020, arXiv 2002.11887), made of the
problems of Wichrowska et al. 2017 (arXiv 1703.04813); `tasksets.losg` has their
equations. A seed gives the config that it gives there, and the matrices that it gives
there. Columns and rows are vectors here. Where TaskSet is not followed:

* Data sets, and the matrices within sparse_problems, come from the config's seed. There
  they are drawn anew in every process, so that a config does not determine its task.
* The samples of the snake are bits, as in Wichrowska et al.; see `losg.samples`.
* log_objective takes the logarithm of max(f, 0): on mini-batches below 0, which
  sum_of_quadratics has, it is NaN there.

TaskSet samples gradient noise for the base of a wrapper and never applies it, nor do we;
the wrapper's own noise acts on the entries that are not set to 0. A batch is drawn with
replacement, and dependency_chain looks at none.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.random import RandomState

from tasksets import sampling
from tasksets.family import Family
from tasksets.losg.chains import dependency_chain, min_max_well
from tasksets.losg.classifiers import fully_connected, sparse_softmax_regression
from tasksets.losg.least_squares import bowl, least_squares, norm, normal_system
from tasksets.losg.parts import Built
from tasksets.losg.samples import (
    outward_snake,
    projected_quadratic,
    sum_of_quadratics,
)
from tasksets.losg.surfaces import SURFACES, surface
from tasksets.losg.wrappers import logged, noisy, rescaled, sparse
from tasksets.task import Problem

_TASKSET_NAMES = {
    "dims": "dim",
    "condition": "cond",
    "surface": "problem",
    "num_features": "n_features",
    "num_samples": "n_samples",
    "batch_size": "bs",
    "hidden": "hidden_sizes",
}


class Kind:
    """One of the fourteen: a frozen dataclass of what its problems are made from."""

    name: ClassVar[str]
    num_classes: ClassVar[int | None] = None  # of the classifiers: 2

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        """The config that TaskSet draws."""
        raise NotImplementedError

    def build(self, seed: int) -> Built:
        """The problem and its numbers; `seed` decides its matrices and samples."""
        raise NotImplementedError

    def as_taskset(self) -> list[Any]:
        """[name, {its fields}] as in TaskSet's JSON."""
        fields: dict[str, Any] = {}
        if self.num_classes is not None:
            fields["n_classes"] = self.num_classes
        for field, value in vars(self).items():
            value = value.as_taskset() if isinstance(value, Kind) else value
            value = list(value) if isinstance(value, tuple) else value
            fields[_TASKSET_NAMES.get(field, field)] = value
        return [self.name, fields]


@dataclass(frozen=True)
class Quadratic(Kind):
    """1/2 |W x - y|^2."""

    name = "quadratic"
    dims: int  # logint 10-1000
    noise_stdev: float  # of the gradient; 0 or logU(.01, 10), 50/50

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        is_noisy = sampling.with_probability(rng, 0.5)
        return cls(sampling.log_int(rng, 10, 1000), _noise_stdev(rng, is_noisy))

    def build(self, seed: int) -> Built:
        return noisy(least_squares(*normal_system(self.dims, seed)), self.noise_stdev)


@dataclass(frozen=True)
class Bowl(Kind):
    """A quadratic of two variables."""

    name = "bowl"
    condition: float  # ratio of the two curvatures; logU(.01, 100)
    angle: float  # radians; from {0, 0, pi/4, pi/3}
    noise_stdev: float  # of the gradient; 0 or logU(.01, 10), 50/50

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        is_noisy = sampling.with_probability(rng, 0.5)
        condition = sampling.log_float(rng, 0.01, 100)
        angle = float(rng.choice([0, 0, np.pi / 4, np.pi / 3]))
        return cls(condition, angle, _noise_stdev(rng, is_noisy))

    def build(self, seed: int) -> Built:
        return noisy(bowl(self.condition, self.angle), self.noise_stdev)


@dataclass(frozen=True)
class SparseSoftmaxRegression(Kind):
    """Regression on sums of embeddings."""

    name = "sparse_softmax_regression"
    num_classes = 2
    num_features: int  # of an embedding; logint 2-100
    noise_stdev: float  # of the gradient; 0 or logU(.01, 10), 50/50
    batch_size: int  # logint 1-50
    num_samples: int  # logint 1-30

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        is_noisy = sampling.with_probability(rng, 0.5)
        return cls(
            num_features=sampling.log_int(rng, 2, 100),
            noise_stdev=_noise_stdev(rng, is_noisy),
            batch_size=sampling.log_int(rng, 1, 50),
            num_samples=sampling.log_int(rng, 1, 30),
        )

    def build(self, seed: int) -> Built:
        problem = sparse_softmax_regression(
            self.num_features, self.batch_size, self.num_samples, seed
        )
        return noisy(problem, self.noise_stdev)


@dataclass(frozen=True)
class Surface(Kind):
    """A test function of two variables."""

    name = "optimization_test_problems"
    surface: str  # uniform over the eight of `losg.surfaces`
    noise_stdev: float  # of the gradient; 0 or logU(.01, 10), 50/50

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        is_noisy = sampling.with_probability(rng, 0.5)
        chosen = str(rng.choice(sorted(SURFACES)))
        return cls(chosen, _noise_stdev(rng, is_noisy))

    def build(self, seed: int) -> Built:
        return noisy(surface(self.surface), self.noise_stdev)


@dataclass(frozen=True)
class FullyConnected(Kind):
    """A multi-layer perceptron that learns the sign of another."""

    name = "fully_connected"
    num_classes = 2
    num_features: int  # logint 1-16
    activation: str  # relu 6, tanh 3, and 1 each of seven others
    batch_size: int  # logint 1-200
    num_samples: int  # logint 1-30
    hidden: tuple[int, ...]  # U{2..5} layers, one width or each its own; logint 4-32

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        num_layers = int(rng.choice([2, 3, 4, 5]))
        one_width = sampling.with_probability(rng, 0.5)
        width = lambda: sampling.log_int(rng, 4, 32)
        return cls(
            num_features=sampling.log_int(rng, 1, 16),
            activation=sampling.activation_name(rng),
            batch_size=sampling.log_int(rng, 1, 200),
            num_samples=sampling.log_int(rng, 1, 30),
            hidden=(width(),) * num_layers
            if one_width
            else tuple(width() for _ in range(num_layers)),
        )

    def build(self, seed: int) -> Built:
        return fully_connected(
            self.num_features,
            self.hidden,
            self.activation,
            self.batch_size,
            self.num_samples,
            seed,
        )


@dataclass(frozen=True)
class Norm(Kind):
    """The p-norm of a residual W x - y."""

    name = "norm"
    dims: int  # logint 3-1000
    norm_power: float  # U(.1, 5)

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        return cls(sampling.log_int(rng, 3, 1000), rng.uniform(0.1, 5.0))

    def build(self, seed: int) -> Built:
        return norm(self.dims, self.norm_power, seed)


@dataclass(frozen=True)
class MinMaxWell(Kind):
    """A well whose only gradients are those of the least and the largest |x_i|."""

    name = "min_max_well"
    dims: int  # logint 10-1000
    noise_stdev: float  # of the gradient; 0 or logU(.01, 10), 50/50

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        is_noisy = sampling.with_probability(rng, 0.5)
        return cls(sampling.log_int(rng, 10, 1000), _noise_stdev(rng, is_noisy))

    def build(self, seed: int) -> Built:
        return noisy(min_max_well(self.dims), self.noise_stdev)


@dataclass(frozen=True)
class _WithSamples(Kind):
    dims: int  # logint 3-100
    batch_size: int  # logint 1-200
    num_samples: int  # logint 100-20000

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        return cls(
            dims=sampling.log_int(rng, 3, 100),
            batch_size=sampling.log_int(rng, 1, 200),
            num_samples=sampling.log_int(rng, 100, 20000),
        )


@dataclass(frozen=True)
class DependencyChain(_WithSamples):
    """A chain whose parameters go to zero one after the other; it looks at no sample."""

    name = "dependency_chain"

    def build(self, seed: int) -> Built:
        return dependency_chain(self.dims)


@dataclass(frozen=True)
class OutwardSnake(_WithSamples):
    """A winding path out to infinity."""

    name = "outward_snake"

    def build(self, seed: int) -> Built:
        return outward_snake(self.dims, self.batch_size, self.num_samples, seed)


@dataclass(frozen=True)
class SumOfQuadratics(_WithSamples):
    """Unit bowls around the samples."""

    name = "sum_of_quadratics"

    def build(self, seed: int) -> Built:
        return sum_of_quadratics(self.dims, self.batch_size, self.num_samples, seed)


@dataclass(frozen=True)
class ProjectionQuadratic(_WithSamples):
    """Bowls around zero that the samples stretch."""

    name = "projection_quadratic"

    def build(self, seed: int) -> Built:
        return projected_quadratic(self.dims, self.batch_size, self.num_samples, seed)


@dataclass(frozen=True)
class SparseGradient(Kind):
    """A base whose gradient is mostly zero."""

    name = "sparse_problems"
    base: Kind  # uniform over _BASES
    zero_probability: float  # U(.9, .99)
    noise_stdev: float  # of the gradient that is left; 0 or logU(.01, 10), 50/50

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        is_noisy = sampling.with_probability(rng, 0.5)
        base = _sample_base(rng)
        return cls(base, rng.uniform(0.9, 0.99), _noise_stdev(rng, is_noisy))

    def build(self, seed: int) -> Built:
        base = _quiet(self.base).build(seed)
        return sparse(noisy(base, self.noise_stdev), self.zero_probability)


@dataclass(frozen=True)
class Rescale(Kind):
    """A base with its parameters in other units."""

    name = "rescale_problems"
    base: Kind  # uniform over _BASES
    scale: float  # logU(.001, 1000)

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        return cls(_sample_base(rng), sampling.log_float(rng, 0.001, 1000))

    def build(self, seed: int) -> Built:
        return rescaled(_quiet(self.base).build(seed), self.scale)


@dataclass(frozen=True)
class LogObjective(Kind):
    """The logarithm of a base."""

    name = "log_objective"
    base: Kind  # uniform over _BASES

    @classmethod
    def sample(cls, rng: RandomState) -> Self:
        return cls(_sample_base(rng))

    def build(self, seed: int) -> Built:
        return logged(_quiet(self.base).build(seed))


# The order decides which one a draw means.
_BASES = (
    Quadratic,
    Bowl,
    Surface,
    FullyConnected,
    Norm,
    DependencyChain,
    OutwardSnake,
    MinMaxWell,
    SumOfQuadratics,
    ProjectionQuadratic,
)
_KINDS = {
    kind.name: kind
    for kind in (
        *_BASES,
        SparseSoftmaxRegression,
        SparseGradient,
        Rescale,
        LogObjective,
    )
}


@dataclass(frozen=True)
class LosgConfig:
    """Every field of the family, with how it is sampled."""

    problem: Kind  # uniform over the fourteen
    seed: int  # of matrices, samples and labels; U{0..99999}

    def as_taskset(self) -> list[Any]:
        """This config in the form of TaskSet's JSON."""
        return [*self.problem.as_taskset(), self.seed]


def sample(seed: int) -> LosgConfig:
    """The config that TaskSet samples from `seed`."""
    rng = np.random.RandomState(seed)
    kind = _KINDS[str(rng.choice(sorted(_KINDS)))]
    problem = kind.sample(rng)
    return LosgConfig(problem, seed=int(rng.uniform(0, 100000)))


def _noise_stdev(rng: RandomState, is_noisy: bool) -> float:
    return sampling.log_float(rng, 0.01, 10) if is_noisy else 0.0


def _sample_base(rng: RandomState) -> Kind:
    names = [kind.name for kind in _BASES]
    return _KINDS[str(rng.choice(names))].sample(rng)


def _quiet(kind: Kind) -> Kind:
    """Without the gradient noise that no wrapper applies."""
    if not hasattr(kind, "noise_stdev"):
        return kind
    return dataclasses.replace(kind, noise_stdev=0.0)  # pyright: ignore


def build(config: LosgConfig) -> tuple[Problem, Any, tuple[()]]:
    """The task of a config."""
    problem, numbers = config.problem.build(config.seed)
    return problem, numbers, ()


FAMILY = Family("losg_tasks_family", sample, build)
