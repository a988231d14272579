"""Convolutional encoders and decoders: from images to codes of 1/2^n, and back.

Every layer of an encoder is a 3x3 convolution of stride 2 and a relu; every layer of a
decoder is the transpose of one. They are the coders of TaskSet's convolutional
autoencoders (Metz et al. 2020, arXiv 2002.11887).
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.classification import Network
from tasksets.convolution import convolve
from tasksets.initializers import InitializerNumbers, Kind, init_weight

Params = dict[str, Any]

_DECODED_CHANNELS = 32  # of the smallest image in a decoder
# [tap, parity, index]: which entry of a kernel of 3 is at a tap for an output's parity.
_TAPS = np.zeros((2, 2, 3), np.float32)
_TAPS[[0, 1, 1], [0, 0, 1], [0, 2, 1]] = 1


@dataclass(frozen=True)
class ConvEncoder:
    """Convolutions of stride 2, each with a relu, then a dense layer."""

    channels: tuple[int, ...]
    initializer: Kind = "entrywise"

    def init(
        self,
        numbers: InitializerNumbers,
        shape: tuple[int, ...],
        num_outputs: int,
        key: PRNGKeyArray,
    ) -> Params:
        conv_key, dense_key = jax.random.split(key)
        height, width = smallest_size(shape, len(self.channels))
        flat = height * width * (self.channels or shape)[-1]
        convs = _init_convs(
            (shape[-1], *self.channels), self.initializer, numbers, conv_key
        )
        dense = _init_layer((flat, num_outputs), self.initializer, numbers, dense_key)
        return {**convs, "dense": dense}

    def apply(
        self,
        numbers: InitializerNumbers,
        params: Params,
        inputs: Float[Array, "batch height width channels"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch outputs"]:
        del numbers, key
        x = inputs
        for i in range(len(self.channels)):
            layer = params[f"conv_{i}"]
            x = jax.nn.relu(convolve(x, layer["w"], 2, "SAME") + layer["b"])
        return _dense(params["dense"], x.reshape(len(x), -1))


@dataclass(frozen=True)
class ConvDecoder:
    """A dense layer, transposed convolutions with relus, and a 1x1 convolution.

    The outputs are [group, height, width, channel] in one axis, where a group has as
    many channels as the images: one group of pixels, or all means and all log_std.
    """

    shape: tuple[int, ...]  # of the images
    channels: tuple[int, ...]
    initializer: Kind = "entrywise"

    def __post_init__(self) -> None:
        smallest_size(self.shape, len(self.channels))

    def init(
        self,
        numbers: InitializerNumbers,
        shape: tuple[int, ...],
        num_outputs: int,
        key: PRNGKeyArray,
    ) -> Params:
        dense_key, conv_key, last_key = jax.random.split(key, 3)
        (num_latents,) = shape
        height, width = smallest_size(self.shape, len(self.channels))
        channels = (_DECODED_CHANNELS, *self.channels)
        code = (num_latents, height * width * channels[0])
        pixel = (1, 1, channels[-1], num_outputs // (self.shape[0] * self.shape[1]))
        convs = _init_convs(channels, self.initializer, numbers, conv_key)
        return {
            "dense": _init_layer(code, self.initializer, numbers, dense_key),
            **convs,
            "pixels": _init_layer(pixel, self.initializer, numbers, last_key),
        }

    def apply(
        self,
        numbers: InitializerNumbers,
        params: Params,
        inputs: Float[Array, "batch latents"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch outputs"]:
        del numbers, key
        size = smallest_size(self.shape, len(self.channels))
        x = _dense(params["dense"], inputs).reshape(len(inputs), *size, -1)
        for i in range(len(self.channels)):
            layer = params[f"conv_{i}"]
            x = jax.nn.relu(conv_transpose(x, layer["w"]) + layer["b"])
        x = convolve(x, params["pixels"]["w"], 1, "SAME") + params["pixels"]["b"]
        groups = x.reshape(*x.shape[:3], -1, self.shape[-1])
        return jnp.moveaxis(groups, 3, 1).reshape(len(x), -1)


@dataclass(frozen=True)
class Chain:
    """An encoder to some number of latents, followed by a decoder."""

    encoder: Network
    decoder: Network
    latents: int

    def init(
        self, numbers: Any, shape: tuple[int, ...], num_outputs: int, key: PRNGKeyArray
    ) -> Params:
        encoder_key, decoder_key = jax.random.split(key)
        latents = (self.latents,)
        return {
            "encoder": self.encoder.init(numbers, shape, self.latents, encoder_key),
            "decoder": self.decoder.init(numbers, latents, num_outputs, decoder_key),
        }

    def apply(
        self,
        numbers: Any,
        params: Params,
        inputs: Float[Array, "batch *shape"],
        key: PRNGKeyArray,
    ) -> Float[Array, "batch outputs"]:
        encoder_key, decoder_key = jax.random.split(key)
        code = self.encoder.apply(numbers, params["encoder"], inputs, encoder_key)
        return self.decoder.apply(numbers, params["decoder"], code, decoder_key)


def smallest_size(shape: tuple[int, ...], num_layers: int) -> tuple[int, int]:
    """Height and width after so many halvings; raises where one of them is odd."""
    factor = 2**num_layers
    if len(shape) != 3 or shape[0] % factor or shape[1] % factor:
        raise ValueError(
            f"{num_layers} layers of stride 2 need images whose height and width are "
            f"multiples of {factor}, not inputs of shape {shape}"
        )
    return shape[0] // factor, shape[1] // factor


def conv_transpose(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "3 3 inputs outputs"],
) -> Float[Array, "batch 2*height 2*width outputs"]:
    """`jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")`, several times faster on CPU.

    In one dimension y[2i] = k[0] x[i-1] + k[2] x[i] and y[2i+1] = k[1] x[i], so that it
    is a convolution of width 2 which has the even and the odd outputs as channels.
    """
    num_inputs, num_outputs = kernel.shape[2:]
    # An exact copy, so no less than full precision.
    split = jnp.einsum(
        "asm,btn,mnio->abisto", _TAPS, _TAPS, kernel, precision="highest"
    ).reshape(2, 2, num_inputs, 4 * num_outputs)
    y = convolve(x, split, 1, ((1, 0), (1, 0)))
    batch, height, width, _ = x.shape
    y = y.reshape(batch, height, width, 2, 2, num_outputs).swapaxes(2, 3)
    return y.reshape(batch, 2 * height, 2 * width, num_outputs)


def _dense(
    layer: Params, x: Float[Array, "batch inputs"]
) -> Float[Array, "batch outputs"]:
    return x @ layer["w"] + layer["b"]


def _init_convs(
    channels: tuple[int, ...],
    kind: Kind,
    numbers: InitializerNumbers,
    key: PRNGKeyArray,
) -> Params:
    """{"conv_0": {"w": [3, 3, channels[0], channels[1]], "b": [channels[1]]}, ...}."""
    pairs = list(zip(channels[:-1], channels[1:], strict=True))
    return {
        f"conv_{i}": _init_layer((3, 3, *pair), kind, numbers, layer_key)
        for i, (pair, layer_key) in enumerate(
            zip(pairs, jax.random.split(key, len(pairs)), strict=True)
        )
    }


def _init_layer(
    shape: tuple[int, ...], kind: Kind, numbers: InitializerNumbers, key: PRNGKeyArray
) -> Params:
    return {"w": init_weight(kind, numbers, shape, key), "b": jnp.zeros(shape[-1])}
