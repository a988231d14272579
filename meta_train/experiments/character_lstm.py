"""A character-level LSTM that reads one text, as a system whose theta are its weights.

    i, j, f, o = [e(x_t), h_{t-1}] W + b
    c_t = sigmoid(f) c_{t-1} + sigmoid(i) tanh(j),    h_t = sigmoid(o) tanh(c_t)
    L_t = -log softmax(h_t R + r)[x_{t+1}]

(Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al. 2000), small enough for
exact Jacobians: state and embeddings e have five numbers each. Texts of three kinds differ
in how much windows of an episode have in common: real ones, characters drawn at random,
and one character over and over.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from tasksets.text import load_text

_SIZE = 5  # of the state and of an embedded character

Weights = dict[str, Float[Array, "..."]]


class Memory(NamedTuple):
    """The network's state, and how many characters it has read."""

    hidden: Float[Array, "size"]
    cell: Float[Array, "size"]
    step: Int[Array, ""]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CharacterLSTM:
    """The system; theta are the weights of the network.

    Attributes:
      text: characters by number, one more than there are steps.
      num_characters: that there are.
    """

    text: Int[Array, "characters"]
    num_characters: int = dataclasses.field(metadata={"static": True})

    def weights(self, key: PRNGKeyArray) -> Weights:
        """Normal with variance 1 / inputs, embeddings with variance 1, biases 0."""
        embed_key, gate_key, read_key = jax.random.split(key, 3)
        scale = lambda inputs: 1 / jnp.sqrt(inputs)
        return {
            "embed": jax.random.normal(embed_key, (self.num_characters, _SIZE)),
            "gates": scale(2 * _SIZE)
            * jax.random.normal(gate_key, (2 * _SIZE, 4 * _SIZE)),
            "gate_biases": jnp.zeros(4 * _SIZE),
            "read": scale(_SIZE)
            * jax.random.normal(read_key, (_SIZE, self.num_characters)),
            "read_biases": jnp.zeros(self.num_characters),
        }

    def init(self, key: PRNGKeyArray) -> Memory:
        """Nothing read."""
        del key
        return Memory(jnp.zeros(_SIZE), jnp.zeros(_SIZE), jnp.zeros((), jnp.int32))

    def inputs(
        self, state: Memory, key: PRNGKeyArray, num_steps: int
    ) -> Int[Array, "steps 2"]:
        """Each character with the next."""
        del key
        text = jax.lax.dynamic_slice(self.text, (state.step,), (num_steps + 1,))
        return jnp.stack([text[:-1], text[1:]], axis=1)

    def step(
        self, theta: Weights, state: Memory, key: PRNGKeyArray
    ) -> tuple[Memory, Float[Array, ""]]:
        """Read one character."""
        return self.advance(theta, state, self.inputs(state, key, 1)[0])

    def advance(
        self, theta: Weights, state: Memory, x: Int[Array, "2"]
    ) -> tuple[Memory, Float[Array, ""]]:
        """Read one character and be told the next."""
        seen = jnp.concatenate([theta["embed"][x[0]], state.hidden])
        gates = seen @ theta["gates"] + theta["gate_biases"]
        write, new, forget, show = jnp.split(gates, 4)
        cell = jax.nn.sigmoid(forget) * state.cell
        cell += jax.nn.sigmoid(write) * jnp.tanh(new)
        hidden = jax.nn.sigmoid(show) * jnp.tanh(cell)
        scores = hidden @ theta["read"] + theta["read_biases"]
        loss = jax.nn.logsumexp(scores) - scores[x[1]]
        return Memory(hidden, cell, state.step + 1), loss


def texts(
    corpus: str, num_steps: int, seeds: Sequence[int]
) -> list[dict[str, CharacterLSTM]]:
    """For each seed a text of each kind, all over the same characters.

    Args:
      corpus: where the real texts are from, a name of `tasksets.text`.
      num_steps: characters that are read.
      seeds: of which piece is taken, and of the characters that are drawn.
    """
    data, length = load_text(corpus), num_steps + 1
    tokens, starts, lengths = (
        np.asarray(x) for x in (data.tokens, data.train.starts, data.train.lengths)
    )

    def piece(rng: np.random.Generator) -> np.ndarray:
        """From a document on, with empty lines between it and those after."""
        text, document = b"", int(rng.integers(len(starts)))
        while len(text) < length:
            first = starts[document]
            text += tokens[first : first + lengths[document]].tobytes() + b"\n\n"
            document = (document + 1) % len(starts)
        return np.frombuffer(text[:length], np.uint8)

    rngs = [np.random.default_rng(seed) for seed in seeds]
    pieces = [piece(rng) for rng in rngs]
    alphabet = np.unique(pieces)

    def system(text: np.ndarray) -> CharacterLSTM:
        return CharacterLSTM(jnp.asarray(text, jnp.int32), len(alphabet))

    return [
        {
            "real text": system(np.searchsorted(alphabet, piece)),
            "random": system(rng.integers(len(alphabet), size=length)),
            "repeated": system(np.full(length, rng.integers(len(alphabet)))),
        }
        for rng, piece in zip(rngs, pieces, strict=True)
    ]
