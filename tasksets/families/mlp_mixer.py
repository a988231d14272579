"""mlp_mixer: images classified by MLPs over patches and over channels in turn.

    x <- x + mlp_tokens(norm(x)^T)^T,    x <- x + mlp_channels(norm(x))

(Tolstikhin et al. 2021, "MLP-Mixer: an all-MLP architecture for vision", arXiv
2105.01601.) The first layer is a linear map of patches, the last one of the mean over
patches. Ranges are those of `vit`, with a width in place of heads. Normalisation:
initial loss log(classes), best loss that of smoothed labels.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tasksets import sampling
from tasksets.activations import ActivationNumbers, activate
from tasksets.classification import ClassificationNumbers
from tasksets.data import Dataset
from tasksets.family import Family
from tasksets.label_smoothing import (
    SmoothedClassification,
    build_smoothed_classification,
)
from tasksets.patches import num_patches, patches
from tasksets.variation import (
    ENTRY_FLOPS,
    IMAGE_SHAPES,
    VariedImageConfig,
    draw_affordable,
    generators,
    image_numbers,
    image_structure,
)


@dataclass(frozen=True, kw_only=True)
class MlpMixerConfig(VariedImageConfig):
    """Every field of the family, with how it is sampled."""

    patch: int  # pixels in height and width; from {2, 4, 8, 12, 16}
    layers: int  # logint 1-16
    width: int  # channels of a patch; logint 16-512
    token_mlp_width: int  # logint 16-256
    channel_mlp_width: int  # logint 32-512


def sample(seed: int) -> MlpMixerConfig:
    """The config of `seed`; its structure is that of seed % 32."""
    of_structure, of_numbers = generators("mlp_mixer", seed)
    structure = draw_affordable(_draw_structure, step_flops, of_structure)
    return MlpMixerConfig(**structure, **image_numbers(of_numbers))


def _draw_structure(rng: np.random.RandomState) -> dict[str, Any]:
    return {
        **image_structure(rng),
        "patch": int(rng.choice([2, 4, 8, 12, 16])),
        "layers": sampling.log_int(rng, 1, 16),
        "width": sampling.log_int(rng, 16, 512),
        "token_mlp_width": sampling.log_int(rng, 16, 256),
        "channel_mlp_width": sampling.log_int(rng, 32, 512),
    }


def step_flops(structure: dict[str, Any]) -> int:
    """Of a training step; backward is twice forward."""
    shape = IMAGE_SHAPES[structure["dataset"]]
    tokens, width = num_patches(shape, structure["patch"]), structure["width"]
    hidden = structure["token_mlp_width"] + structure["channel_mlp_width"]
    embedding = 2 * tokens * structure["patch"] ** 2 * shape[-1] * width
    entries = structure["token_mlp_width"] * width
    entries += structure["channel_mlp_width"] * tokens + 2 * width * tokens
    layer = 4 * tokens * width * hidden + ENTRY_FLOPS * entries
    return 3 * structure["batch_size"] * (embedding + structure["layers"] * layer)


class MlpMixer(nn.Module):
    """The network of a config."""

    patch: int
    layers: int
    width: int
    token_mlp_width: int
    channel_mlp_width: int
    num_classes: int

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        activation: ActivationNumbers,
    ) -> Float[Array, "batch classes"]:
        x = nn.Dense(self.width, name="patch_embedding")(patches(images, self.patch))
        for i in range(self.layers):
            layer = MixerLayer(
                self.token_mlp_width, self.channel_mlp_width, name=f"layer_{i}"
            )
            x = layer(x, activation)
        pooled = jnp.mean(nn.LayerNorm(name="norm")(x), axis=1)
        return nn.Dense(self.num_classes, name="head")(pooled)


class MixerLayer(nn.Module):
    """An MLP over tokens and one over channels, each added to what it reads."""

    token_mlp_width: int
    channel_mlp_width: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], activation: ActivationNumbers
    ) -> Float[Array, "batch tokens width"]:
        normed = nn.LayerNorm(name="token_norm")(x).swapaxes(1, 2)
        token_mlp = MixerMlp(self.token_mlp_width, name="token_mlp")
        x = x + token_mlp(normed, activation).swapaxes(1, 2)
        normed = nn.LayerNorm(name="channel_norm")(x)
        channel_mlp = MixerMlp(self.channel_mlp_width, name="channel_mlp")
        return x + channel_mlp(normed, activation)


class MixerMlp(nn.Module):
    """W_2 act(W_1 x) over the last axis, whose length stays."""

    hidden_width: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch width"], activation: ActivationNumbers
    ) -> Float[Array, "*batch width"]:
        hidden = activate(activation, nn.Dense(self.hidden_width, name="in")(x))
        return nn.Dense(x.shape[-1], name="out")(hidden)


def build(
    config: MlpMixerConfig,
) -> tuple[SmoothedClassification, ClassificationNumbers, Dataset]:
    """The task of a config."""
    module = partial(
        MlpMixer,
        config.patch,
        config.layers,
        config.width,
        config.token_mlp_width,
        config.channel_mlp_width,
    )
    return build_smoothed_classification(module, config)


FAMILY = Family("mlp_mixer", sample, build)
