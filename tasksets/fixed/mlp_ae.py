"""Three fixed tasks of TaskSet: perceptrons that reconstruct images.

Sigmoid outputs and the mean squared error, relus, from arXiv 2002.11887; see
`tasksets.families.mlp_ae`. A name has the data set, the widths and the batch size.
"""

from tasksets.families.mlp_ae import MlpAeConfig, build
from tasksets.family import FixedTasks
from tasksets.initializers import SONNET


def _config(dataset: str, hidden: tuple[int, ...]) -> MlpAeConfig:
    return MlpAeConfig(
        hidden=hidden,
        activation="relu",
        initializer=SONNET[0],
        initializer_scale=SONNET[1],
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
