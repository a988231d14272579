"""mlp_ae_family: multi-layer perceptrons that reconstruct images.

    loss = mean_b reduce |out(MLP(x_b)) - x_b|^k

One of the twelve families of TaskSet (Metz et al. 2020, arXiv 2002.11887). The output
function, the norm and the reduction over pixels are sampled, beside what mlp_family
samples. A seed gives the config that it gives there. Normalisation: from the loss of
predicting out(0), which is black or grey, to 0; see `tasksets.reconstruction`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasksets import sampling
from tasksets.activations import activation_numbers
from tasksets.data import Dataset
from tasksets.families.mlp import Mlp, MlpNumbers
from tasksets.family import Family
from tasksets.initializers import initializer
from tasksets.reconstruction import (
    Reconstruction,
    ReconstructionNumbers,
    build_reconstruction,
)
from tasksets.sampling import SampledImageConfig

# The first two twice, as they are what is often used.
_OUTPUTS = ["tanh", "tanh", "sigmoid", "sigmoid", "linear_center", "linear"]
_LOSSES = ["l2", "l2", "l1"]


@dataclass(frozen=True, kw_only=True)
class MlpAeConfig(SampledImageConfig):
    """Every field of the family, with how it is sampled."""

    hidden: tuple[int, ...]  # U{1..6} layers, the width of each logint 32-128
    activation: str  # relu 6, tanh 3, and 1 each of seven others
    initializer: str  # he and glorot 2 each, and 1 each of five with a scale
    initializer_scale: float | None  # logU(.1, 10); None where there is none
    output: str  # tanh 2, sigmoid 2, linear_center, linear; 1 and 3: images in [-1, 1]
    loss: str  # l2 twice as often as l1
    reduction: str  # over pixels: mean or sum; 50/50

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        return {
            "hidden_units": list(self.hidden),
            "activation": self.activation,
            "w_init": [self.initializer, self.initializer_scale],
            "dataset": self.dataset_as_taskset(),
            "output_type": self.output,
            "loss_type": self.loss,
            "reduction_type": f"reduce_{self.reduction}",
        }


def sample(seed: int) -> MlpAeConfig:
    """The config that TaskSet samples from `seed`."""
    rng = np.random.RandomState(seed)
    num_layers = rng.choice([1, 2, 3, 4, 5, 6])
    hidden = tuple(sampling.log_int(rng, 32, 128) for _ in range(num_layers))
    activation_name = sampling.activation_name(rng)
    initializer_name, initializer_scale = sampling.initializer_name(rng)
    return MlpAeConfig(
        hidden=hidden,
        activation=activation_name,
        initializer=initializer_name,
        initializer_scale=initializer_scale,
        **sampling.image_fields(rng),
        output=str(rng.choice(_OUTPUTS)),
        loss=str(rng.choice(_LOSSES)),
        reduction=str(rng.choice(["mean", "sum"])),
    )


def build(
    config: MlpAeConfig,
) -> tuple[Reconstruction, ReconstructionNumbers, Dataset]:
    """The task of a config."""
    kind, scale = initializer(config.initializer, config.initializer_scale)
    return build_reconstruction(
        Mlp(config.hidden, kind),
        MlpNumbers(scale, activation_numbers(config.activation)),
        config,
        output=config.output,
        loss=config.loss,
        reduction=config.reduction,
    )


FAMILY = Family("mlp_ae_family", sample, build)
