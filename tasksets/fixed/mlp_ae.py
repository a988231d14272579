"""Three fixed tasks of TaskSet: perceptrons that reconstruct images.

Sigmoid outputs and the mean squared error, relus, from arXiv 2002.11887; see
`tasksets.families.mlp_ae`. A name has the data set, the widths and the batch size.
"""

from tasksets.families.mlp_ae import MlpAeConfig, build
from tasksets.family import FixedTasks

# TaskSet's layers start from a normal of standard deviation 1 / sqrt(fan_in) which is
# truncated at twice that, and so has the standard deviation .8796 / sqrt(fan_in).
DEFAULT_INITIALIZER, DEFAULT_SCALE = "variance_scaling", 0.87962566103423978**2


def _config(dataset: str, hidden: tuple[int, ...]) -> MlpAeConfig:
    return MlpAeConfig(
        hidden=hidden,
        activation="relu",
        initializer=DEFAULT_INITIALIZER,
        initializer_scale=DEFAULT_SCALE,
        output="sigmoid",
        loss="l2",
        reduction="mean",
        dataset=dataset,
        batch_size=128,
        num_train=None,
        just_train=False,
        augmentation=None,
        num_per_valid=3000,
    )


FIXED = FixedTasks(
    "fixed_mlp_ae",
    {
        "FixedMLPAE_mnist_32x32x32_bs128": _config("mnist", (32, 32, 32)),
        "FixedMLPAE_mnist_128x32x128_bs128": _config("mnist", (128, 32, 128)),
        "FixedMLPAE_cifar10_128x32x128_bs128": _config("cifar10", (128, 32, 128)),
    },
    build,
)
