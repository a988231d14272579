"""mlp_vae_family: variational autoencoders whose coders are multi-layer perceptrons.

    loss = mean_b  KL(q(z | x_b) | N(0, I)) - log p(x_b | z),    z ~ q(z | x_b)

One of the twelve families of TaskSet (Metz et al. 2020, arXiv 2002.11887); the maths is
in `tasksets.variational`. A seed gives the config that it gives there. Normalisation:
from q = N(0, I) and p = N(0, 1) to an exact knowledge of every pixel.
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
from tasksets.sampling import SampledImageConfig
from tasksets.variational import (
    CoderNumbers,
    Variational,
    VariationalNumbers,
    build_variational,
)


@dataclass(frozen=True, kw_only=True)
class MlpVaeConfig(SampledImageConfig):
    """Every field of the family, with how it is sampled."""

    encoder: tuple[int, ...]  # U{1..4} layers, logint 32-128; the last: the latents
    decoder: tuple[int, ...]  # U{1..3} layers, the width of each logint 32-128
    activation: str  # relu 6, tanh 3, and 1 each of seven others
    initializer: str  # he and glorot 2 each, and 1 each of five with a scale
    initializer_scale: float | None  # logU(.1, 10); None where there is none
    center: bool = False  # images to [-1, 1]; the fixed tasks have it, no sampled one

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        return {
            "enc_hidden_units": list(self.encoder),
            "dec_hidden_units": list(self.decoder),
            "activation": self.activation,
            "w_init": [self.initializer, self.initializer_scale],
            "dataset": self.dataset_as_taskset(),
        }


def sample(seed: int) -> MlpVaeConfig:
    """The config that TaskSet samples from `seed`."""
    rng = np.random.RandomState(seed)
    encoder_layers = rng.choice([1, 2, 3, 4])
    encoder = tuple(sampling.log_int(rng, 32, 128) for _ in range(encoder_layers))
    decoder_layers = rng.choice([1, 2, 3])
    decoder = tuple(sampling.log_int(rng, 32, 128) for _ in range(decoder_layers))
    activation_name = sampling.activation_name(rng)
    initializer_name, initializer_scale = sampling.initializer_name(rng)
    return MlpVaeConfig(
        encoder=encoder,
        decoder=decoder,
        activation=activation_name,
        initializer=initializer_name,
        initializer_scale=initializer_scale,
        **sampling.image_fields(rng),
    )


def build(config: MlpVaeConfig) -> tuple[Variational, VariationalNumbers, Dataset]:
    """The task of a config."""
    if not config.encoder:
        raise ValueError("the encoder has at least one width: the number of latents")
    *encoder, latents = config.encoder
    kind, scale = initializer(config.initializer, config.initializer_scale)
    numbers = MlpNumbers(scale, activation_numbers(config.activation))
    return build_variational(
        Mlp(tuple(encoder), kind),
        Mlp(config.decoder, kind),
        CoderNumbers(encoder=numbers, decoder=numbers),
        config,
        latents=latents,
        center=config.center,
    )


FAMILY = Family("mlp_vae_family", sample, build)
