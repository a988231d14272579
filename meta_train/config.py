"""One frozen dataclass says everything about a meta-training run.

It is what the command line parses, what a run folder keeps as ``config.json``, and what a
resumed run is checked against.
"""

import dataclasses
import itertools
import json
import shlex
from pathlib import Path
from typing import Any, Literal

import jax
import optax

import learned_opt
import pretrained
import tasksets
from learned_opt import LearnedOptimizer
from meta_train.devices import lane_mesh, replicate
from meta_train.estimators import NRES, PES, EvolutionStrategy, FullES, TruncatedES
from meta_train.inner_training import InnerTraining
from meta_train.truncation import Truncation
from tasksets.names import parse

ESTIMATORS: dict[str, type[EvolutionStrategy]] = {
    "pes": PES,
    "nres": NRES,
    "truncated_es": TruncatedES,
    "full_es": FullES,
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A meta-training run."""

    optimizer: str = "scale_free"
    """What to meta-train: a name that `learned-opt optimizers` lists."""
    suite: str = "small_mlp"
    """Suite of tasks to train on (its training names only)."""
    task_options: tuple[str, ...] = ()
    """Fields to fix in the tasks, e.g. 'dataset=iris&hidden=32'; tasks take turns."""
    num_tasks: int = 256
    """Tasks drawn from the suite; those of equal structure share a program."""
    init_from: str = ""
    """Pretrained name or folder to start theta from; empty starts afresh."""

    estimator: Literal["pes", "nres", "truncated_es", "full_es"] = "pes"
    num_pairs: int = 32
    """Antithetic pairs over all groups; divided over groups and devices."""
    lane_batch: int | None = None
    """Pairs a device runs at once; 2 to 4 suit the larger optimizers on a CPU."""
    window: int = 100
    """Inner steps per estimate, the truncation length K."""
    min_horizon: int = 100
    max_horizon: int = 1600
    """Episode lengths in inner steps, log-uniform, whole windows."""
    sigma: float = 0.03
    """Standard deviation of the perturbations of theta."""
    loss_cap: float = 2.0
    """Outer losses above this many initial losses count as this much."""
    train_weight: float = 0.0
    """Share of the training loss in the outer loss, 0 to 1."""

    outer_steps: int = 3000
    outer_optimizer: str = "adam"
    """'adam', or a pretrained name or folder: a learned optimizer trains this one."""
    outer_learning_rate: float = 3e-3
    """Peak rate of Adam; decays by a cosine to 5 % over outer_steps."""
    clip: float = 0.1
    """Elementwise bound on the meta-gradient."""
    seed: int = 0

    def __post_init__(self) -> None:
        _ = self.truncation  # a wrong horizon must fail here, by name
        if not 0 <= self.train_weight <= 1:
            raise ValueError(
                f"train_weight must be in [0, 1], got {self.train_weight}."
            )
        for name in ("num_tasks", "num_pairs", "outer_steps"):
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}."
                )
        for name in ("sigma", "loss_cap", "outer_learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")

    @property
    def truncation(self) -> Truncation:
        """Episode lengths; raises ValueError for horizons that are not whole windows."""
        return Truncation.log_uniform(self.min_horizon, self.max_horizon, self.window)

    def learned_optimizer(self) -> LearnedOptimizer:
        """The optimizer in training."""
        return learned_opt.get(self.optimizer)()

    def initial_theta(self) -> Any:
        """Where theta starts."""
        if self.init_from:
            return pretrained.load(self.init_from).theta
        key = jax.random.fold_in(jax.random.key(self.seed), 1)
        return jax.jit(self.learned_optimizer().init)(key)

    def estimators(self) -> tuple[EvolutionStrategy, ...]:
        """One estimator per group of tasks of equal structure."""
        tasks = tasksets.sample(self.num_tasks, suite=self.suite, seed=self.seed)
        if self.task_options:
            pairs_of = zip(tasks, itertools.cycle(self.task_options), strict=False)
            tasks = [_with_options(task.name, options) for task, options in pairs_of]
        groups = tasksets.group_by_structure(tasks)
        mesh = lane_mesh()
        devices = mesh.size if mesh else 1
        pairs = max(1, self.num_pairs // (len(groups) * devices)) * devices
        optimizer = self.learned_optimizer()
        systems = [
            InnerTraining.over(group, optimizer, train_weight=self.train_weight)
            for group in groups
        ]
        return tuple(
            ESTIMATORS[self.estimator](
                replicate(system, mesh),
                self.truncation,
                num_pairs=pairs,
                sigma=self.sigma,
                loss_cap=self.loss_cap,
                lane_batch=self.lane_batch,
                mesh=mesh,
            )
            for system in systems
        )

    def outer(self) -> optax.GradientTransformationExtraArgs:
        """The outer optimizer; a learned one needs no learning rate."""
        if self.outer_optimizer == "adam":
            rate = optax.cosine_decay_schedule(
                self.outer_learning_rate, self.outer_steps, alpha=0.05
            )
            return optax.with_extra_args_support(optax.adam(rate))
        return pretrained.optimizer(self.outer_optimizer, num_steps=self.outer_steps)

    def command(self) -> str:
        """The command line of a run with this config."""
        words = ["learned-opt", "train"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{field.name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> "TrainConfig":
        """Read what `save` wrote."""
        return cls.parse(path.read_text())

    @classmethod
    def parse(cls, text: str) -> "TrainConfig":
        """The config of a JSON object, such as `save` writes."""
        fields: dict[str, Any] = json.loads(text)
        fields["task_options"] = tuple(fields["task_options"])
        return cls(**fields)

    def differences(self, other: "TrainConfig") -> list[str]:
        """Fields in which two configs differ, as 'name: mine, not theirs'."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return [
            f"{k}: {mine[k]!r}, not {theirs[k]!r}" for k in mine if mine[k] != theirs[k]
        ]


def _with_options(name: str, options: str) -> tasksets.Task:
    """The task of a name with other fields; a data set replaces that of the name."""
    replaces = any(field.startswith("dataset=") for field in options.split("&"))
    name = parse(name).root if replaces else name
    return tasksets.get(f"{name}?{options}")
