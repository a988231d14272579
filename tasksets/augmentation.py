"""Random crops, flips and colours of a batch of images, on the device.

What TaskSet does to its images (Metz et al. 2020, arXiv 2002.11887), in this order:
crop, flips, and for RGB images brightness, saturation, hue and contrast. Which of
them happen is structure; how strong they are is a number.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.sampling import AugmentationConfig

Images = Float[Array, "batch height width channels"]


@dataclass(frozen=True)
class Augmentation:
    """Which changes happen; static."""

    crop_amount: int = 0  # pixels lost in height and in width
    flip_left_right: bool = False
    flip_up_down: bool = False
    color: bool = False

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape that images of `shape` have afterwards."""
        height, width, channels = shape
        return height - self.crop_amount, width - self.crop_amount, channels


class ColorNumbers(NamedTuple):
    """The largest change of each kind."""

    brightness: Float[Array, "*lanes"]
    saturation: Float[Array, "*lanes"]
    hue: Float[Array, "*lanes"]
    contrast: Float[Array, "*lanes"]


def build_augmentation(
    config: AugmentationConfig | None, shape: tuple[int, ...]
) -> tuple[Augmentation | None, ColorNumbers | None]:
    """The structure and the numbers of a config, for images of `shape`."""
    if config is None or len(shape) != 3:
        return None, None
    color = config.do_color_aug and shape[-1] == 3
    structure = Augmentation(
        config.crop_amount, config.flip_left_right, config.flip_up_down, color
    )
    strengths = (config.brightness, config.saturation, config.hue, config.contrast)
    return structure, ColorNumbers(*map(jnp.float32, strengths)) if color else None


def augment(
    augmentation: Augmentation,
    color: ColorNumbers | None,
    images: Images,
    key: PRNGKeyArray,
) -> Images:
    """Changes every image of a batch on its own."""
    crop_key, flip_key, color_key = jax.random.split(key, 3)
    left_right_key, up_down_key = jax.random.split(flip_key)
    if augmentation.crop_amount:
        images = _random_crop(images, augmentation.shape(images.shape[1:]), crop_key)
    if augmentation.flip_left_right:
        images = _random_flip(images, 2, left_right_key)
    if augmentation.flip_up_down:
        images = _random_flip(images, 1, up_down_key)
    if color is not None:
        change = jax.vmap(_random_color, in_axes=(None, 0, 0))
        images = change(color, images, jax.random.split(color_key, len(images)))
    return images


def _random_crop(images: Images, shape: tuple[int, ...], key: PRNGKeyArray) -> Images:
    room = jnp.array(images.shape[1:3]) - jnp.array(shape[:2]) + 1
    corners = jnp.floor(jax.random.uniform(key, (len(images), 2)) * room)
    corners = jnp.minimum(corners.astype(jnp.int32), room - 1)
    crop = lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), shape)
    return jax.vmap(crop)(images, corners)


def _random_flip(images: Images, axis: int, key: PRNGKeyArray) -> Images:
    flipped = jax.random.bernoulli(key, shape=(len(images), 1, 1, 1))
    return jnp.where(flipped, jnp.flip(images, axis), images)


def _random_color(
    color: ColorNumbers,
    image: Float[Array, "height width 3"],
    key: PRNGKeyArray,
) -> Float[Array, "height width 3"]:
    brightness, saturation, hue, contrast = jax.random.uniform(
        key, (4,), minval=-1.0, maxval=1.0
    ) * jnp.stack(color)
    image = image + brightness
    image = scale_saturation(image, 1 + saturation)
    image = turn_hue(image, hue)
    mean = image.mean(axis=(0, 1))
    return mean + (1 + contrast) * (image - mean)


def scale_saturation(
    image: Float[Array, "height width 3"], factor: Float[Array, ""] | float
) -> Float[Array, "height width 3"]:
    """Multiplies the saturation (max - min) / max, which stays at most 1."""
    value, chroma = _value_and_chroma(image)
    # With hue and value fixed, value - rgb is proportional to the saturation.
    most = jnp.where(chroma > 0, value / jnp.where(chroma > 0, chroma, 1.0), 1.0)
    return value - (value - image) * jnp.clip(factor, 0.0, jnp.maximum(most, 0.0))


def turn_hue(
    image: Float[Array, "height width 3"], turn: Float[Array, ""] | float
) -> Float[Array, "height width 3"]:
    """Turns the hue by `turn` of the whole circle; value and saturation stay."""
    value, chroma = _value_and_chroma(image)
    red, green, blue = (image[..., i : i + 1] for i in range(3))
    divisor = jnp.where(chroma > 0, chroma, 1.0)
    sextant = jnp.where(
        value == red,
        (green - blue) / divisor,
        jnp.where(
            value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor
        ),
    )
    # In HSV with the hue in sixths: c = V - C clip(min(k, 4 - k), 0, 1).
    k = (jnp.array([5.0, 3.0, 1.0]) + sextant + 6 * turn) % 6
    return value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0.0, 1.0)


def _value_and_chroma(
    image: Float[Array, "height width 3"],
) -> tuple[Float[Array, "height width 1"], Float[Array, "height width 1"]]:
    value = image.max(axis=-1, keepdims=True)
    return value, value - image.min(axis=-1, keepdims=True)
