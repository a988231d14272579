"""Associative recall: a value is asked for by its key. Nine tasks of TaskSet.

    tokens   k_1 v_1 ... k_P v_P ? k_q        answer   v_q, at the last time

with k_1, ..., k_P different, values and q uniform, all of `num_tokens`; the mark "?" is
token num_tokens + 1, and num_tokens itself, the answer where nothing is asked, is never
read. After Ba et al. 2016 (arXiv 1610.06258); the nine are of Metz et al. 2020
(arXiv 2002.11887). No data set: batches are made on the device.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from tasksets.data import draw_indices
from tasksets.family import FixedTasks
from tasksets.recurrent import CoreConfig, default_core
from tasksets.sequences import (
    SequenceBatch,
    SequenceNumbers,
    SequencePrediction,
    build_sequence_prediction,
)


@dataclass(frozen=True, kw_only=True)
class AssociativeConfig(CoreConfig):
    """A core, and how long the sequences are that it reads."""

    batch_size: int
    num_pairs: int  # at most num_tokens
    num_tokens: int  # of keys and of values


@dataclass(frozen=True)
class Pairs:
    """Makes sequences of pairs and one question."""

    batch_size: int
    num_pairs: int
    num_tokens: int

    @property
    def vocab_size(self) -> int:
        return self.num_tokens + 2

    def make(self, key: PRNGKeyArray) -> SequenceBatch:
        keys_key, values_key, question_key = jax.random.split(key, 3)
        # Where the P largest of num_tokens uniforms are: P different tokens in uniform
        # order, even when two are equal, for a fraction of the cost of permutations.
        uniforms = jax.random.uniform(keys_key, (self.batch_size, self.num_tokens))
        keys = jax.lax.top_k(uniforms, self.num_pairs)[1]
        count = self.batch_size * self.num_pairs
        values = draw_indices(self.num_tokens, count, values_key).reshape(keys.shape)
        asked = draw_indices(self.num_pairs, self.batch_size, question_key)[:, None]
        of_asked = lambda tokens: jnp.take_along_axis(tokens, asked, axis=1)
        pairs = jnp.stack([keys, values], axis=-1).reshape(self.batch_size, -1)
        mark = jnp.full_like(asked, self.num_tokens + 1)
        return SequenceBatch(
            tokens=jnp.concatenate([pairs, mark, of_asked(keys)], axis=1),
            answers=of_asked(values),
        )


def build(
    config: AssociativeConfig,
) -> tuple[SequencePrediction, SequenceNumbers, tuple[()]]:
    """The task of a config."""
    if not 1 <= config.num_pairs <= config.num_tokens:
        raise ValueError(
            f"num_pairs is from 1 to num_tokens, as keys differ: it is "
            f"{config.num_pairs}, of {config.num_tokens} tokens"
        )
    pairs = Pairs(config.batch_size, config.num_pairs, config.num_tokens)
    return build_sequence_prediction(pairs, config)


def _config(core: str, size: int, pairs: int, tokens: int) -> AssociativeConfig:
    return AssociativeConfig(
        **vars(default_core(core, size, trainable_state=False)),
        batch_size=128,
        num_pairs=pairs,
        num_tokens=tokens,
    )


FIXED = FixedTasks(
    "associative",
    {
        "Associative_LSTM128_BS128_Pairs5_Tokens20": _config("lstm", 128, 5, 20),
        "Associative_LSTM128_BS128_Pairs20_Tokens50": _config("lstm", 128, 20, 50),
        "Associative_LSTM256_BS128_Pairs40_Tokens100": _config("lstm", 256, 40, 100),
        "Associative_LSTM128_BS128_Pairs10_Tokens50": _config("lstm", 128, 10, 50),
        "Associative_GRU128_BS128_Pairs10_Tokens50": _config("gru", 128, 10, 50),
        "Associative_VRNN128_BS128_Pairs10_Tokens50": _config("vanilla", 128, 10, 50),
        "Associative_LSTM256_BS128_Pairs20_Tokens50": _config("lstm", 256, 20, 50),
        "Associative_GRU256_BS128_Pairs20_Tokens50": _config("gru", 256, 20, 50),
        "Associative_VRNN256_BS128_Pairs20_Tokens50": _config("vanilla", 256, 20, 50),
    },
    build,
)
