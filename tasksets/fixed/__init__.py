"""The 109 hand-made tasks of TaskSet (Metz et al. 2020, arXiv 2002.11887), by group.

A module ends in `FIXED`, a `tasksets.family.FixedTasks`: configs by the name that TaskSet
gives them. They are configs of the same problems that the families use.
"""

from tasksets.family import FixedTasks
from tasksets.fixed import (
    associative,
    conv_ae,
    conv_vae,
    copy,
    image_conv,
    language_modeling,
    maf,
    mlp,
    mlp_ae,
    mlp_vae,
    nvp,
    text_rnn_classification,
    two_d,
)

TASKSET_GROUPS: tuple[FixedTasks, ...] = (
    image_conv.FIXED,
    conv_ae.FIXED,
    conv_vae.FIXED,
    language_modeling.FIXED,
    maf.FIXED,
    mlp.FIXED,
    mlp_ae.FIXED,
    mlp_vae.FIXED,
    nvp.FIXED,
    text_rnn_classification.FIXED,
    two_d.FIXED,
    associative.FIXED,
    copy.FIXED,
)
