"""Twenty-three fixed tasks of TaskSet: convolutional networks that classify images.

3x3 convolutions, the first of stride 2, padded; then a pool over the pixels and a dense
layer, or dense layers on all pixels. From arXiv 2002.11887; the networks are those of
`tasksets.families.conv_pooling` and `conv_fc`. A name has the data set, the channels
and the batch size, and not all that matters: `32x64x128_he` takes the maximum over the
pixels where its siblings take the mean, and has, like them, tanh for activation.
"""

from dataclasses import dataclass

from tasksets.activations import activation_numbers
from tasksets.classification import (
    Classification,
    ClassificationNumbers,
    build_classification,
)
from tasksets.convolution import ConvStack
from tasksets.data import Dataset
from tasksets.families.conv_fc import ConvFc, ConvFcNumbers
from tasksets.families.conv_pooling import (
    ConvPooling,
    ConvPoolingNumbers,
    pool_number,
)
from tasksets.family import FixedTasks
from tasksets.initializers import SONNET, initializer
from tasksets.sampling import AugmentationConfig, ImageConfig


@dataclass(frozen=True, kw_only=True)
class ImageConvConfig(ImageConfig):
    """Every field of a task, with what most of them have."""

    channels: tuple[int, ...]  # of the convolutions
    head: str = "mean"  # mean or max over the pixels, or flatten
    hidden: tuple[int, ...] = ()  # widths of dense layers; only after flatten
    batch_norm: bool = False  # of the convolutions, by the moments of the batch
    activation: str = "relu"
    initializer: str = SONNET[0]  # not of a pooled head: it has the default
    initializer_scale: float | None = SONNET[1]
    batch_size: int = 128
    num_train: int | None = None
    augmentation: AugmentationConfig | None = None
    num_per_valid: int | None = 3000


def build(
    config: ImageConvConfig,
) -> tuple[Classification, ClassificationNumbers, Dataset]:
    """The task of a config."""
    num_layers = len(config.channels)
    convs = ConvStack(
        config.channels,
        strides=(2,) + (1,) * (num_layers - 1),
        padding=("SAME",) * num_layers,
        batch_norm=config.batch_norm,
    )
    kind, scale = initializer(config.initializer, config.initializer_scale)
    activation = activation_numbers(config.activation)
    if config.head == "flatten":
        network = ConvFc(convs, config.hidden, kind)
        numbers = ConvFcNumbers(scale, activation)
    elif config.hidden:
        raise ValueError(
            f"hidden layers come after head=flatten, not after head={config.head}"
        )
    else:
        _, head_scale = initializer(*SONNET)
        network = ConvPooling(convs, kind)
        pool = pool_number(config.head)
        numbers = ConvPoolingNumbers(scale, head_scale, activation, pool)
    task = build_classification(network, numbers, config)
    convs.output_shape(task[0].images.shape)
    return task


def _tanh64(initializer: str, scale: float | None, **fields) -> ImageConvConfig:
    """CIFAR-10 in batches of 64, tanh, and an initialiser of its own."""
    return ImageConvConfig(
        **{"dataset": "cifar10", "channels": (32, 64, 128), "batch_size": 64, **fields},
        activation="tanh",
        initializer=initializer,
        initializer_scale=scale,
    )


def _batch_norm(dataset: str, *channels: int, **fields) -> ImageConvConfig:
    return ImageConvConfig(
        dataset=dataset, channels=channels, batch_norm=True, **fields
    )


def _flatten(dataset: str, *hidden: int, **fields) -> ImageConvConfig:
    return ImageConvConfig(
        dataset=dataset, channels=(32, 64, 64), head="flatten", hidden=hidden, **fields
    )


_FC64X32 = {"head": "flatten", "hidden": (64, 32)}

FIXED = FixedTasks(
    "fixed_image_conv",
    {
        "FixedImageConv_cifar10_32x64x64_bs128": ImageConvConfig(
            dataset="cifar10", channels=(32, 64, 64)
        ),
        "FixedImageConv_cifar10_32x64x64_tanh_bs64": _tanh64(
            *SONNET, channels=(32, 64, 64)
        ),
        "FixedImageConv_cifar10_32x64x128_he_bs64": _tanh64(
            "he_normal", None, head="max"
        ),
        "FixedImageConv_cifar10_32x64x128_normal_bs64": _tanh64("random_normal", 0.02),
        "FixedImageConv_cifar10_32x64x128_largenormal_bs64": _tanh64(
            "random_normal", 0.2
        ),
        "FixedImageConv_cifar10_32x64x128_smallnormal_bs64": _tanh64(
            "random_normal", 0.002
        ),
        "FixedImageConv_cifar10_32x64x128x128x128_avg_he_bs64": _tanh64(
            "he_normal", None, channels=(32, 64, 128, 128, 128)
        ),
        "FixedImageConv_cifar10_batchnorm_32x64x64_bs128": _batch_norm(
            "cifar10", 32, 64, 64
        ),
        "FixedImageConv_cifar10_batchnorm_32x32x32x64x64_bs128": _batch_norm(
            "cifar10", 32, 32, 32, 64, 64
        ),
        "FixedImageConv_food101_batchnorm_32x32x32x64x64_bs128": _batch_norm(
            "food101_32x32", 32, 32, 32, 64, 64
        ),
        "FixedImageConv_cifar100_bn_32x64x128x128_bs128": _batch_norm(
            "cifar100", 32, 64, 128, 128
        ),
        "FixedImageConv_coil10032x32_bn_32x64x128x128_bs128": _batch_norm(
            "coil100_32x32", 32, 64, 128, 128, num_per_valid=800
        ),
        "FixedImageConv_sun39732x32_bn_32x64x128x128_bs128": _batch_norm(
            "sun397_32x32", 32, 64, 128, 128
        ),
        "FixedImageConv_cifar10_32x64x64_flatten_bs128": _flatten("cifar10"),
        "FixedImageConv_cifar10_32x64x64_fc_64_bs128": _flatten("cifar10", 64),
        "FixedImageConv_mnist_32x64x64_fc_64_bs128": _flatten("mnist", 64),
        "Mnist_Conv_32x16x64_flatten_FC32_tanh_bs32": ImageConvConfig(
            dataset="mnist",
            channels=(32, 16, 64),
            head="flatten",
            hidden=(32,),
            activation="tanh",
            batch_size=32,
        ),
        "FixedImageConv_cifar10_32x64x128_flatten_FC64x32_tanh_he_bs8": _tanh64(
            "he_normal", None, **_FC64X32, batch_size=8
        ),
        # TensorFlow's contrib variance_scaling: He's normal but for a third digit.
        "FixedImageConv_cifar10_32x64x128_flatten_FC64x32_tanh_variance_scaling_bs64": (
            _tanh64("variance_scaling", 2.0, **_FC64X32)
        ),
        "FixedImageConv_cifar100_32x64x128_FC64x32_tanh_variance_scaling_bs64": (
            _tanh64("variance_scaling", 2.0, **_FC64X32, dataset="cifar100")
        ),
        "FixedImageConv_cifar100_32x64x64_flatten_bs128": _flatten("cifar100"),
        "FixedImageConv_food10164x64_Conv_32x64x64_flatten_bs64": _flatten(
            "food101_64x64", batch_size=64
        ),
        "FixedImageConv_colorectalhistology32x32_32x64x64_flatten_bs128": _flatten(
            "colorectal_histology_32x32", num_per_valid=700
        ),
    },
    build,
)
