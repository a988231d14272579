"""Twelve recurrent classifiers of TaskSet (Metz et al. 2020, arXiv 2002.11887): imdb.

    loss = mean_b CE(readout_t(h_bt) W + b, label_b),    readout: the last, or the mean

Subwords, a vocabulary of 10000 of which the encoding has 8192, every weight as Sonnet
initialises it but the recurrent one of the IRNN (Le et al. 2015, arXiv 1504.00941), which
is the identity, and the start of the state trained. The problem is that of
`rnn_text_classification_family`.
"""

from dataclasses import replace

from tasksets.families.rnn_text_classification import (
    RnnTextClassificationConfig,
    build,
)
from tasksets.family import FixedTasks
from tasksets.initializers import SONNET
from tasksets.recurrent import CoreConfig, default_core

_IMDB = "imdb_reviews/subwords8k"


def _core(core: str, size: int, activation: str | None = None) -> CoreConfig:
    return default_core(core, size, trainable_state=True, activation=activation)


def _irnn(size: int) -> CoreConfig:
    identity = (
        ("in_to_hidden", SONNET),
        ("hidden_to_hidden", ("identity", None)),
    )
    return replace(_core("vanilla", size, "relu"), core_initializers=identity)


def _config(
    core: CoreConfig,
    readout: str,
    *,
    patch_length: int = 32,
    batch_size: int = 128,
    embedding_size: int = 64,
) -> RnnTextClassificationConfig:
    return RnnTextClassificationConfig(
        **vars(core),
        embedding_size=embedding_size,
        initializer=SONNET[0],
        initializer_scale=SONNET[1],
        vocab_size=10000,
        max_token=None,
        readout=readout,
        dataset=_IMDB,
        sampled_dataset=_IMDB,
        patch_length=patch_length,
        batch_size=batch_size,
        num_train=None,
        just_train=False,
        sampled_just_train=False,
    )


_LSTM128 = _core("lstm", 128)
_LONG = {"patch_length": 128, "batch_size": 64}

_CONFIGS = {
    "patch32_LSTM128_bs128": _config(_LSTM128, "last"),
    "patch128_LSTM128_bs64": _config(_LSTM128, "last", **_LONG),
    "patch32_LSTM128_E128_bs128": _config(_LSTM128, "last", embedding_size=128),
    "patch128_LSTM128_embed128_bs64": _config(
        _LSTM128, "last", embedding_size=128, **_LONG
    ),
    "patch128_LSTM128_avg_bs64": _config(_LSTM128, "avg", **_LONG),
    "patch32_GRU128_bs128": _config(_core("gru", 128), "last"),
    "patch32_GRU64_avg_bs128": _config(_core("gru", 64), "avg"),
    "patch32_VRNN128_tanh_bs128": _config(_core("vanilla", 128, "tanh"), "last"),
    "patch32_VRNN64_tanh_avg_bs128": _config(_core("vanilla", 64, "tanh"), "avg"),
    "patch32_VRNN64_relu_avg_bs128": _config(_core("vanilla", 64, "relu"), "avg"),
    "patch32_IRNN64_relu_avg_bs128": _config(_irnn(64), "avg"),
    "patch32_IRNN64_relu_last_bs128": _config(_irnn(64), "last"),
}

FIXED = FixedTasks(
    "text_rnn_classification",
    {
        f"FixedTextRNNClassification_imdb_{name}": config
        for name, config in _CONFIGS.items()
    },
    build,
)
