"""Seven fixed tasks of TaskSet: variational autoencoders of perceptrons.

Images in [-1, 1] and relus, from arXiv 2002.11887; see `tasksets.variational`. A name
has the data set, encoder x latents x decoder, and the batch size. Two names say what is
not so, and stay, as published curves have them: `cifar101` is CIFAR-10, and
`Imagenet32x30_FC_VAE_...` has the images of Food-101 in 32x32.
"""

from tasksets.families.mlp_vae import MlpVaeConfig, build
from tasksets.family import FixedTasks
from tasksets.initializers import SONNET


def _config(
    dataset: str,
    encoder: tuple[int, ...],
    decoder: tuple[int, ...],
    batch_size: int = 128,
) -> MlpVaeConfig:
    return MlpVaeConfig(
        encoder=encoder,
        decoder=decoder,
        activation="relu",
        initializer=SONNET[0],
        initializer_scale=SONNET[1],
        center=True,
        dataset=dataset,
        batch_size=batch_size,
        num_train=None,
        just_train=False,
        augmentation=None,
        num_per_valid=3000,
    )


FIXED = FixedTasks(
    "fixed_mlp_vae",
    {
        "FixedMLPVAE_cifar101_128x32x128_bs128": _config("cifar10", (128, 32), (128,)),
        "FixedMLPVAE_cifar101_128x128x32x128x128_bs128": _config(
            "cifar10", (128, 128, 32), (128, 128)
        ),
        "FixedMLPVAE_mnist_128x8x128x128_bs128": _config("mnist", (128, 8), (128, 128)),
        "FixedMLPVAE_mnist_128x128x8x128_bs128": _config(
            "mnist", (128, 128, 8), (128,)
        ),
        "FixedMLPVAE_mnist_128x64x32x64x128_bs64": _config(
            "mnist", (128, 64, 32), (64, 128), batch_size=64
        ),
        "FixedMLPVAE_food10132x32_128x64x32x64x128_bs64": _config(
            "food101_32x32", (128, 64, 32), (64, 128), batch_size=64
        ),
        "Imagenet32x30_FC_VAE_128x64x32x64x128_relu_bs256": _config(
            "food101_32x32", (128, 64, 32), (64, 128), batch_size=256
        ),
    },
    build,
)
