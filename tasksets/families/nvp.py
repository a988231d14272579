"""nvp_family: Real NVP fitted to images.

    loss = mean_b -log p(x_b + noise),    p = flow of affine couplings (Dinh et al. 2017)

One of the twelve families of TaskSet (Metz et al. 2020, "Using a thousand optimization
tasks to learn hyperparameter search strategies", arXiv 2002.11887). A seed gives the
config that it gives there. Normalisation: see flows.py. A single coupling leaves half
of the pixels as they are, n couplings about 2^-n; no training changes their share of
the loss. The log scale has no bound, as in TaskSet: several relu couplings with a wide
initializer start at an infinite loss.
"""

import numpy as np

from tasksets.coupling import AffineCoupling
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
    return flow_config(np.random.RandomState(seed + 123919936))


def build(config: FlowConfig) -> tuple[DensityEstimation, DensityNumbers, Dataset]:
    """The task of a config."""
    kind, numbers = bijector_numbers(config)
    bijector = AffineCoupling(config.hidden, kind)
    return build_density_estimation(bijector, numbers, config)


FAMILY = Family("nvp_family", sample, build)
