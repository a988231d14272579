"""rnn_text_classification_family: recurrent networks that classify reviews.

    loss = mean_b CE(readout_t(h_bt) W + b, label_b),    h = cell(embedding(subwords))

with the readout the last, the mean or the maximum over time, padding included. One of
the twelve families of TaskSet (Metz et al. 2020, arXiv 2002.11887). A seed gives the
config that it gives there.

TaskSet samples one of nine data sets and serves imdb_reviews/subwords8k for each, by a
typo that its authors kept because the curves had been published; and it samples
`just_train` without applying it. So `sampled_dataset` and `sampled_just_train` are
only what its JSON has, and `dataset` and `just_train` are what is served, here as there.

Normalisation: initial loss log(classes), best loss 0.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from tasksets import sampling, text_sampling
from tasksets.classification import accuracy, cross_entropy
from tasksets.family import Family
from tasksets.initializers import InitializerNumbers, Kind, init_weight, initializer
from tasksets.names import NOT_APPLIED, UnknownNameError
from tasksets.recurrent import CellNumbers, CoreConfig, TokenRnn, build_recurrent
from tasksets.text import (
    TextBatch,
    TextConfig,
    TextData,
    TextNumbers,
    TextProblem,
    serve_text,
)

Params = PyTree

_READOUTS = {
    "last": lambda outputs: outputs[-1],
    "avg": lambda outputs: jnp.mean(outputs, axis=0),
    "max": lambda outputs: jnp.max(outputs, axis=0),
}


@dataclass(frozen=True, kw_only=True)
class RnnTextClassificationConfig(CoreConfig, TextConfig):
    """Every field of the family, with how it is sampled."""

    embedding_size: int  # logint 8-128
    initializer: str  # of the output layer; as in mlp_family
    initializer_scale: float | None  # logU(.1, 10); None where there is none
    vocab_size: int  # logint 100-10000
    max_token: int | None  # 8185, which bounds vocab_size; None: no bound
    readout: str  # last, avg, max; uniform
    # Uniform over nine names, and not what is served; with p .2, and not applied.
    sampled_dataset: str = field(metadata=NOT_APPLIED)
    sampled_just_train: bool = field(metadata=NOT_APPLIED)

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        served = {
            "bs": self.batch_size,
            "num_train": self.num_train,
            "max_token": self.max_token,
            "just_train": self.sampled_just_train,
            "patch_length": self.patch_length,
        }
        return {
            "embed_dim": self.embedding_size,
            "w_init": [self.initializer, self.initializer_scale],
            "dataset": [self.sampled_dataset, served],
            "vocab_size": self.vocab_size,
            "core": self.core_as_taskset(),
            "trainable_init": self.trainable_state,
            "loss_compute": self.readout,
        }


def sample(seed: int) -> RnnTextClassificationConfig:
    """The config that TaskSet samples from `seed`."""
    rng = np.random.RandomState(seed)
    embedding_size = sampling.log_int(rng, 8, 128)
    initializer_name, initializer_scale = sampling.initializer_name(rng)
    return RnnTextClassificationConfig(
        embedding_size=embedding_size,
        initializer=initializer_name,
        initializer_scale=initializer_scale,
        **text_sampling.classified_text(rng),
        dataset="imdb_reviews/subwords8k",
        just_train=False,
        max_token=8185,
        vocab_size=sampling.log_int(rng, 100, 10000),
        **text_sampling.core_fields(rng),
        trainable_state=bool(rng.choice([True, False])),
        readout=str(rng.choice(["last", "avg", "max"])),
    )


class RnnTextClassificationNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    cell: CellNumbers
    output: InitializerNumbers
    texts: TextNumbers
    initial_loss: Float[Array, "*lanes"]  # log(classes)
    best_loss: Float[Array, "*lanes"]  # 0


@dataclass(frozen=True)
class RnnTextClassification(TextProblem):
    """The structure of a task that classifies texts."""

    network: TokenRnn
    output: Kind
    readout: str

    def init(self, numbers: RnnTextClassificationNumbers, key: PRNGKeyArray) -> Params:
        network_key, output_key = jax.random.split(key)
        num_classes = self.texts.info.num_classes
        shape = (self.network.recurrent.cell.size, num_classes)
        weight = init_weight(self.output, numbers.output, shape, output_key)
        return {
            **self.network.init(numbers.cell, network_key),
            "output": {"w": weight, "b": jnp.zeros(num_classes)},
        }

    def loss(
        self,
        numbers: RnnTextClassificationNumbers,
        params: Params,
        batch: TextBatch,
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del key
        return cross_entropy(self._logits(numbers, params, batch), batch.labels)

    def metrics(
        self,
        numbers: RnnTextClassificationNumbers,
        params: Params,
        batch: TextBatch,
        key: PRNGKeyArray,
    ) -> dict[str, Float[Array, ""]]:
        del key
        logits = self._logits(numbers, params, batch)
        return {"accuracy": accuracy(logits, batch.labels)}

    def _logits(
        self, numbers: RnnTextClassificationNumbers, params: Params, batch: TextBatch
    ) -> Float[Array, "batch classes"]:
        outputs = self.network.apply(numbers.cell, params, batch.tokens)
        read = _READOUTS[self.readout](outputs)
        return read @ params["output"]["w"] + params["output"]["b"]


def build(
    config: RnnTextClassificationConfig,
) -> tuple[RnnTextClassification, RnnTextClassificationNumbers, TextData]:
    """The task of a config."""
    if config.readout not in _READOUTS:
        raise UnknownNameError("readout", config.readout, _READOUTS)
    recurrent, cell_numbers = build_recurrent(config)
    output, output_numbers = initializer(config.initializer, config.initializer_scale)
    texts, text_numbers, data = serve_text(config)
    if data.info.num_classes < 2:
        raise ValueError(f"{config.dataset} has no labels to classify")
    numbers = RnnTextClassificationNumbers(
        cell=cell_numbers,
        output=output_numbers,
        texts=text_numbers,
        initial_loss=jnp.float32(np.log(data.info.num_classes)),
        best_loss=jnp.float32(0.0),
    )
    vocab_size = min(config.vocab_size, config.max_token or config.vocab_size)
    network = TokenRnn(recurrent, vocab_size, config.embedding_size)
    problem = RnnTextClassification(network, output, config.readout, texts=texts)
    return problem, numbers, data


FAMILY = Family("rnn_text_classification_family", sample, build)
