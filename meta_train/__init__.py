"""Meta-training: gradients of unrolled computations, and the loop that uses them.

A `System` is what is unrolled (`InnerTraining` is the training of a model), a
`Truncation` cuts it into windows, an estimator (`PES`, `TruncatedES`, `FullES`) turns
windows into meta-gradients, `train` runs the outer loop in a folder that can be resumed.

    system = InnerTraining(tasksets.get("small_mlp/seed0@digits"), learned_opt.ScaleFree())
    estimator = PES(system, Truncation.log_uniform(100, 1600, 25), num_pairs=32)
    state = outer.start((estimator,), theta, tx, key)
    state, metrics = outer.make_step(tx)((estimator,), state)

Importing this package registers the family `lopt_pes` with `tasksets`.
"""

from meta_train import evaluate, learned_optimizer_task, objectives, outer
from meta_train.checkpoint import CheckpointError
from meta_train.config import TrainConfig
from meta_train.curriculum import Horizons, TaskMix
from meta_train.estimators import (
    BPTT,
    DODGE,
    GPES,
    NRES,
    PES,
    RTRL,
    TBPTT,
    UORO,
    Estimate,
    Estimator,
    FullES,
    PESAnalytic,
    PESAnalyticPair,
    TruncatedES,
)
from meta_train.inner_training import InnerTraining
from meta_train.proxy import Proxy
from meta_train.run import Result, read_metrics, train
from meta_train.safety import Safety
from meta_train.system import Episodic, System
from meta_train.truncation import Truncation

__all__ = [
    "BPTT",
    "DODGE",
    "GPES",
    "NRES",
    "PES",
    "RTRL",
    "TBPTT",
    "UORO",
    "CheckpointError",
    "Episodic",
    "Estimate",
    "Estimator",
    "FullES",
    "Horizons",
    "InnerTraining",
    "PESAnalytic",
    "PESAnalyticPair",
    "Proxy",
    "Result",
    "Safety",
    "System",
    "TaskMix",
    "TrainConfig",
    "TruncatedES",
    "Truncation",
    "evaluate",
    "learned_optimizer_task",
    "objectives",
    "outer",
    "read_metrics",
    "train",
]
