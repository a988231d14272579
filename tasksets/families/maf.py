"""maf_family: masked autoregressive flows fitted to images.

    loss = mean_b -log p(x_b + noise),    p = flow of Papamakarios et al. 2017

One of the twelve families of TaskSet (Metz et al. 2020, "Using a thousand optimization
tasks to learn hyperparameter search strategies", arXiv 2002.11887). A seed gives the
config that it gives there. Normalisation: see flows.py.

Three things differ from TaskSet's code, so that these are flows at all:

* Its masks need hidden layers that are at least as wide as there are pixels. All of
  the sampled ones are narrower, and there the masks after the first layer are zero: the
  network's initial output is only its bias. Here the masks are MADE's for any width.
* Its masks act on the initial weights, and its optimizers do not apply them again.
  After a step the loss is no -log density, and has no bound. Here they always act.
* Its permutations come from an unseeded generator, new in every process. Here they are
  those of nvp_family.
"""

import numpy as np

from tasksets.autoregressive import MaskedAutoregressive
from tasksets.data import Dataset
from tasksets.family import Family
from tasksets.flows import (
    DensityEstimation,
    DensityNumbers,
    FlowConfig,
    bijector_numbers,
    build_density_estimation,
    flow_config,
)


def sample(seed: int) -> FlowConfig:
    """The config that TaskSet samples from `seed`."""
    return flow_config(np.random.RandomState(seed + 6123348))


def build(config: FlowConfig) -> tuple[DensityEstimation, DensityNumbers, Dataset]:
    """The task of a config."""
    kind, numbers = bijector_numbers(config)
    bijector = MaskedAutoregressive(config.hidden, kind)
    return build_density_estimation(bijector, numbers, config)


FAMILY = Family("maf_family", sample, build)
