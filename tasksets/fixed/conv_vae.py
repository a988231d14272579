"""Seven fixed tasks of TaskSet: convolutional variational autoencoders.

Images in [-1, 1], from arXiv 2002.11887; see `tasksets.variational`. A name has the data
set, encoder x latents x decoder, and the batch size; but `mnist_32x64x32x64x32_bs128` is
a task of CIFAR-10, as published curves have it.
"""

from tasksets.data import Dataset
from tasksets.family import FixedTasks
from tasksets.fixed.conv_ae import ConvCodersConfig, conv_config
from tasksets.image_coders import ConvDecoder, ConvEncoder
from tasksets.images import serve
from tasksets.initializers import SONNET, initializer
from tasksets.variational import (
    CoderNumbers,
    Variational,
    VariationalNumbers,
    build_variational,
)


def build(config: ConvCodersConfig) -> tuple[Variational, VariationalNumbers, Dataset]:
    """The task of a config."""
    kind, numbers = initializer(*SONNET)
    images, _, _ = serve(config)
    return build_variational(
        ConvEncoder(config.encoder, kind),
        ConvDecoder(images.shape, config.decoder, kind),
        CoderNumbers(encoder=numbers, decoder=numbers),
        config,
        latents=config.latents,
        center=True,
    )


FIXED = FixedTasks(
    "fixed_conv_vae",
    {
        "FixedImageConvVAE_mnist_32x32x32x32x32_bs128": conv_config(
            "mnist", (32, 32), 32, (32, 32)
        ),
        "FixedImageConvVAE_mnist_32x64x32x64x32_bs128": conv_config(
            "cifar10", (32, 64), 32, (64, 32)
        ),
        "FixedImageConvVAE_cifar10_32x64x128x64x32_bs128": conv_config(
            "cifar10", (32, 64), 128, (64, 32)
        ),
        "FixedImageConvVAE_mnist_64x128x128x128x64_bs128": conv_config(
            "mnist", (64, 128), 128, (128, 64)
        ),
        "FixedImageConvVAE_cifar10_64x128x256x128x256x128x64_bs128": conv_config(
            "cifar10", (64, 128, 256), 128, (256, 128, 64)
        ),
        "FixedImageConvVAE_cifar10_32x64x128x64x128x64x32_bs128": conv_config(
            "cifar10", (32, 64, 128), 64, (128, 64, 32)
        ),
        "FixedImageConvVAE_cifar10_32x64x128x64x128x64x32_bs512": conv_config(
            "cifar10", (32, 64, 128), 64, (128, 64, 32), batch_size=512
        ),
    },
    build,
)
