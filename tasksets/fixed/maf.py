"""FixedMAF: TaskSet's three masked autoregressive flows (Metz et al. 2020, 2002.11887).

The names count bijectors ("layer"); every network has two hidden layers of relus. How
these differ from TaskSet's is said in families/maf.py; of the three only the first has
hidden layers as wide as its images have pixels.
"""

from tasksets.families.maf import build
from tasksets.family import FixedTasks
from tasksets.flows import FlowConfig


def _config(dataset: str, num_bijectors: int, hidden: tuple[int, ...]) -> FlowConfig:
    return FlowConfig(
        dataset=dataset,
        batch_size=64,
        num_train=None,
        just_train=False,
        augmentation=None,
        num_per_valid=3000,
        activation="relu",
        initializer="glorot_normal",
        initializer_scale=None,
        hidden=hidden,
        num_bijectors=num_bijectors,
    )


FIXED = FixedTasks(
    "maf",
    {
        "FixedMAF_mnist_2layer_bs64": _config("mnist", 2, (2048, 2048)),
        "FixedMAF_mnist_3layer_thin_bs64": _config("mnist", 3, (128, 128)),
        "FixedMAF_cifar10_3layer_bs64": _config("cifar10", 3, (1024, 1024)),
    },
    build,
)
