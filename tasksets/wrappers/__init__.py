"""Wrappers: changes of a task that stack on any task and on each other.

A wrapper is a frozen dataclass that maps a `Task` to a `Task`. Its structure goes into
the problem and its numbers into the numbers, so wrapped tasks of equal structure stack;
a suffix of the task's name rebuilds it. `sample` draws the wrappers of VeLO (Metz et
al. 2022, "VeLO: Training Versatile Learned Optimizers by Scaling Up", arXiv 2211.09760).

    task = tasksets.get("mlp_family/seed7@digits")
    noisy = wrappers.GradientNoise(std=0.1)(wrappers.Bf16()(task))
    noisy.name  # mlp_family/seed7@digits+bf16+gradient_noise:std=0.1
    noisy = wrappers.apply(task, "+bf16+gradient_noise:std=0.1")  # the same
"""

from tasksets.wrappers.bf16 import Bf16 as Bf16
from tasksets.wrappers.es_gradient import EsGradient as EsGradient
from tasksets.wrappers.gradient_noise import GradientNoise as GradientNoise
from tasksets.wrappers.normalized_gradient import (
    NormalizedGradient as NormalizedGradient,
)
from tasksets.wrappers.reduced_batch import ReducedBatch as ReducedBatch
from tasksets.wrappers.reparametrized import Reparametrized as Reparametrized
from tasksets.wrappers.subspace_gradient import SubspaceGradient as SubspaceGradient
from tasksets.wrappers.suffix import WRAPPERS as WRAPPERS
from tasksets.wrappers.suffix import apply as apply
from tasksets.wrappers.suffix import parse as parse
from tasksets.wrappers.suffix import split as split
from tasksets.wrappers.velo import Chances as Chances
from tasksets.wrappers.velo import draw as draw
from tasksets.wrappers.velo import sample as sample
from tasksets.wrappers.wrapper import WrappedNumbers as WrappedNumbers
from tasksets.wrappers.wrapper import WrappedProblem as WrappedProblem
from tasksets.wrappers.wrapper import Wrapper as Wrapper
