"""Serving images: what every family that learns from images has in common.

    batch = center(augment(data[indices])),    center(x) = x or 2 x - 1

`Images` is the structure, `ImageNumbers` the numbers; a family's problem is an
`ImageProblem` that adds a network and a loss. Tables are served too, without augmentation.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tasksets.augmentation import (
    Augmentation,
    ColorNumbers,
    augment,
    build_augmentation,
)
from tasksets.data import Dataset, DatasetInfo, Examples, draw_indices, load, take
from tasksets.sampling import ImageConfig
from tasksets.task import Problem, SplitName

DrawnImages = tuple[Int[Array, "batch"], PRNGKeyArray]


class ImageNumbers(NamedTuple):
    """What may differ between tasks that are served alike."""

    color: ColorNumbers | None
    center: Float[Array, "*lanes"]  # 1: images in [-1, 1], 0: in [0, 1]
    num_train: Int[Array, "*lanes"]  # training examples in use


@dataclass(frozen=True)
class Images:
    """How examples are served: the structure."""

    dataset: DatasetInfo
    augmentation: Augmentation | None
    batch_size: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one served input: (height, width, channels) of an image."""
        if self.augmentation is None:
            return self.dataset.shape
        return self.augmentation.shape(self.dataset.shape)

    def draw(
        self, numbers: ImageNumbers, data: Dataset, split: SplitName, key: PRNGKeyArray
    ) -> DrawnImages:
        """Indices, and a key for the augmentation."""
        index_key, augmentation_key = jax.random.split(key)
        in_use = numbers.num_train if split == "train" else data.size(split)
        return draw_indices(in_use, self.batch_size, index_key), augmentation_key

    def take(
        self, numbers: ImageNumbers, data: Dataset, split: SplitName, drawn: DrawnImages
    ) -> Examples:
        """The batch that was drawn."""
        indices, augmentation_key = drawn
        inputs, labels = take(getattr(data, split), indices, self.dataset)
        if self.augmentation is not None:
            inputs = augment(self.augmentation, numbers.color, inputs, augmentation_key)
        if self.dataset.is_image:
            inputs = inputs + numbers.center * (inputs - 1)
        return Examples(inputs, labels)


@dataclass(frozen=True, kw_only=True)
class ImageProblem(Problem):
    """A problem whose batches are images; its numbers have `images`."""

    images: Images

    def draw(
        self, numbers: Any, data: Dataset, split: SplitName, key: PRNGKeyArray
    ) -> DrawnImages:
        return self.images.draw(numbers.images, data, split, key)

    def take(
        self, numbers: Any, data: Dataset, split: SplitName, drawn: DrawnImages
    ) -> Examples:
        return self.images.take(numbers.images, data, split, drawn)


def serve(
    config: ImageConfig, *, center: bool = False
) -> tuple[Images, ImageNumbers, Dataset]:
    """How the images of a config are served; raises `DataNotFoundError`."""
    data = load(config.dataset, config.num_per_valid)
    augmentation, color = build_augmentation(config.augmentation, data.info.shape)
    images = Images(data.info, augmentation, config.batch_size)
    numbers = ImageNumbers(
        color=color,
        center=jnp.float32(center),
        num_train=jnp.int32(data.num_train(config.num_train)),
    )
    return images, numbers, data


def serve_pixels(
    config: ImageConfig, *, center: bool
) -> tuple[Images, ImageNumbers, Dataset]:
    """As `serve`, for models of pixels; raises ValueError for a table."""
    images, numbers, data = serve(config, center=center)
    if not data.info.is_image:
        raise ValueError(
            f"a model of pixels needs images; {config.dataset!r} is a table of "
            f"{data.info.shape[0]} columns"
        )
    return images, numbers, data
