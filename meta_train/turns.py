"""Lanes in turns: how many a CPU core runs at once where all would leave its cache.

A step reads and writes what it holds of every lane dozens of times. From the cache that
takes half the time or less; with too few lanes at once, starting many small loops takes
longer than the loops. On accelerators, which are slow to start and have much to do at
once, all lanes run together.
"""

import math

import jax

from learned_opt import Rule
from meta_train.inner_training import InnerTraining

# Numbers of lanes in the cache, on cores with 1 MiB. With as many pairs as that makes,
# four optimizers on perceptrons of 2,410 and 9,610 parameters came within a tenth of the
# rate that the best number of pairs reached (`benchmarks.turns`; flows lose a fifth).
_CACHED = 3 * 10**5
_LARGE_THETA = 10**6  # read once for all lanes together, which then is what counts


def pairs_at_once(system: InnerTraining, num_pairs: int) -> int | None:
    """Pairs that a device should run at once; None for all.

    Args:
      system: what each member of a pair trains.
      num_pairs: on the device; turns are equally long, so it is divided.
    """
    if jax.default_backend() != "cpu":
        return None
    key = jax.random.key(0)
    theta = _size(jax.eval_shape(system.optimizer.init, key))
    if theta > _LARGE_THETA:
        return None
    task = system.task.lane(0) if system.task.stacked else system.task
    params = _size(jax.eval_shape(task.init, key))
    held = getattr(system.optimizer, "numbers_held", Rule.numbers_held)
    best = max(_CACHED / (2 * held * max(params, 1)), 1.0)
    whole = [n for n in range(1, num_pairs + 1) if num_pairs % n == 0]
    nearest = min(whole, key=lambda n: abs(math.log(n / best)))
    return nearest if nearest < num_pairs else None


def _size(tree: object) -> int:
    return sum(x.size for x in jax.tree.leaves(tree))
