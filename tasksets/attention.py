"""The pre-norm transformer, as `vit` and `transformer_lm` use it.

    x <- x + attention(norm(x)),    x <- x + W_2 act(W_1 norm(x))

(Vaswani et al. 2017, arXiv 1706.03762; norms first as in Xiong et al. 2020, arXiv
2002.04745.) The layers are written out and not scanned, so that every matrix is a
tensor of its own, as optimizers with a state for each tensor expect.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from tasksets.activations import ActivationNumbers, activate
from tasksets.variation import ENTRY_FLOPS


class Transformer(nn.Module):
    """Layers of attention and MLP, and a last norm."""

    num_layers: int
    num_heads: int
    mlp_width: int
    causal: bool = False  # whether a position sees only itself and those before

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], activation: ActivationNumbers
    ) -> Float[Array, "batch tokens width"]:
        for i in range(self.num_layers):
            layer = TransformerLayer(
                self.num_heads, self.mlp_width, self.causal, name=f"layer_{i}"
            )
            x = layer(x, activation)
        return nn.LayerNorm(name="norm")(x)


class TransformerLayer(nn.Module):
    """Attention and MLP, each added to what it reads."""

    num_heads: int
    mlp_width: int
    causal: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"], activation: ActivationNumbers
    ) -> Float[Array, "batch tokens width"]:
        width = x.shape[-1]
        normed = nn.LayerNorm(name="attention_norm")(x)
        query_key_value = nn.Dense(3 * width, name="query_key_value")(normed)
        mixed = attend(query_key_value, self.num_heads, self.causal)
        x = x + nn.Dense(width, name="attention_out")(mixed)
        normed = nn.LayerNorm(name="mlp_norm")(x)
        hidden = activate(activation, nn.Dense(self.mlp_width, name="mlp_in")(normed))
        return x + nn.Dense(width, name="mlp_out")(hidden)


class PositionEmbedding(nn.Module):
    """Adds to every token what is learned for its place."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens width"]
    ) -> Float[Array, "batch tokens width"]:
        zeros = nn.initializers.zeros_init()
        return x + self.param("embedding", zeros, x.shape[1:])


def attend(
    query_key_value: Float[Array, "batch tokens width3"], num_heads: int, causal: bool
) -> Float[Array, "batch tokens width"]:
    """Scaled dot-product attention: softmax(q k^T / sqrt(head width)) v by head."""
    batch, tokens, width = query_key_value.shape
    head_width = width // (3 * num_heads)
    by_head = query_key_value.reshape(batch, tokens, 3, num_heads, head_width)
    query, key, value = (by_head[:, :, i] for i in range(3))
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key) / math.sqrt(head_width)
    if causal:
        scores = jnp.where(_sees(tokens), scores, -jnp.inf)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores), value)
    return mixed.reshape(batch, tokens, width // 3)


def _sees(tokens: int) -> Bool[Array, "queries keys"]:
    return jnp.tril(jnp.ones((tokens, tokens), bool))


def layer_flops(num_tokens: int, width: int, num_heads: int, mlp_width: int) -> int:
    """Of one layer's forward pass over one sequence."""
    per_token = 4 * width**2 + 2 * num_tokens * width + 2 * width * mlp_width
    entries = num_heads * num_tokens + mlp_width + 2 * width
    return num_tokens * (2 * per_token + ENTRY_FLOPS * entries)
