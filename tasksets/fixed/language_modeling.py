"""Five language models of TaskSet (Metz et al. 2020, arXiv 2002.11887): bytes of lm1b.

    loss = mean_{b,t} CE(h_{b,t-1} W + b, byte_bt),    over text, not over padding

Patches of 128, an embedding of 64, every weight as Sonnet initialises it, and the start
of the state trained. The problem is that of `char_rnn_language_model_family`.
"""

from tasksets.family import FixedTasks
from tasksets.initializers import SONNET
from tasksets.language_model import LanguageModelConfig, build_language_model
from tasksets.recurrent import default_core


def _config(core: str, size: int) -> LanguageModelConfig:
    return LanguageModelConfig(
        **vars(default_core(core, size, trainable_state=True)),
        embedding_size=64,
        initializer=SONNET[0],
        initializer_scale=SONNET[1],
        vocab_size=256,
        padding_counts=False,
        dataset="lm1b/bytes",
        patch_length=128,
        batch_size=128,
        num_train=None,
        just_train=False,
    )


FIXED = FixedTasks(
    "language_modeling",
    {
        "FixedLM_lm1b_patch128_GRU64_embed64_avg_bs128": _config("gru", 64),
        "FixedLM_lm1b_patch128_GRU128_embed64_avg_bs128": _config("gru", 128),
        "FixedLM_lm1b_patch128_GRU256_embed64_avg_bs128": _config("gru", 256),
        "FixedLM_lm1b_patch128_LSTM128_embed64_avg_bs128": _config("lstm", 128),
        "FixedLM_lm1b_patch128_LSTM256_embed64_avg_bs128": _config("lstm", 256),
    },
    build_language_model,
)
