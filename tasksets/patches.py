"""Images as sequences of square patches, as `vit` and `mlp_mixer` read them."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def patches(
    images: Float[Array, "batch height width channels"], size: int
) -> Float[Array, "batch patches pixels"]:
    """Patches of `size` x `size` from left to right, then from top to bottom.

    An image whose sides are no multiples of `size` gets a frame of zeros. A linear map
    of these is the convolution of stride `size` that papers write, and as a product of
    matrices it stays fast when lanes have kernels of their own.
    """
    batch, height, width, channels = images.shape
    rows, columns = -(-height // size), -(-width // size)
    framed = jnp.pad(
        images, ((0, 0), _frame(height, size), _frame(width, size), (0, 0))
    )
    split = framed.reshape(batch, rows, size, columns, size, channels)
    return split.swapaxes(2, 3).reshape(batch, rows * columns, size**2 * channels)


def num_patches(shape: tuple[int, int, int], size: int) -> int:
    """How many patches there are in an image of `shape`."""
    height, width, _ = shape
    return -(-height // size) * -(-width // size)


def _frame(length: int, size: int) -> tuple[int, int]:
    missing = -length % size
    return missing // 2, missing - missing // 2
