"""Convolutions, and stacks of 3x3 ones as plain functions of a dict of layers.

    y[b, i, j] = sum_uv x[b, s i + u - p, s j + v - p] W[u, v] + bias

A convolution is written as patches times a matrix. XLA's own is the faster one when it
is called once, but on CPU it is several times slower where tasks live: inside a `scan`
over training steps, and under `vmap` with a kernel for every lane.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.activations import Activation
from tasksets.dense import Layers
from tasksets.initializers import InitializerNumbers, Kind, init_weight
from tasksets.normalization_layers import batch_norm

# SAME, VALID, or the zeros (before, after) the rows and those of the columns.
Padding = str | Sequence[tuple[int, int]]

_WIDTH = 3  # of every kernel in a stack
_PADDINGS = ("SAME", "VALID")


@dataclass(frozen=True)
class ConvStack:
    """Convolutions, each followed by the activation: the structure."""

    channels: tuple[int, ...]  # outputs of each layer
    strides: tuple[int, ...]
    padding: tuple[
        str, ...
    ]  # SAME: ceil(size / stride) pixels are left; VALID: no zeros
    use_bias: bool = True
    batch_norm: bool = False  # between the bias and the activation

    def __post_init__(self) -> None:
        lengths = len(self.channels), len(self.strides), len(self.padding)
        if min(lengths) != max(lengths) or not self.channels:
            raise ValueError(
                "channels, strides and padding have one entry for each of at least one "
                f"layer, not {lengths[0]}, {lengths[1]} and {lengths[2]} entries"
            )
        if min(self.channels + self.strides) < 1:
            raise ValueError(
                f"channels and strides are at least 1, not {self.channels} and "
                f"{self.strides}"
            )
        if not set(self.padding) <= set(_PADDINGS):
            raise ValueError(f"padding is SAME or VALID, not {'-'.join(self.padding)}")

    def output_shape(self, shape: tuple[int, ...]) -> tuple[int, int, int]:
        """(height, width, channels) from images of `shape`; raises where none is left."""
        if len(shape) != 3:
            raise ValueError(
                "convolutions need images of (height, width, channels), not inputs of "
                f"shape {shape}"
            )
        height, width, _ = shape
        for i, (stride, padding) in enumerate(
            zip(self.strides, self.padding, strict=True)
        ):
            lost = _WIDTH - 1 if padding == "VALID" else 0
            if min(height, width) <= lost:
                raise ValueError(
                    f"images of {shape[0]}x{shape[1]} are too small: layer {i + 1} of "
                    f"{len(self.channels)} (3x3, stride {stride}, {padding}) would get "
                    f"{height}x{width}. Larger images fit; so do fewer layers, smaller "
                    "strides, or padding of SAME, which fits any size"
                )
            height, width = (-(-(size - lost) // stride) for size in (height, width))
        return height, width, self.channels[-1]


def init_convs(
    stack: ConvStack,
    num_inputs: int,
    kind: Kind,
    scale: InitializerNumbers,
    key: PRNGKeyArray,
) -> Layers:
    """{"layer_0": {"w": [3, 3, inputs, channels], "b": [channels]}, ...}; biases are 0.

    A layer with batch norm has an "offset" too, [channels] and 0. Its bias then cancels,
    but TaskSet's networks have it, and so optimizers there meet a gradient of 0.
    """
    inputs = (num_inputs, *stack.channels[:-1])
    layer_keys = jax.random.split(key, len(stack.channels))
    layers: Layers = {}
    for i, (c_in, c_out) in enumerate(zip(inputs, stack.channels, strict=True)):
        shape = (_WIDTH, _WIDTH, c_in, c_out)
        layer = {"w": init_weight(kind, scale, shape, layer_keys[i])}
        if stack.use_bias:
            layer["b"] = jnp.zeros(c_out)
        if stack.batch_norm:
            layer["offset"] = jnp.zeros(c_out)
        layers[f"layer_{i}"] = layer
    return layers


def apply_convs(
    stack: ConvStack,
    layers: Layers,
    images: Float[Array, "batch height width inputs"],
    activation: Activation,
) -> Float[Array, "batch new_height new_width channels"]:
    """The last layer's outputs, after its activation."""
    x = images
    for i, (stride, padding) in enumerate(
        zip(stack.strides, stack.padding, strict=True)
    ):
        layer = layers[f"layer_{i}"]
        x = convolve(x, layer["w"], stride, padding)
        if stack.use_bias:
            x = x + layer["b"]
        if stack.batch_norm:
            x = batch_norm(x, layer["offset"])
        x = activation(x)
    return x


def convolve(
    images: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "k_height k_width inputs outputs"],
    stride: int,
    padding: Padding,
) -> Float[Array, "batch new_height new_width outputs"]:
    """`jax.lax.conv_general_dilated` of NHWC images with an HWIO kernel."""
    *window, _, num_outputs = kernel.shape
    patches = _patches(images, (window[0], window[1]), stride, padding)
    return patches @ kernel.reshape(-1, num_outputs)


def _patches(
    images: Float[Array, "batch height width inputs"],
    window: tuple[int, int],
    stride: int,
    padding: Padding,
) -> Float[Array, "batch new_height new_width window_inputs"]:
    """What a kernel of size `window` sees at each place, in the order of its entries."""
    if isinstance(padding, str):
        size = images.shape[1:3]
        padding = jax.lax.padtype_to_pads(size, window, (stride, stride), padding)
    x = jnp.pad(images, ((0, 0), *padding, (0, 0)))
    # Widths first and then heights: fewer copies than one for each entry of the window.
    for axis, extent in ((2, window[1]), (1, window[0])):
        last = x.shape[axis] - extent
        shifts = [
            jax.lax.slice_in_dim(x, start, start + last + 1, stride, axis)
            for start in range(extent)
        ]
        x = jnp.concatenate(shifts, axis=-1)
    return x
