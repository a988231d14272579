"""Experiments of the literature, each a short file: a system, estimators, a verdict.

They are also examples of using the library on something that is no learned optimizer: a
`System` is two functions, an estimator differentiates it, `descend` follows the gradient.

    report = EXPERIMENTS["influence-balancing"]().run(Path("runs/reproduce"))
    report.reproduced, report.claims

On the command line: ``learned-opt reproduce influence-balancing [--full]``.
"""

from meta_train.experiments.control import LinearSwimmer
from meta_train.experiments.experiment import Claim, Experiment, Report
from meta_train.experiments.influence_balancing import InfluenceBalancing
from meta_train.experiments.learned_optimizer_cifar import LearnedOptimizerCifar
from meta_train.experiments.lorenz import LearningLorenz
from meta_train.experiments.lstm_variance import LSTMVariance
from meta_train.experiments.many_hyperparameters import ManyHyperparameters
from meta_train.experiments.meta_surface import MetaSurface
from meta_train.experiments.mnist_lr_schedule import MnistLrSchedule
from meta_train.experiments.short_horizon_bias import ShortHorizonBias
from meta_train.experiments.toy_regression import ToyRegressionSchedule

EXPERIMENTS: dict[str, type[Experiment]] = {
    experiment.name: experiment
    for experiment in (
        InfluenceBalancing,
        ToyRegressionSchedule,
        MnistLrSchedule,
        ManyHyperparameters,
        LSTMVariance,
        LearnedOptimizerCifar,
        LinearSwimmer,
        ShortHorizonBias,
        LearningLorenz,
        MetaSurface,
    )
}

__all__ = ["EXPERIMENTS", "Claim", "Experiment", "Report"]
