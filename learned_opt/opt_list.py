"""The learned list of hyper-parameters of Metz et al. 2020 (arXiv 2002.11887).

    for i in range(10):
        optimizer, theta = learned_opt.opt_list.config(i)
        tx = optimizer.transform(theta, num_steps=5000)

Instead of searching, try these configurations of NAdamW in this order: each was chosen
because it lowers the best loss found so far the most, on average over the tasks of
TaskSet. Ten are enough for most problems. They bring their own weight decay and their
own schedule, stretched to ``num_steps``; add neither.

The list is an order on the space ``nadamw`` of `search_spaces`, as the authors released
it (google-research/opt_list). The configurations were selected with the authors' NAdamW;
`learned_opt.nadamw` says where this package's differs. Two differences are large for a
few configurations: theirs added eps before the bias correction of the second moment,
which acts like a warm-up where eps is large, and pushed weights away from zero by ``l2``.
"""

from learned_opt import search_spaces
from learned_opt.nadamw import NAdamW, NAdamWTheta

# fmt: off
_ORDER = (
    251, 611, 799, 209, 739, 713, 437, 25, 342, 743,
    515, 324, 135, 705, 934, 741, 119, 770, 794, 189,
    829, 607, 68, 958, 700, 527, 865, 807, 364, 374,
    639, 579, 494, 409, 153, 697, 797, 986, 111, 410,
    274, 941, 150, 853, 90, 422, 795, 937, 148, 787,
    116, 336, 198, 327, 693, 390, 999, 801, 118, 385,
    296, 597, 726, 900, 338, 985, 249, 672, 760, 160,
    507, 666, 944, 8, 604, 12, 344, 989, 261, 966,
    343, 247, 493, 175, 350, 17, 476, 509, 161, 813,
    407, 18, 191, 58, 996, 230, 203, 621, 737, 165,
)  # the entries of the space `nadamw`, best first
# fmt: on

LENGTH = len(_ORDER)  # 100


def config(i: int) -> tuple[NAdamW, NAdamWTheta]:
    """Configuration number ``i`` of the list, from 0, the best single one, to 99.

    Raises:
      IndexError: there is no such configuration.
    """
    if not 0 <= i < LENGTH:
        raise IndexError(f"the list has configurations 0 to {LENGTH - 1}, not {i}")
    optimizer, theta = search_spaces.sample("nadamw", _ORDER[i])
    assert isinstance(optimizer, NAdamW)
    return optimizer, theta
