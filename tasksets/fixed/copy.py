"""Copying: a sequence is said again after it has been read. Nine tasks of TaskSet.

    tokens   s_1 ... s_L | ! ... !            answers   s_1 ... s_L, at the last L times

with s uniform over `num_tokens`, the separator "|" token num_tokens, and the L marks "!"
token num_tokens + 1. The nine are of Metz et al. 2020 (arXiv 2002.11887). No data set:
batches are made on the device.
"""

from dataclasses import dataclass

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
class CopyConfig(CoreConfig):
    """A core, and how long the sequences are that it reads."""

    batch_size: int
    length: int  # of what is copied; a sequence is 2 length + 1 long
    num_tokens: int  # to copy from


@dataclass(frozen=True)
class Copies:
    """Makes sequences to be said again."""

    batch_size: int
    length: int
    num_tokens: int

    @property
    def vocab_size(self) -> int:
        return self.num_tokens + 2

    def make(self, key: PRNGKeyArray) -> SequenceBatch:
        shape = (self.batch_size, self.length)
        said = draw_indices(self.num_tokens, self.batch_size * self.length, key)
        said = said.reshape(shape)
        separator = jnp.full_like(said[:, :1], self.num_tokens)
        marks = jnp.full_like(said, self.num_tokens + 1)
        return SequenceBatch(
            tokens=jnp.concatenate([said, separator, marks], axis=1), answers=said
        )


def build(
    config: CopyConfig,
) -> tuple[SequencePrediction, SequenceNumbers, tuple[()]]:
    """The task of a config."""
    if config.length < 1 or config.num_tokens < 1:
        raise ValueError(
            f"length and num_tokens are at least 1, not {config.length} and "
            f"{config.num_tokens}"
        )
    copies = Copies(config.batch_size, config.length, config.num_tokens)
    return build_sequence_prediction(copies, config)


def _config(core: str, size: int, length: int, tokens: int) -> CopyConfig:
    return CopyConfig(
        **vars(default_core(core, size, trainable_state=False)),
        batch_size=128,
        length=length,
        num_tokens=tokens,
    )


FIXED = FixedTasks(
    "copy",
    {
        "Copy_LSTM128_BS128_Length5_Tokens10": _config("lstm", 128, 5, 10),
        "Copy_LSTM128_BS128_Length20_Tokens20": _config("lstm", 128, 20, 20),
        "Copy_LSTM128_BS128_Length50_Tokens5": _config("lstm", 128, 50, 5),
        "Copy_LSTM128_BS128_Length20_Tokens10": _config("lstm", 128, 20, 10),
        "Copy_GRU128_BS128_Length20_Tokens10": _config("gru", 128, 20, 10),
        "Copy_VRNN128_BS128_Length20_Tokens10": _config("vanilla", 128, 20, 10),
        "Copy_LSTM256_BS128_Length40_Tokens50": _config("lstm", 256, 40, 50),
        "Copy_GRU256_BS128_Length40_Tokens50": _config("gru", 256, 40, 50),
        "Copy_VRNN256_BS128_Length40_Tokens50": _config("vanilla", 256, 40, 50),
    },
    build,
)
