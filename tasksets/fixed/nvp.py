"""FixedNVP: TaskSet's five Real NVPs on MNIST (Metz et al. 2020, arXiv 2002.11887).

The names count couplings ("layer"); every network has two hidden layers of relus. The
batch size of the last is 64, in spite of its name: that is what TaskSet runs.
"""

from tasksets.families.nvp import build
from tasksets.family import FixedTasks
from tasksets.flows import FlowConfig


def _config(num_bijectors: int, hidden: tuple[int, ...]) -> FlowConfig:
    return FlowConfig(
        dataset="mnist",
        batch_size=64,
        num_train=None,
        just_train=False,
        augmentation=None,
        num_per_valid=3000,
        activation="relu",
        initializer="glorot_uniform",
        initializer_scale=None,
        hidden=hidden,
        num_bijectors=num_bijectors,
    )


FIXED = FixedTasks(
    "nvp",
    {
        "FixedNVP_mnist_2layer_bs64": _config(2, (2048, 2048)),
        "FixedNVP_mnist_5layer_bs64": _config(5, (2048, 2048)),
        "FixedNVP_mnist_5layer_thin_bs64": _config(5, (128, 128)),
        "FixedNVP_mnist_3layer_thin_bs64": _config(3, (128, 128)),
        "FixedNVP_mnist_9layer_thin_bs16": _config(9, (128, 128)),
    },
    build,
)
