"""word_rnn_language_model_family: recurrent networks that predict the next subword.

    loss = mean_{b,t} CE(h_{b,t-1} W + b, subword_bt),    h = cell(embedding(subwords))

One of the twelve families of TaskSet (Metz et al. 2020, arXiv 2002.11887). A seed gives
the config that it gives there. Subwords beyond the vocabulary are read as its last, and
a vocabulary beyond the 8k subwords of a corpus leaves rows that are never read.

The mean is over the padding of short documents too, as it is behind TaskSet's published
curves; `?padding_counts=false` is the mean over text alone. `language_model.py` has the
problem and its normalisation. More documents are held out than of bytes.
"""

import functools

import numpy as np

from tasksets import sampling, text_sampling
from tasksets.family import Family
from tasksets.language_model import LanguageModelConfig, build_language_model


def sample(seed: int) -> LanguageModelConfig:
    """The config that TaskSet samples from `seed`."""
    rng = np.random.RandomState(seed)
    embedding_size = sampling.log_int(rng, 8, 128)
    initializer_name, initializer_scale = sampling.initializer_name(rng)
    return LanguageModelConfig(
        embedding_size=embedding_size,
        initializer=initializer_name,
        initializer_scale=initializer_scale,
        vocab_size=sampling.log_int(rng, 1000, 30000),
        **text_sampling.core_fields(rng),
        trainable_state=bool(rng.choice([True, False])),
        **text_sampling.word_text(rng),
        padding_counts=True,
    )


_build = functools.partial(build_language_model, num_per_valid=10000)

FAMILY = Family("word_rnn_language_model_family", sample, _build)
