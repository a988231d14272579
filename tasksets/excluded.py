"""Tasks that suites leave out, each with the reason; `get` still tries to build them.

`_DIVERGING`: in TaskSet's released data most optimizer configurations diverge before
the first evaluation, so that nothing is learned from them about an optimizer. Found by
users of the released learning curves, among the seeds 0 to 99.

`_NOTHING_LEFT`: convolutions without padding that leave no pixels of the images that
the config names. Among the seeds 0 to 1199; a test finds them anew.

`_INFINITE`: sampled scales that multiply, through a flow or through time, to a loss or a
gradient that is not finite at the start. For `nvp_family` among the seeds 0 to 199, by
`python -m benchmarks.finite_starts`; for the others among those that
`python -m benchmarks.small_suite` tries, and the seeds 0 to 49 on bundled data.

`_TWINS`: tasks for training that are, to the last number, a task for testing by another
name: test functions without noise, and chains, draw nothing from their seed. Among the
seeds 0 to 999 and the fixed tasks; a test finds them anew.
"""

_DIVERGING = {
    "char_rnn_language_model_family": "38 39",
    "conv_fc_family": "36 38 40 70",
    "conv_pooling_family": "91",
    "mlp_ae_family": "39 48 62",
    "mlp_family": "39 43 49 78",
    "nvp_family": "75",
    "rnn_text_classification_family": "58 70 96",
    "word_rnn_language_model_family": "4 8 39",
}

_NOTHING_LEFT = {
    "conv_fc_family": """
        25 33 43 56 66 139 156 196 211 269 283 284 286 296 303 310 311 333 367 376 397
        401 411 428 448 449 472 476 533 535 565 593 604 614 638 676 701 730 735 744 761
        768 810 816 818 830 842 844 850 858 880 896 903 906 926 945 946 1010 1119 1142
        1143 1156 1169 1175 1190""",
    "conv_pooling_family": """
        33 42 43 56 66 135 139 156 178 196 208 211 238 264 310 311 333 367 376 384 397
        411 448 476 533 535 565 567 604 638 676 701 730 735 744 761 810 816 818 830 842
        844 850 853 858 880 896 903 926 945 946 1010 1119 1142 1175 1180 1190""",
}

_INFINITE = {
    "char_rnn_language_model_family": "12 50",
    "maf_family": "6 8 22 27 44 56 64 71",
    "nvp_family": """
        0 2 6 8 10 11 13 15 16 17 23 25 31 34 43 48 53 59 61 62 63 71 72 76 81 82 90 94
        99 100 105 110 114 120 122 125 129 130 131 136 139 142 143 149 151 152 153 156
        157 161 162 165 171 172 173 175 177 180 182 183 184 185 187 188 192""",
    "rnn_text_classification_family": "20 72",
    "word_rnn_language_model_family": "12",
}

_TWINS = {
    "losg_tasks_family": """
        17 42 70 126 163 219 285 291 293 335 354 389 398 432 530 584 640 658 762 797 804
        806 840 865 866 873 923 998""",
}

TWIN = "a task for testing is the same"
_REASONS = (
    ("most optimizers diverge before the first evaluation", _DIVERGING),
    ("its convolutions without padding leave no pixels", _NOTHING_LEFT),
    ("its loss or gradient at the start is not finite", _INFINITE),
    (TWIN, _TWINS),
)

# root of a name -> why it is in no suite
EXCLUDED: dict[str, str] = {
    f"{family}/seed{seed}": reason
    for reason, families in reversed(_REASONS)
    for family, seeds in families.items()
    for seed in seeds.split()
}
