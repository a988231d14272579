"""The augmentations of VeLO: random wrappers for a task.

Each wrapper is there with a chance of its own, innermost first: reparametrisation, an
estimated gradient, smaller batches, bfloat16, a normalised gradient, a gradient seen
along random directions (Metz et al. 2022, arXiv 2211.09760; chances and laws from the
distribution of its first two phases). VeLO's stale gradients are none of a task's
business, whose loss knows no history; they wrap an optimizer where the two meet.
"""

import hashlib
from dataclasses import dataclass

import numpy as np

from tasksets import sampling
from tasksets.task import Task
from tasksets.wrappers.bf16 import Bf16
from tasksets.wrappers.es_gradient import EsGradient
from tasksets.wrappers.gradient_noise import GradientNoise
from tasksets.wrappers.normalized_gradient import NormalizedGradient
from tasksets.wrappers.reduced_batch import ReducedBatch, whole_batch_size
from tasksets.wrappers.reparametrized import LEVELS, Reparametrized
from tasksets.wrappers.subspace_gradient import SubspaceGradient
from tasksets.wrappers.wrapper import Wrapper

_LEVEL_WEIGHTS = {"global": 2, "tensor": 2, "parameter": 1}


@dataclass(frozen=True)
class Chances:
    """The probability of each wrapper; the defaults are VeLO's."""

    reparametrized: float = 5 / 7  # levels 2:2:1; s in (1/r, r), r of 10, 100, 1000
    es_gradient: float = 0.08  # std logU(.001, .1), pairs of 1, 2, 4, 8, 16
    reduced_batch: float = (
        0.2  # fraction U(.01, 1); never where a batch is not of examples
    )
    bf16: float = 0.2
    normalized_gradient: float = 0.05
    subspace_gradient: float = 0.08  # directions logint 1-1024, sign 50/50
    gradient_noise: float = 0.0  # std logU(1e-4, 1); not in VeLO


VELO = Chances()


def sample(task: Task, seed: int, chances: Chances = VELO) -> Task:
    """The task in the wrappers that (its name, seed) draw; maybe the task itself."""
    for wrapper in draw(task, seed, chances):
        task = wrapper(task)
    return task


def draw(task: Task, seed: int, chances: Chances = VELO) -> tuple[Wrapper, ...]:
    """The wrappers for a task, innermost first: a function of its name and the seed."""
    if not task.name:
        raise ValueError(f"{task!r} has no name, which decides the draw with the seed")
    rng = _random_state(task.name, seed)
    happens = lambda chance: bool(rng.uniform() < chance)
    wrappers: list[Wrapper] = []
    if happens(chances.reparametrized):
        weights = np.array([_LEVEL_WEIGHTS[level] for level in LEVELS])
        level = str(rng.choice(LEVELS, p=weights / weights.sum()))
        ratio = float(rng.choice([10, 100, 1000]))
        scales_seed = int(rng.randint(0, 2**32, dtype=np.uint32))
        wrappers.append(Reparametrized(level, 1 / ratio, ratio, scales_seed))
    if happens(chances.es_gradient):
        std = sampling.log_float(rng, 0.001, 0.1)
        wrappers.append(EsGradient(std, pairs=int(rng.choice([1, 2, 4, 8, 16]))))
    if happens(chances.reduced_batch):
        reduced = ReducedBatch(float(rng.uniform(0.01, 1.0)))
        if _can_be_reduced(task):
            wrappers.append(reduced)
    if happens(chances.bf16):
        wrappers.append(Bf16())
    if happens(chances.normalized_gradient):
        wrappers.append(NormalizedGradient())
    if happens(chances.subspace_gradient):
        directions = sampling.log_int(rng, 1, 1024)
        wrappers.append(SubspaceGradient(directions, sign=bool(rng.randint(2))))
    if happens(chances.gradient_noise):
        wrappers.append(GradientNoise(sampling.log_float(rng, 1e-4, 1.0)))
    return tuple(wrappers)


def _random_state(name: str, seed: int) -> np.random.RandomState:
    digest = hashlib.blake2b(f"{seed} {name}".encode(), digest_size=16).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4"))


def _can_be_reduced(task: Task) -> bool:
    try:
        whole_batch_size(task)
    except ValueError:  # it has no batch, or none of examples, as lopt_pes
        return False
    return True
