"""Variational autoencoders of images (Kingma & Welling 2013, arXiv 1312.6114).

    loss = mean_b  KL(q(z | x_b) | N(0, I)) - log p(x_b | z),    z ~ q(z | x_b)

the negative of one sample of the evidence lower bound. The encoder gives the means and
log standard deviations of a diagonal normal q, the decoder those of a quantised normal:

    log p(x | z) = sum_p log N(x_p + u_p; mean_p, std_p) + log bin,    u_p ~ U(-1, 1) bin/2

with noise u anew in every call, the uniform dequantisation of Uria et al. 2013 (arXiv
1306.0186). It is on average at most the log probability of the bin around x_p.

Three details of TaskSet (Metz et al. 2020, arXiv 2002.11887). The bin is 1/255 wide
whatever the images are; so it is half a bin for those of the fixed tasks, which are in
[-1, 1], and their loss is above that of whole bins by nearly log 2 for a pixel. This is
kept, as published curves have it. What the decoder gives is clipped to +-10, here too.
What the encoder gives is not clipped there, so that the largest initialisers overflow at
once; here the log standard deviation of q is clipped to +-10 as well.

Normalisation, for P pixels and channels: the initial loss is that of networks whose last
layers give 0, that is q = N(0, I) and p = N(0, 1), averaged over training images. The
best loss is P log(pi e / 6) / 2, below which no decoder comes, as no normal fits the
noise within a bin better. It is reached where every pixel is known exactly.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets.classification import Network, Params
from tasksets.data import Dataset, Examples
from tasksets.images import ImageNumbers, ImageProblem, serve_pixels
from tasksets.reconstruction import mean_over_pixels
from tasksets.sampling import ImageConfig

BIN = 1 / 255
_LARGEST = 10.0  # of what the decoder gives, and of log standard deviations
_LOG_SQRT_2_PI = 0.5 * np.log(2 * np.pi)


class Normal(NamedTuple):
    """A diagonal normal distribution."""

    mean: Float[Array, "batch dims"]
    log_std: Float[Array, "batch dims"]


class CoderNumbers(NamedTuple):
    """The numbers of the two networks."""

    encoder: Any
    decoder: Any


class VariationalNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    networks: CoderNumbers
    images: ImageNumbers
    initial_loss: Float[Array, "*lanes"]  # where both last layers give 0
    best_loss: Float[Array, "*lanes"]  # where the noise is all that is unknown


@dataclass(frozen=True)
class Variational(ImageProblem):
    """The structure of a task that trains a variational autoencoder."""

    encoder: Network  # from images to 2 * latents
    decoder: Network  # from latents to 2 * pixels: all means, then all log_std
    latents: int

    def init(self, numbers: VariationalNumbers, key: PRNGKeyArray) -> Params:
        encoder_key, decoder_key = jax.random.split(key)
        shape = self.images.shape
        return {
            "encoder": self.encoder.init(
                numbers.networks.encoder, shape, 2 * self.latents, encoder_key
            ),
            "decoder": self.decoder.init(
                numbers.networks.decoder,
                (self.latents,),
                2 * int(np.prod(shape)),
                decoder_key,
            ),
        }

    def loss(
        self,
        numbers: VariationalNumbers,
        params: Params,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        parts = self.metrics(numbers, params, batch, key)
        return parts["kl"] - parts["log_likelihood"]

    def metrics(
        self,
        numbers: VariationalNumbers,
        params: Params,
        batch: Examples,
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, ""]]:
        """The two parts of the loss, in nats for an image."""
        encoder_key, latent_key, decoder_key, bin_key = jax.random.split(key, 4)
        networks = numbers.networks
        inputs = batch.inputs
        encoded = self.encoder.apply(
            networks.encoder, params["encoder"], inputs, encoder_key
        )
        # What is summed over latents and pixels is float32, whatever the networks are.
        q = posterior(encoded.astype(jnp.float32))
        z = q.mean + jnp.exp(q.log_std) * jax.random.normal(latent_key, q.mean.shape)
        decoded = self.decoder.apply(
            networks.decoder, params["decoder"], z.astype(inputs.dtype), decoder_key
        )
        p = likelihood(decoded.astype(jnp.float32))
        pixels = batch.inputs.reshape(p.mean.shape)
        log_probs = quantized_log_prob(p, pixels, bin_key)
        return {
            "kl": jnp.mean(jnp.sum(kl_from_standard_normal(q), axis=1)),
            "log_likelihood": jnp.mean(jnp.sum(log_probs, axis=1)),
        }


def posterior(outputs: Float[Array, "batch 2*dims"]) -> Normal:
    """q(z | x) of what the encoder gives."""
    mean, log_std = jnp.split(outputs, 2, axis=-1)
    return Normal(mean, jnp.clip(log_std, -_LARGEST, _LARGEST))


def likelihood(outputs: Float[Array, "batch 2*dims"]) -> Normal:
    """p(x | z), not yet quantised, of what the decoder gives."""
    return Normal(*jnp.split(jnp.clip(outputs, -_LARGEST, _LARGEST), 2, axis=-1))


def kl_from_standard_normal(q: Normal) -> Float[Array, "batch dims"]:
    """KL(q | N(0, I)) of every dimension."""
    variance = jnp.exp(2 * q.log_std)
    return 0.5 * (q.mean**2 + variance - 1) - q.log_std


def quantized_log_prob(
    p: Normal, x: Float[Array, "batch dims"], key: PRNGKeyArray
) -> Float[Array, "batch dims"]:
    """log of bin * density at x moved by uniform noise within its bin."""
    noise = jax.random.uniform(key, x.shape, minval=-BIN / 2, maxval=BIN / 2)
    deviation = (x + noise - p.mean) * jnp.exp(-p.log_std)
    return np.log(BIN) - 0.5 * deviation**2 - p.log_std - _LOG_SQRT_2_PI


def build_variational(
    encoder: Network,
    decoder: Network,
    networks: CoderNumbers,
    config: ImageConfig,
    *,
    latents: int,
    center: bool,
) -> tuple[Variational, VariationalNumbers, Dataset]:
    """The task of training a variational autoencoder of a config's images."""
    images, image_numbers, data = serve_pixels(config, center=center)
    num_pixels = np.prod(images.shape)
    square = mean_over_pixels(np.square, config, data, center) + BIN**2 / 12
    numbers = VariationalNumbers(
        networks=networks,
        images=image_numbers,
        initial_loss=jnp.float32(
            num_pixels * (square / 2 + _LOG_SQRT_2_PI - np.log(BIN))
        ),
        best_loss=jnp.float32(num_pixels * np.log(np.pi * np.e / 6) / 2),
    )
    return Variational(encoder, decoder, latents, images=images), numbers, data
