"""Five fixed tasks of TaskSet: convolutional networks that reconstruct images.

Sigmoid outputs and the mean squared error, from arXiv 2002.11887. A name has the data
set, encoder x latents x decoder, and the batch size; but the decoder of
`mnist_32x64x32x64x32_bs512` is 64x64, as published curves have it.
"""

from dataclasses import dataclass

from tasksets.data import Dataset
from tasksets.family import FixedTasks
from tasksets.image_coders import Chain, ConvDecoder, ConvEncoder
from tasksets.images import serve
from tasksets.initializers import SONNET, initializer
from tasksets.reconstruction import (
    Reconstruction,
    ReconstructionNumbers,
    build_reconstruction,
)
from tasksets.sampling import ImageConfig


@dataclass(frozen=True, kw_only=True)
class ConvCodersConfig(ImageConfig):
    """Every field of a task with convolutional coders."""

    encoder: tuple[int, ...]  # channels; each layer halves height and width
    latents: int
    decoder: tuple[int, ...]  # channels; each layer doubles height and width


def build(
    config: ConvCodersConfig,
) -> tuple[Reconstruction, ReconstructionNumbers, Dataset]:
    """The task of a config."""
    kind, numbers = initializer(*SONNET)
    images, _, _ = serve(config)
    network = Chain(
        ConvEncoder(config.encoder, kind),
        ConvDecoder(images.shape, config.decoder, kind),
        config.latents,
    )
    return build_reconstruction(
        network, numbers, config, output="sigmoid", loss="l2", reduction="mean"
    )


def conv_config(
    dataset: str,
    encoder: tuple[int, ...],
    latents: int,
    decoder: tuple[int, ...],
    batch_size: int = 128,
) -> ConvCodersConfig:
    """The config of a fixed task."""
    return ConvCodersConfig(
        encoder=encoder,
        latents=latents,
        decoder=decoder,
        dataset=dataset,
        batch_size=batch_size,
        num_train=None,
        augmentation=None,
        num_per_valid=3000,
    )


FIXED = FixedTasks(
    "fixed_conv_ae",
    {
        "FixedImageConvAE_mnist_32x32x32x32x32_bs128": conv_config(
            "mnist", (32, 32), 32, (32, 32)
        ),
        "FixedImageConvAE_mnist_32x64x8x64x32_bs128": conv_config(
            "mnist", (32, 64), 8, (64, 32)
        ),
        "FixedImageConvAE_mnist_32x64x32x64x32_bs512": conv_config(
            "mnist", (32, 64), 32, (64, 64), batch_size=512
        ),
        "FixedImageConvAE_cifar10_32x32x32x32x32_bs128": conv_config(
            "cifar10", (32, 32), 32, (32, 32)
        ),
        "FixedImageConvAE_cifar10_32x64x8x64x32_bs128": conv_config(
            "cifar10", (32, 64), 8, (64, 32)
        ),
    },
    build,
)
