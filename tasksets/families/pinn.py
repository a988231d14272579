"""pinn: networks that solve a differential equation (Raissi et al. 2019, JCP 378).

    -u''(x) = f(x) on [0, 1],  u(0) = u(1) = 0,  f = sum_k a_k (k pi)^2 sin(k pi x)

    loss = mean_b (u''(x_b) + f(x_b))^2 / mean f^2 + c (u(0)^2 + u(1)^2) / mean u*^2

for a network u with one input and one output, at random points x_b; u* = sum_k a_k
sin(k pi x) is the solution. Differentiating twice makes the problem stiff: a wave of
frequency k weighs k^4, so that high frequencies are fitted first and the boundary last.
The data need no download and the solution is known: `metrics` has the relative error of u.

A seed decides the amplitudes, the weight of the boundary and the scale of the
initialisation; networks and activations are four, so that tasks stack. Normalisation:
linear in log(loss + 1e-8) from 1, the loss of u = 0, to the loss 0 of the solution.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets import sampling
from tasksets.activations import activation
from tasksets.dense import Layers, apply_mlp, init_mlp
from tasksets.family import Family
from tasksets.initializers import InitializerNumbers, normal_initializer
from tasksets.losg.parts import log_scale
from tasksets.task import Problem, SplitName

_SHAPES = ((16, 16), (32, 32))
_ACTIVATIONS = ("tanh", "swish")  # of second derivatives that are not zero
_MODES = 6
_CHECK_POINTS = 101  # where the error of the solution is measured


@dataclass(frozen=True)
class PinnConfig:
    """Every field of the family, with how it is sampled."""

    hidden: tuple[int, ...]  # widths of the hidden layers; (16, 16) or (32, 32)
    activation: str  # tanh or swish
    init_scale: float  # std of a weight is this / sqrt(fan_in); logU(.5, 2)
    decay: float  # a_k = normal / k^decay; U(1, 3)
    boundary_weight: float  # the c above; logU(1, 100)
    seed: int  # of the amplitudes
    batch_size: int = 64  # points x_b


def sample(seed: int) -> PinnConfig:
    """The config of `seed`."""
    rng = np.random.RandomState(seed)
    return PinnConfig(
        hidden=_SHAPES[rng.randint(len(_SHAPES))],
        activation=_ACTIVATIONS[rng.randint(len(_ACTIVATIONS))],
        init_scale=sampling.log_float(rng, 0.5, 2),
        decay=float(rng.uniform(1, 3)),
        boundary_weight=sampling.log_float(rng, 1, 100),
        seed=seed,
    )


class PinnNumbers(NamedTuple):
    """What differs between tasks of equal structure."""

    initializer: InitializerNumbers
    amplitudes: Float[Array, "*lanes modes"]  # a_k
    boundary_weight: Float[Array, "*lanes"]
    initial_loss: Float[Array, "*lanes"]  # 1
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class PinnProblem(Problem):
    """The structure of a task of this family."""

    hidden: tuple[int, ...]
    activation: str
    batch_size: int

    def init(self, numbers: PinnNumbers, key: PRNGKeyArray) -> Layers:
        sizes = (1, *self.hidden, 1)
        return init_mlp(sizes, "entrywise", numbers.initializer, key)

    def take(
        self,
        numbers: PinnNumbers,
        data: tuple[()],
        split: SplitName,
        drawn: PRNGKeyArray,
    ) -> Float[Array, "batch"]:
        """Points in [0, 1]; the four splits are one."""
        del numbers, data, split
        return jax.random.uniform(drawn, (self.batch_size,))

    def loss(
        self,
        numbers: PinnNumbers,
        params: Layers,
        batch: Float[Array, "batch"],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        # Every u depends on its own x alone, so a tangent of ones differentiates each.
        u = lambda x: self.solution(params, x)
        ones = jnp.ones_like(batch)
        slope = lambda x: jax.jvp(u, (x,), (ones,))[1]
        curvature = jax.jvp(slope, (batch,), (ones,))[1]
        waves = (np.pi * np.arange(1, _MODES + 1)) ** 2 * numbers.amplitudes
        # Summed in float32: the phases are.
        residual = curvature + jnp.sin(_phases(batch)) @ waves
        ends = u(jnp.array([0.0, 1.0], batch.dtype))
        # The mean square of a sum of sines over whole half waves.
        force, size = jnp.mean(waves**2), jnp.mean(numbers.amplitudes**2)
        boundary = numbers.boundary_weight * jnp.sum(ends**2) / (size * _MODES / 2)
        return jnp.mean(residual**2) / (force * _MODES / 2) + boundary

    def metrics(
        self,
        numbers: PinnNumbers,
        params: Layers,
        batch: Float[Array, "batch"],
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, ""]]:
        """The error of u relative to the size of the solution, in the mean square."""
        del batch, key
        x = jnp.linspace(0.0, 1.0, _CHECK_POINTS)
        exact = jnp.sin(_phases(x)) @ numbers.amplitudes
        error = jnp.sum((self.solution(params, x) - exact) ** 2)
        return {"relative_error": jnp.sqrt(error / jnp.sum(exact**2))}

    def progress(
        self, numbers: PinnNumbers, loss: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        del numbers
        return log_scale(loss)

    def solution(
        self, params: Layers, x: Float[Array, "points"]
    ) -> Float[Array, "points"]:
        """The network's u at some points."""
        return apply_mlp(params, x[:, None], activation(self.activation))[:, 0]


def _phases(x: Float[Array, "points"]) -> Float[Array, "points modes"]:
    return np.pi * x[:, None] * jnp.arange(1, _MODES + 1)


def build(config: PinnConfig) -> tuple[PinnProblem, PinnNumbers, tuple[()]]:
    """The task of a config."""
    activation(config.activation)  # a wrong name must fail here, not inside a trace
    problem = PinnProblem(config.hidden, config.activation, config.batch_size)
    normals = np.random.RandomState(config.seed + 1).normal(size=_MODES)
    numbers = PinnNumbers(
        initializer=normal_initializer(config.init_scale, per_fan_in=True),
        amplitudes=jnp.float32(normals / np.arange(1, _MODES + 1) ** config.decay),
        boundary_weight=jnp.float32(config.boundary_weight),
        initial_loss=jnp.float32(1.0),
        best_loss=jnp.float32(0.0),
    )
    return problem, numbers, ()


FAMILY = Family("pinn", sample, build)
