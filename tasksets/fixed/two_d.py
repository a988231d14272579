"""TwoD_*: eight noiseless problems of two variables.

    TwoD_Bowl1, 10, 100, 1000      1/2 (condition x^2 + y^2)
    TwoD_Rosenbrock, Ackley, Beale, StyblinskiTang

From the fixed tasks of TaskSet (Metz et al. 2020, arXiv 2002.11887). They are configs of
losg_tasks_family that it does not sample. TaskSet starts each of them from one point,
that of its seed 123; here every key starts elsewhere, by the same law.
"""

from tasksets.families.losg_tasks import Bowl, Kind, LosgConfig, Surface, build
from tasksets.family import FixedTasks


def _config(problem: Kind) -> LosgConfig:
    return LosgConfig(problem, seed=0)  # nothing in these is drawn


_BOWLS = {
    f"TwoD_Bowl{condition}": _config(Bowl(float(condition), angle=0.0, noise_stdev=0.0))
    for condition in (1, 10, 100, 1000)
}
_SURFACES = {
    name: _config(Surface(surface, noise_stdev=0.0))
    for name, surface in {
        "TwoD_Rosenbrock": "rosenbrock",
        "TwoD_Ackley": "ackley",
        "TwoD_Beale": "beale",
        "TwoD_StyblinskiTang": "StyblinskiTang",
    }.items()
}

FIXED = FixedTasks("TwoD", {**_BOWLS, **_SURFACES}, build)
