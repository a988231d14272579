"""The loss and the metric of every classification task."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]
) -> Float[Array, ""]:
    """Mean over the batch of -log softmax(logits)[label]."""
    is_label = labels[:, None] == jnp.arange(logits.shape[-1])
    # A masked sum, because the gradient of indexing is a scatter, slow on CPU.
    target = jnp.sum(jnp.where(is_label, logits, 0.0), axis=-1)
    return jnp.mean(jax.nn.logsumexp(logits, axis=-1) - target)


def accuracy(
    logits: Float[Array, "batch classes"], labels: Int[Array, "batch"]
) -> Float[Array, ""]:
    """The fraction of the batch whose largest logit is the label's."""
    return jnp.mean((jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32))
