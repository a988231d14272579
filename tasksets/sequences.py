"""Sequences made on the device: the problem that copying and associative recall share.

    loss = mean_{b,t} CE(h_bt W + b, answer_bt),    over the last `num_answers` times

with h the outputs of a recurrent network that reads one-hot tokens. A batch is its own
chance: a `Sequences` makes one from a key, the same for all four splits, and every
answer can be told from the sequence. So the best loss is 0; the initial one is
log(num_tokens).
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from tasksets.classification import cross_entropy
from tasksets.initializers import (
    SONNET,
    InitializerNumbers,
    Kind,
    init_weight,
    initializer,
)
from tasksets.recurrent import (
    CellNumbers,
    CoreConfig,
    Recurrent,
    build_recurrent,
)
from tasksets.task import Problem, SplitName

Params = PyTree


class SequenceBatch(NamedTuple):
    """What is read, and what is to be said at the end."""

    tokens: Int[Array, "batch time"]
    answers: Int[Array, "batch num_answers"]  # one at each of the last times


class Sequences(Protocol):
    """What makes sequences; hashable, and equal to what makes the same ones."""

    @property
    def vocab_size(self) -> int:
        """How many tokens there are, those with a meaning of their own included."""
        ...

    def make(self, key: PRNGKeyArray) -> SequenceBatch:
        """One batch."""
        ...


class SequenceNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    cell: CellNumbers
    output: InitializerNumbers
    initial_loss: Float[Array, "*lanes"]  # log(vocab_size)
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class SequencePrediction(Problem):
    """The structure of a task that answers at the end of a sequence."""

    recurrent: Recurrent
    output: Kind
    sequences: Sequences

    def init(self, numbers: SequenceNumbers, key: PRNGKeyArray) -> Params:
        cell_key, output_key = jax.random.split(key)
        vocab_size = self.sequences.vocab_size
        shape = (self.recurrent.cell.size, vocab_size)
        weight = init_weight(self.output, numbers.output, shape, output_key)
        return {
            **self.recurrent.init(numbers.cell, vocab_size, cell_key),
            "output": {"w": weight, "b": jnp.zeros(vocab_size)},
        }

    def take(
        self,
        numbers: SequenceNumbers,
        data: tuple[()],
        split: SplitName,
        drawn: PRNGKeyArray,
    ) -> SequenceBatch:
        del numbers, data, split
        return self.sequences.make(drawn)

    def loss(
        self,
        numbers: SequenceNumbers,
        params: Params,
        batch: SequenceBatch,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        logits = self._logits(numbers, params, batch)
        flat = logits.reshape(-1, self.sequences.vocab_size)
        return cross_entropy(flat, batch.answers.T.reshape(-1))

    def metrics(
        self,
        numbers: SequenceNumbers,
        params: Params,
        batch: SequenceBatch,
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, ""]]:
        del key
        said = jnp.argmax(self._logits(numbers, params, batch), axis=-1)
        return {"accuracy": jnp.mean((said == batch.answers.T).astype(jnp.float32))}

    def _logits(
        self, numbers: SequenceNumbers, params: Params, batch: SequenceBatch
    ) -> Float[Array, "num_answers batch vocab"]:
        weight = params["output"]["w"]
        one_hot = jax.nn.one_hot(batch.tokens.T, len(weight.T), dtype=weight.dtype)
        outputs = self.recurrent.apply(numbers.cell, params, one_hot)
        last = outputs[-batch.answers.shape[1] :]
        return last @ weight + params["output"]["b"]


def build_sequence_prediction(
    sequences: Sequences, config: CoreConfig
) -> tuple[SequencePrediction, SequenceNumbers, tuple[()]]:
    """The task of answering with a config's core."""
    recurrent, cell_numbers = build_recurrent(config)
    output, output_numbers = initializer(*SONNET)
    numbers = SequenceNumbers(
        cell=cell_numbers,
        output=output_numbers,
        initial_loss=jnp.float32(np.log(sequences.vocab_size)),
        best_loss=jnp.float32(0.0),
    )
    return SequencePrediction(recurrent, output, sequences), numbers, ()
