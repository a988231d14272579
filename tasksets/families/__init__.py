"""The families, one a file: a config, how a seed samples it, what task it builds.

A family module ends in `FAMILY`, a `tasksets.family.Family`; `FAMILIES` lists them, and
`tasksets.register` adds a family from anywhere else. To read one
first, take `small_mlp`:

    config = small_mlp.sample(3)             # SmallMlpConfig(hidden=(20, 20), ...)
    problem, numbers, data = small_mlp.build(config)
"""

from tasksets.families import (
    char_rnn_language_model,
    conv_fc,
    conv_pooling,
    losg_tasks,
    maf,
    mlp,
    mlp_ae,
    mlp_mixer,
    mlp_vae,
    nvp,
    pinn,
    quadratic,
    resnet,
    rnn_text_classification,
    small_mlp,
    transformer_lm,
    vit,
    word_rnn_language_model,
)
from tasksets.family import Family

FAMILIES: tuple[Family, ...] = (
    # TaskSet's twelve
    char_rnn_language_model.FAMILY,
    conv_fc.FAMILY,
    conv_pooling.FAMILY,
    losg_tasks.FAMILY,
    maf.FAMILY,
    mlp.FAMILY,
    mlp_ae.FAMILY,
    mlp_vae.FAMILY,
    nvp.FAMILY,
    quadratic.FAMILY,
    rnn_text_classification.FAMILY,
    word_rnn_language_model.FAMILY,
    # ours
    mlp_mixer.FAMILY,
    pinn.FAMILY,
    resnet.FAMILY,
    small_mlp.FAMILY,
    transformer_lm.FAMILY,
    vit.FAMILY,
)
