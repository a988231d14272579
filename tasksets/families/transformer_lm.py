"""transformer_lm: causal transformers that model bytes of text.

    loss = sum_bt m_bt CE(f(tokens_b1 ... tokens_bt), tokens_b(t+1)) / sum_bt m_bt

with m = 1 where the next token is text and 0 where it is padding. The network is the
decoder of Radford et al. 2019 (GPT-2): embeddings, pre-norm layers and a linear head;
positions are learned, or the sinusoids of Vaswani et al. 2017 (arXiv 1706.03762). The
ranges are those that VeLO was trained on (Metz et al. 2022, arXiv 2211.09760), as far
as one core can train. Normalisation: initial loss log(vocabulary), best loss that of
smoothed labels; text has an entropy, so that no network reaches it.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tasksets import sampling
from tasksets.activations import ActivationNumbers
from tasksets.attention import PositionEmbedding, Transformer, layer_flops
from tasksets.family import Family
from tasksets.label_smoothing import smoothed_cross_entropy, smoothed_entropy
from tasksets.language_model import weighted_mean
from tasksets.linen import Params, apply_linen, init_linen
from tasksets.text import (
    TextBatch,
    TextConfig,
    TextData,
    TextNumbers,
    TextProblem,
    serve_text,
)
from tasksets.variation import (
    ENTRY_FLOPS,
    VariationConfig,
    VariationNumbers,
    draw_affordable,
    generators,
    variation_fields,
    variation_numbers,
)

_POSITIONS = ("learned", "sinusoidal")
_BYTE_VOCABULARY = 257  # with the padding
_LONGEST_WAVELENGTH = 1e4


@dataclass(frozen=True, kw_only=True)
class TransformerLmConfig(TextConfig, VariationConfig):
    """Every field of the family, with how it is sampled."""

    dataset: str = "tiny_shakespeare"  # not sampled
    patch_length: int = 64  # tokens in a piece of text; logint 8-256
    batch_size: int = 16  # logint 4-256
    num_train: int | None = None  # not sampled
    just_train: bool = False  # not sampled
    layers: int = 2  # logint 1-8
    heads: int = 4  # logint 1-16
    head_width: int = 16  # logint 8-128; the width of a token is heads times this
    mlp_ratio: int = 4  # width of the MLP over that of a token; from {1, 2, 4}
    positions: str = "learned"  # learned or sinusoidal; 50/50


def sample(seed: int) -> TransformerLmConfig:
    """The config of `seed`; its structure is that of seed % 32."""
    of_structure, of_numbers = generators("transformer_lm", seed)
    structure = draw_affordable(_draw_structure, step_flops, of_structure)
    return TransformerLmConfig(**structure, **variation_fields(of_numbers))


def _draw_structure(rng: np.random.RandomState) -> dict[str, Any]:
    return {
        "patch_length": sampling.log_int(rng, 8, 256),
        "batch_size": sampling.log_int(rng, 4, 256),
        "layers": sampling.log_int(rng, 1, 8),
        "heads": sampling.log_int(rng, 1, 16),
        "head_width": sampling.log_int(rng, 8, 128),
        "mlp_ratio": int(rng.choice([1, 2, 4])),
        "positions": str(rng.choice(_POSITIONS)),
    }


def step_flops(structure: dict[str, Any]) -> int:
    """Of a training step on bytes; backward is twice forward."""
    tokens = structure["patch_length"] - 1
    width = structure["heads"] * structure["head_width"]
    heads, mlp_width = structure["heads"], structure["mlp_ratio"] * width
    layer = layer_flops(tokens, width, heads, mlp_width)
    head = tokens * _BYTE_VOCABULARY * (2 * width + ENTRY_FLOPS)
    return 3 * structure["batch_size"] * (structure["layers"] * layer + head)


class LanguageModel(nn.Module):
    """Logits of the next token at every position."""

    vocab_size: int
    layers: int
    heads: int
    head_width: int
    mlp_ratio: int
    positions: str

    @nn.compact
    def __call__(
        self, tokens: Int[Array, "batch tokens"], activation: ActivationNumbers
    ) -> Float[Array, "batch tokens vocab"]:
        width = self.heads * self.head_width
        x = nn.Embed(self.vocab_size, width, name="tokens")(tokens)
        if self.positions == "learned":
            x = PositionEmbedding(name="positions")(x)
        else:
            # Both tables have entries of variance 1 / width.
            waves = sinusoids(tokens.shape[1], width) * math.sqrt(2 / width)
            x = x + waves.astype(x.dtype)
        mlp_width = self.mlp_ratio * width
        body = Transformer(
            self.layers, self.heads, mlp_width, causal=True, name="transformer"
        )
        return nn.Dense(self.vocab_size, name="head")(body(x, activation))


def sinusoids(num_tokens: int, width: int) -> Float[Array, "tokens width"]:
    """sin and cos of position / 10^(8 i / width), half of the features each."""
    num_sines = (width + 1) // 2
    frequency = _LONGEST_WAVELENGTH ** (-np.arange(num_sines) / num_sines)
    phase = np.arange(num_tokens)[:, None] * frequency
    waves = np.concatenate([np.sin(phase), np.cos(phase)], axis=-1)[:, :width]
    return jnp.asarray(waves, jnp.float32)


class TransformerLmNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    network: VariationNumbers
    texts: TextNumbers
    initial_loss: Float[Array, "*lanes"]  # log(vocabulary)
    best_loss: Float[Array, "*lanes"]  # the entropy of a smoothed label


@dataclass(frozen=True)
class TransformerLm(TextProblem):
    """The structure of a task of this family."""

    module: LanguageModel

    def init(self, numbers: TransformerLmNumbers, key: PRNGKeyArray) -> Params:
        shape = (1, self.texts.patch_length - 1)
        tokens = jax.ShapeDtypeStruct(shape, jnp.int32)
        return init_linen(self.module, numbers.network, tokens, key)

    def loss(
        self,
        numbers: TransformerLmNumbers,
        params: Params,
        batch: TextBatch,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        logits = self.logits(numbers, params, batch.tokens[:, :-1])
        losses = smoothed_cross_entropy(
            logits, batch.tokens[:, 1:], numbers.network.label_smoothing
        )
        return weighted_mean(losses, batch.mask[:, 1:])

    def metrics(
        self,
        numbers: TransformerLmNumbers,
        params: Params,
        batch: TextBatch,
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, ""]]:
        del key
        logits = self.logits(numbers, params, batch.tokens[:, :-1])
        right = jnp.argmax(logits, axis=-1) == batch.tokens[:, 1:]
        return {"accuracy": weighted_mean(right.astype(jnp.float32), batch.mask[:, 1:])}

    def logits(
        self,
        numbers: TransformerLmNumbers,
        params: Params,
        tokens: Int[Array, "batch tokens"],
    ) -> Float[Array, "batch tokens vocab"]:
        """Of the token that follows each; depends on that one and those before."""
        return apply_linen(self.module, numbers.network, params, tokens)


def build(
    config: TransformerLmConfig,
) -> tuple[TransformerLm, TransformerLmNumbers, TextData]:
    """The task of a config."""
    if config.positions not in _POSITIONS:
        raise ValueError(
            f"positions are {' or '.join(_POSITIONS)}, not {config.positions!r}"
        )
    if config.patch_length < 2:
        raise ValueError(
            f"patch_length is at least 2, a token and the next, not "
            f"{config.patch_length}"
        )
    texts, text_numbers, data = serve_text(config)
    vocab_size = data.info.vocab_size
    module = LanguageModel(
        vocab_size=vocab_size,
        layers=config.layers,
        heads=config.heads,
        head_width=config.head_width,
        mlp_ratio=config.mlp_ratio,
        positions=config.positions,
    )
    numbers = TransformerLmNumbers(
        network=variation_numbers(config),
        texts=text_numbers,
        initial_loss=jnp.float32(math.log(vocab_size)),
        best_loss=jnp.float32(smoothed_entropy(config.label_smoothing, vocab_size)),
    )
    return TransformerLm(module, texts=texts), numbers, data


FAMILY = Family("transformer_lm", sample, build)
