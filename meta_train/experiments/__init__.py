"""Experiments of the literature, each a short file: a system, estimators, a verdict.

They are also examples of using the library on something that is no learned optimizer: a
`System` is two functions, an estimator differentiates it, `descend` follows the gradient.

    report = EXPERIMENTS["influence-balancing"]().run(Path("runs/reproduce"))
    report.reproduced, report.claims

On the command line: ``learned-opt reproduce influence-balancing [--full]``.
"""

from meta_train.experiments.experiment import Claim, Experiment, Report
from meta_train.experiments.influence_balancing import InfluenceBalancing

EXPERIMENTS: dict[str, type[Experiment]] = {
    experiment.name: experiment for experiment in (InfluenceBalancing,)
}

__all__ = ["EXPERIMENTS", "Claim", "Experiment", "Report"]
