"""Recurrent language models: the problem that char and word models share.

    loss = sum_{b,t} w_bt CE(h_{b,t-1} W + b, token_bt) / sum_{b,t} w_bt,    t >= 1

with h the outputs of a recurrent network that reads the tokens, and w_bt = 1 for text.
The padding that follows a document shorter than a patch has w_bt = 1 too where
`padding_counts`, else 0. Normalisation: initial loss log(vocabulary), best loss 0.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tasksets.classification import logits_of_labels
from tasksets.initializers import InitializerNumbers, Kind, init_weight, initializer
from tasksets.recurrent import CellNumbers, CoreConfig, TokenRnn, build_recurrent
from tasksets.text import (
    NUM_PER_VALID,
    TextBatch,
    TextConfig,
    TextData,
    TextNumbers,
    TextProblem,
    serve_text,
)

Params = PyTree


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig(CoreConfig, TextConfig):
    """Every field of the two families, with how it is sampled."""

    embedding_size: int  # logint 8-128
    initializer: str  # of the output layer; as in mlp_family
    initializer_scale: float | None  # logU(.1, 10); None where there is none
    vocab_size: (
        int  # bytes: 256 with p .8, else logint 100-256; words: logint 1000-30000
    )
    padding_counts: bool  # True, as TaskSet has it; False in its fixed tasks

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        served = {
            "patch_length": self.patch_length,
            "batch_size": self.batch_size,
            "just_train": self.just_train,
            "num_train": self.num_train,
        }
        return {
            "embed_dim": self.embedding_size,
            "w_init": [self.initializer, self.initializer_scale],
            "vocab_size": self.vocab_size,
            "core": self.core_as_taskset(),
            "trainable_init": self.trainable_state,
            "dataset": [self.dataset, served],
        }


class LanguageModelNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    cell: CellNumbers
    output: InitializerNumbers
    texts: TextNumbers
    padding_weight: Float[Array, "*lanes"]  # of a padding token in the loss: 1 or 0
    initial_loss: Float[Array, "*lanes"]  # log(vocab_size)
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class LanguageModel(TextProblem):
    """The structure of a task that predicts the next token."""

    network: TokenRnn
    output: Kind

    def init(self, numbers: LanguageModelNumbers, key: PRNGKeyArray) -> Params:
        network_key, output_key = jax.random.split(key)
        vocab_size = self.network.vocab_size
        shape = (self.network.recurrent.cell.size, vocab_size)
        weight = init_weight(self.output, numbers.output, shape, output_key)
        return {
            **self.network.init(numbers.cell, network_key),
            "output": {"w": weight, "b": jnp.zeros(vocab_size)},
        }

    def loss(
        self,
        numbers: LanguageModelNumbers,
        params: Params,
        batch: TextBatch,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        logits, targets, weights = self._predictions(numbers, params, batch)
        return weighted_mean(token_losses(logits, targets), weights)

    def metrics(
        self,
        numbers: LanguageModelNumbers,
        params: Params,
        batch: TextBatch,
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, ""]]:
        del key
        logits, targets, weights = self._predictions(numbers, params, batch)
        correct = (jnp.argmax(logits, axis=-1) == targets).astype(jnp.float32)
        return {"accuracy": weighted_mean(correct, weights)}

    def _predictions(
        self, numbers: LanguageModelNumbers, params: Params, batch: TextBatch
    ) -> tuple[Float[Array, "t b v"], Int[Array, "t b"], Float[Array, "t b"]]:
        """Logits for every token of a patch but the first, these tokens, and w."""
        inputs = batch.tokens[:, :-1]  # of the last, nothing is predicted
        outputs = self.network.apply(numbers.cell, params, inputs)
        logits = outputs @ params["output"]["w"] + params["output"]["b"]
        targets = jnp.minimum(batch.tokens[:, 1:].T, self.network.vocab_size - 1)
        mask = batch.mask[:, 1:].T
        return logits, targets, mask + numbers.padding_weight * (1 - mask)


def build_language_model(
    config: LanguageModelConfig, num_per_valid: int = NUM_PER_VALID
) -> tuple[LanguageModel, LanguageModelNumbers, TextData]:
    """The task of a config; `num_per_valid` where the config leaves that open."""
    if config.patch_length < 2:
        raise ValueError(
            f"patch_length is at least 2, a token and the next, not {config.patch_length}"
        )
    recurrent, cell_numbers = build_recurrent(config)
    output, output_numbers = initializer(config.initializer, config.initializer_scale)
    texts, text_numbers, data = serve_text(config, num_per_valid)
    numbers = LanguageModelNumbers(
        cell=cell_numbers,
        output=output_numbers,
        texts=text_numbers,
        padding_weight=jnp.float32(config.padding_counts),
        initial_loss=jnp.float32(np.log(config.vocab_size)),
        best_loss=jnp.float32(0.0),
    )
    network = TokenRnn(recurrent, config.vocab_size, config.embedding_size)
    return LanguageModel(network, output, texts=texts), numbers, data


def token_losses(
    logits: Float[Array, "*shape classes"], targets: Int[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """-log softmax(logits)[target] of every token; in float32."""
    logits = logits.astype(jnp.float32)
    return jax.nn.logsumexp(logits, axis=-1) - logits_of_labels(logits, targets)


def weighted_mean(
    values: Float[Array, "*shape"], weights: Float[Array, "*shape"]
) -> Float[Array, ""]:
    """sum(weights * values) / sum(weights) in float32; 0 where no weight is above 0.

    The weights are 0 and 1, so their sum is at least 1 or is 0.
    """
    values, weights = (x.astype(jnp.float32) for x in (values, weights))
    return jnp.sum(weights * values) / jnp.maximum(jnp.sum(weights), 1.0)
