"""resnet: residual networks that classify images, from 14 layers up and down.

    x <- shortcut(x) + conv_1x1(act(norm(conv_3x3(act(norm(conv_1x1(act(norm(x)))))))))

The default is the 14-layer pre-activation ResNet on CIFAR-10 of Metz et al. 2020
("Tasks, stability, architecture, and compute", arXiv 2009.11243): a 7x7 convolution to
64 channels of stride 2, a 3x3 maximum of stride 2, four bottleneck blocks of (channels,
bottleneck, stride) = (128, 32, 1), (128, 32, 2), (128, 64, 1), (128, 64, 2), a last
norm, the mean over positions, and a linear layer. Block and order of its parts are
those of He et al. 2016 ("Identity mappings in deep residual networks", arXiv
1603.05027); no convolution has a bias, as a norm follows each.

The norm is batch norm with the statistics of the current batch, in all four splits.
Running averages would be a state beside the parameters, and a loss here is a function
of parameters and a batch; group norm would have been one too, but it is not what the
paper's network has. Normalisation: initial loss log(classes), best loss that of
smoothed labels.
"""

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tasksets import sampling
from tasksets.activations import ActivationNumbers, activate
from tasksets.classification import ClassificationNumbers
from tasksets.convolution import convolve
from tasksets.data import Dataset
from tasksets.family import Family
from tasksets.label_smoothing import (
    SmoothedClassification,
    build_smoothed_classification,
)
from tasksets.variation import (
    ENTRY_FLOPS,
    IMAGE_SHAPES,
    NUM_STRUCTURES,
    VariedImageConfig,
    draw_affordable,
    generators,
    image_numbers,
    image_structure,
)

_NORM_EPSILON = 1e-5

Images = Float[Array, "batch height width channels"]


@dataclass(frozen=True, kw_only=True)
class ResnetConfig(VariedImageConfig):
    """Every field of the family, with how it is sampled; the default has 14 layers."""

    stem_channels: int = 64  # logint 8-64
    stem_kernel: int = 7  # pixels in height and width; from {3, 5, 7}
    stem_stride: int = 2  # from {1, 2}
    stem_pool: bool = True  # whether a 3x3 maximum of stride 2 follows; 50/50
    blocks: tuple[int, ...] = (2, 2)  # of each group; U{1..4} groups of logint 1-10
    channels: tuple[int, ...] = (
        128,
        128,
    )  # logint 8-256; the same, or doubled by group
    bottlenecks: tuple[int, ...] = (32, 64)  # channels in a block; a quarter or half


def sample(seed: int) -> ResnetConfig:
    """The config of `seed`; its structure is that of seed % 32, the default's for 0."""
    of_structure, of_numbers = generators("resnet", seed)
    structure = {}
    if seed % NUM_STRUCTURES:
        structure = draw_affordable(_draw_structure, step_flops, of_structure)
    return ResnetConfig(**structure, **image_numbers(of_numbers))


def _draw_structure(rng: np.random.RandomState) -> dict[str, Any]:
    images = image_structure(rng)
    stem = {
        "stem_channels": sampling.log_int(rng, 8, 64),
        "stem_kernel": int(rng.choice([3, 5, 7])),
        "stem_stride": int(rng.choice([1, 2])),
        "stem_pool": bool(rng.choice([True, False])),
    }
    num_groups = int(rng.choice([1, 2, 3, 4]))
    growth, shrink = int(rng.choice([1, 2])), int(rng.choice([2, 4]))
    narrowest = sampling.log_int(rng, 8, 256 // growth ** (num_groups - 1))
    channels = tuple(narrowest * growth**group for group in range(num_groups))
    return {
        **images,
        **stem,
        "blocks": tuple(sampling.log_int(rng, 1, 10) for _ in range(num_groups)),
        "channels": channels,
        "bottlenecks": tuple(width // shrink for width in channels),
    }


@dataclass(frozen=True)
class BlockShape:
    """The numbers by which papers describe a block."""

    channels: int
    bottleneck: int
    stride: int


def block_shapes(
    blocks: tuple[int, ...], channels: tuple[int, ...], bottlenecks: tuple[int, ...]
) -> list[BlockShape]:
    """All blocks in order; the last of each group has stride 2."""
    if not len(blocks) == len(channels) == len(bottlenecks):
        raise ValueError(
            f"blocks, channels and bottlenecks have one entry for each group, not "
            f"{len(blocks)}, {len(channels)} and {len(bottlenecks)}"
        )
    return [
        BlockShape(width, bottleneck, 2 if block == count - 1 else 1)
        for count, width, bottleneck in zip(blocks, channels, bottlenecks, strict=True)
        for block in range(count)
    ]


def step_flops(structure: dict[str, Any]) -> int:
    """Of a training step; backward is twice forward."""
    side, _, inputs = IMAGE_SHAPES[structure["dataset"]]
    kernel, channels = structure["stem_kernel"], structure["stem_channels"]
    side = -(-side // structure["stem_stride"])
    products = side**2 * kernel**2 * inputs * channels
    side = -(-side // 2) if structure["stem_pool"] else side
    entries = 0
    names = ("blocks", "channels", "bottlenecks")
    for shape in block_shapes(*(structure[name] for name in names)):
        narrow, after = shape.bottleneck, -(-side // shape.stride)
        entries += side**2 * (channels + narrow) + after**2 * narrow
        products += side**2 * channels * narrow
        products += after**2 * (9 * narrow**2 + narrow * shape.channels)
        if channels != shape.channels:
            products += after**2 * channels * shape.channels
        side, channels = after, shape.channels
    return 3 * structure["batch_size"] * (2 * products + ENTRY_FLOPS * entries)


class Resnet(nn.Module):
    """The network of a config."""

    stem_channels: int
    stem_kernel: int
    stem_stride: int
    stem_pool: bool
    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    bottlenecks: tuple[int, ...]
    num_classes: int

    @nn.compact
    def __call__(
        self, images: Images, activation: ActivationNumbers
    ) -> Float[Array, "batch classes"]:
        stem = Convolution(
            self.stem_channels, self.stem_kernel, self.stem_stride, name="stem"
        )
        x = stem(images)
        if self.stem_pool:
            x = nn.max_pool(x, (3, 3), strides=(2, 2), padding="SAME")
        shapes = block_shapes(self.blocks, self.channels, self.bottlenecks)
        for i, shape in enumerate(shapes):
            x = Block(shape, name=f"block_{i}")(x, activation)
        x = activate(activation, BatchNorm(name="norm")(x))
        return nn.Dense(self.num_classes, name="head")(jnp.mean(x, axis=(1, 2)))


class Block(nn.Module):
    """A bottleneck block; the shortcut is the input where its shape is right."""

    shape: BlockShape

    @nn.compact
    def __call__(self, x: Images, activation: ActivationNumbers) -> Images:
        channels, bottleneck = self.shape.channels, self.shape.bottleneck
        stride = self.shape.stride
        normed = activate(activation, BatchNorm(name="norm_0")(x))
        if x.shape[-1] == channels:
            shortcut = x[:, ::stride, ::stride]
        else:
            shortcut = Convolution(channels, 1, stride, name="shortcut")(normed)
        y = Convolution(bottleneck, 1, name="conv_0")(normed)
        y = activate(activation, BatchNorm(name="norm_1")(y))
        y = Convolution(bottleneck, 3, stride, name="conv_1")(y)
        y = activate(activation, BatchNorm(name="norm_2")(y))
        return shortcut + Convolution(channels, 1, name="conv_2")(y)


class Convolution(nn.Module):
    """A convolution without bias, padded so that stride 1 keeps height and width."""

    channels: int
    size: int  # of the kernel
    stride: int = 1

    @nn.compact
    def __call__(self, x: Images) -> Images:
        shape = (self.size, self.size, x.shape[-1], self.channels)
        kernel = self.param("kernel", nn.initializers.zeros_init(), shape)
        return convolve(x, kernel, self.stride, "SAME")


class BatchNorm(nn.Module):
    """Mean 0 and variance 1 over this batch and all positions, then scale and bias."""

    @nn.compact
    def __call__(self, x: Images) -> Images:
        features = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones_init(), features)
        bias = self.param("bias", nn.initializers.zeros_init(), features)
        centred = x - jnp.mean(x, axis=(0, 1, 2))
        variance = jnp.mean(centred**2, axis=(0, 1, 2))
        return centred * (jax.lax.rsqrt(variance + _NORM_EPSILON) * scale) + bias


def build(
    config: ResnetConfig,
) -> tuple[SmoothedClassification, ClassificationNumbers, Dataset]:
    """The task of a config."""

    def module(num_classes: int) -> Resnet:
        return Resnet(
            stem_channels=config.stem_channels,
            stem_kernel=config.stem_kernel,
            stem_stride=config.stem_stride,
            stem_pool=config.stem_pool,
            blocks=config.blocks,
            channels=config.channels,
            bottlenecks=config.bottlenecks,
            num_classes=num_classes,
        )

    return build_smoothed_classification(module, config)


FAMILY = Family("resnet", sample, build)
