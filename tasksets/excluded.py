"""Tasks that suites leave out, each with the reason; `get` still builds them.

Seeds of TaskSet's released data in which most of its optimizer configurations diverge
before the first evaluation, so that nothing is learned from them about an optimizer.
Found by users of the released learning curves, among the seeds 0 to 99.
"""

_DIVERGES = "most optimizers diverge before the first evaluation"

_DIVERGING_SEEDS = {
    "char_rnn_language_model_family": (38, 39),
    "conv_fc_family": (36, 38, 40, 70),
    "conv_pooling_family": (91,),
    "mlp_ae_family": (39, 48, 62),
    "mlp_family": (39, 43, 49, 78),
    "nvp_family": (75,),
    "rnn_text_classification_family": (58, 70, 96),
    "word_rnn_language_model_family": (4, 8, 39),
}

# root of a name -> why it is in no suite
EXCLUDED: dict[str, str] = {
    f"{family}/seed{seed}": _DIVERGES
    for family, seeds in _DIVERGING_SEEDS.items()
    for seed in seeds
}
