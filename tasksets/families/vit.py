"""vit: vision transformers that classify images.

    tokens = W patches(x) + positions,    logits = head(mean_tokens transformer(tokens))

(Dosovitskiy et al. 2021, "An image is worth 16x16 words", arXiv 2010.11929; the mean
over tokens in place of a class token as in Beyer et al. 2022, arXiv 2205.01580.) The
ranges are those that VeLO was trained on (Metz et al. 2022, arXiv 2211.09760), as far
as one core can train. Normalisation: initial loss log(classes), best loss that of
smoothed labels.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tasksets import sampling
from tasksets.activations import ActivationNumbers
from tasksets.attention import PositionEmbedding, Transformer, layer_flops
from tasksets.classification import ClassificationNumbers
from tasksets.data import Dataset
from tasksets.family import Family
from tasksets.label_smoothing import (
    SmoothedClassification,
    build_smoothed_classification,
)
from tasksets.patches import num_patches, patches
from tasksets.variation import (
    IMAGE_SHAPES,
    VariedImageConfig,
    draw_affordable,
    generators,
    image_numbers,
    image_structure,
)


@dataclass(frozen=True, kw_only=True)
class VitConfig(VariedImageConfig):
    """Every field of the family, with how it is sampled."""

    patch: int  # pixels in height and width; from {2, 4, 8, 12, 16}
    layers: int  # logint 1-16
    heads: int  # logint 1-16
    head_width: int  # logint 8-64; the width of a token is heads times this
    mlp_width: int  # logint 32-512


def sample(seed: int) -> VitConfig:
    """The config of `seed`; its structure is that of seed % 32."""
    of_structure, of_numbers = generators("vit", seed)
    structure = draw_affordable(_draw_structure, step_flops, of_structure)
    return VitConfig(**structure, **image_numbers(of_numbers))


def _draw_structure(rng: np.random.RandomState) -> dict[str, Any]:
    return {
        **image_structure(rng),
        "patch": int(rng.choice([2, 4, 8, 12, 16])),
        "layers": sampling.log_int(rng, 1, 16),
        "heads": sampling.log_int(rng, 1, 16),
        "head_width": sampling.log_int(rng, 8, 64),
        "mlp_width": sampling.log_int(rng, 32, 512),
    }


def step_flops(structure: dict[str, Any]) -> int:
    """Of a training step; backward is twice forward."""
    shape = IMAGE_SHAPES[structure["dataset"]]
    tokens = num_patches(shape, structure["patch"])
    width = structure["heads"] * structure["head_width"]
    embedding = 2 * tokens * structure["patch"] ** 2 * shape[-1] * width
    layer = layer_flops(tokens, width, structure["heads"], structure["mlp_width"])
    return 3 * structure["batch_size"] * (embedding + structure["layers"] * layer)


class Vit(nn.Module):
    """The network of a config."""

    patch: int
    layers: int
    heads: int
    head_width: int
    mlp_width: int
    num_classes: int

    @nn.compact
    def __call__(
        self,
        images: Float[Array, "batch height width channels"],
        activation: ActivationNumbers,
    ) -> Float[Array, "batch classes"]:
        width = self.heads * self.head_width
        x = nn.Dense(width, name="patch_embedding")(patches(images, self.patch))
        x = PositionEmbedding(name="positions")(x)
        body = Transformer(self.layers, self.heads, self.mlp_width, name="transformer")
        pooled = jnp.mean(body(x, activation), axis=1)
        return nn.Dense(self.num_classes, name="head")(pooled)


def build(
    config: VitConfig,
) -> tuple[SmoothedClassification, ClassificationNumbers, Dataset]:
    """The task of a config."""
    module = partial(
        Vit,
        config.patch,
        config.layers,
        config.heads,
        config.head_width,
        config.mlp_width,
    )
    return build_smoothed_classification(module, config)


FAMILY = Family("vit", sample, build)
