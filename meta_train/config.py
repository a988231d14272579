"""One frozen dataclass says everything about a meta-training run.

It is what the command line parses, what a run folder keeps as ``config.json``, and what a
resumed run is checked against.
"""

import dataclasses
import functools
import json
import math
import shlex
import typing
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, TypeVar

import jax
import numpy as np
import optax
from jax.sharding import Mesh

import learned_opt
import pretrained
from learned_opt import Celo, CeloScheduler, CeloTheta, LearnedOptimizer
from meta_train import evaluate, turns
from meta_train.bootstrap import bootstrap
from meta_train.curriculum import Horizons, TaskMix
from meta_train.estimators import (
    GPES,
    NRES,
    PES,
    EvolutionStrategy,
    FullES,
    PESAnalytic,
    PESAnalyticPair,
    TruncatedES,
)
from meta_train.groups import ChangingGroups, Groups, StandingGroups
from meta_train.inner_training import InnerTraining
from meta_train.proxy import Proxy
from meta_train.safety import Safety
from meta_train.truncation import Episodes
from meta_train.whole_file import whole_file
from tasksets import Task, UnknownNameError

T = TypeVar("T")

ESTIMATORS: dict[str, type[EvolutionStrategy]] = {
    "pes": PES,
    "pes_analytic": PESAnalytic,
    "pes_analytic_pair": PESAnalyticPair,
    "nres": NRES,
    "gpes": GPES,
    "truncated_es": TruncatedES,
    "full_es": FullES,
}


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """A meta-training run."""

    optimizer: str = "scale_free"
    """What to meta-train: a name that `learned-opt optimizers` lists."""
    init_from: str = ""
    """Pretrained name, folder, or file of released weights to start theta from; empty starts
    afresh."""
    frozen_rule: str = ""
    """For celo: name or folder of a trained celo_rule; only the scheduler is trained."""

    mix: TaskMix = TaskMix()
    horizons: Horizons = Horizons()
    num_tasks: int = 256
    """Tasks drawn once, in groups that stay; those of equal structure share a group."""
    groups_in_flight: int | None = None
    """Draw groups one after the other instead, so many at a time, without an end."""
    tasks_per_group: int = 16
    """Tasks in each of those; all have one structure."""

    estimator: Literal[
        "pes",
        "pes_analytic",
        "pes_analytic_pair",
        "nres",
        "gpes",
        "truncated_es",
        "full_es",
    ] = "pes"
    gpes_interval: int | None = None
    """With gpes: windows of an episode that share a perturbation, at least 1."""
    num_pairs: int = 32
    """Antithetic pairs over all groups; divided over groups and devices, at least one for
    each group on each device."""
    lane_batch: int | None = None
    """Pairs a device runs at once; None: on a CPU as many as its cache holds, else all."""
    sigma: float = 0.03
    """Standard deviation of the perturbations of theta."""
    noise_rank: int | None = None
    """Rank of the perturbations of matrices of over a million numbers, at least 1 (hyper_v2
    has one); None: all their numbers are independent, which is dear."""
    loss_cap: float = 2.0
    """Outer losses count at most this much, after end_emphasis has weighted them; without
    that, 1 is a task's initial loss and 0 its best."""
    train_weight: float = 0.0
    """Share of the training loss in the outer loss, 0 to 1."""
    end_emphasis: float = 0.0
    """0: an episode's steps count alike. 1: the first counts nothing, the last twice."""

    outer_steps: int = 3000
    outer_optimizer: str = "adam"
    """'adam'; a pretrained name or folder: a learned optimizer trains this one; or 'self':
    after a while this one trains itself."""
    bootstrap_every: int | None = None
    """With 'self': outer steps that Adam makes first, and then between two times at which
    the optimizer that trains is exchanged for what it has become."""
    outer_learning_rate: float = 3e-3
    """Peak rate of Adam; decays by a cosine to 5 % over outer_steps."""
    clip: float = 0.1
    """Elementwise bound on the meta-gradient."""
    safety: Safety = Safety()
    proxy: Proxy = Proxy()
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.optimizer, str):
            raise TypeError(
                "optimizer is the name of a registered one (`learned_opt.register`); one "
                "with fields of its own is saved by `pretrained.save` and named by "
                f"init_from; got {self.optimizer!r}."
            )
        if self.estimator not in ESTIMATORS:
            raise UnknownNameError("estimator", self.estimator, ESTIMATORS)
        for name in ("train_weight", "end_emphasis"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(
                    f"{name} must be in [0, 1], got {getattr(self, name)}."
                )
        counts = ["num_tasks", "tasks_per_group", "num_pairs", "outer_steps"]
        if self.groups_in_flight is not None:
            counts.append("groups_in_flight")
        counts += [
            name
            for name in ("lane_batch", "gpes_interval", "noise_rank")
            if getattr(self, name) is not None
        ]
        for name in counts:
            if getattr(self, name) < 1:
                raise ValueError(
                    f"{name} must be at least 1, got {getattr(self, name)}."
                )
        if self.groups_in_flight is None:
            self._refuse_unused("tasks_per_group", "without groups_in_flight")
        else:
            self._refuse_unused("num_tasks", "with groups_in_flight")
        if (self.estimator == "gpes") != (self.gpes_interval is not None):
            raise ValueError("estimator 'gpes' and gpes_interval go together.")
        if self.frozen_rule and self.optimizer != "celo":
            raise ValueError(
                f"frozen_rule is for the optimizer celo, not for {self.optimizer}."
            )
        for name in ("sigma", "loss_cap", "outer_learning_rate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}.")
        if self.loss_cap == math.inf:  # a loss that counts as infinite has no gradient
            raise ValueError("loss_cap must be finite, got inf.")

        if (self.outer_optimizer == "self") != (self.bootstrap_every is not None):
            raise ValueError("outer_optimizer 'self' and bootstrap_every go together.")
        if self.bootstrap_every is not None:
            if not 1 <= self.bootstrap_every < self.outer_steps:
                raise ValueError(
                    f"bootstrap_every must be in 1 to {self.outer_steps - 1}, less than "
                    f"outer_steps; got {self.bootstrap_every}."
                )

    def _refuse_unused(self, name: str, where: str) -> None:
        """Raise ValueError for a field that does nothing, but was set."""
        if getattr(self, name) != getattr(TrainConfig, name):
            raise ValueError(f"{name} does nothing {where}; leave it out.")

    def learned_optimizer(self) -> LearnedOptimizer:
        """The optimizer in training; one trained before has the fields that it had."""
        return self._learned_optimizer

    @functools.cached_property
    def _learned_optimizer(self) -> LearnedOptimizer:
        # One object, so that all groups share their programs. What is read is read once:
        # a run goes on as it began, whatever becomes of the folder.
        if self.frozen_rule:
            return CeloScheduler(_trained(self.frozen_rule, "celo_rule").theta)
        if self._start is not None:
            return self._start.optimizer
        return learned_opt.get(self.optimizer)()

    @functools.cached_property
    def _start(self) -> pretrained.Pretrained | None:
        return _trained(self.init_from, self.optimizer) if self.init_from else None

    def whole(self, theta: Any) -> tuple[LearnedOptimizer, Any]:
        """The optimizer and theta to use, once this theta has been trained."""
        optimizer = self.learned_optimizer()
        if isinstance(optimizer, CeloScheduler):
            return Celo(), CeloTheta(optimizer.rule, theta)
        return optimizer, theta

    def initial_theta(self) -> Any:
        """Where theta starts."""
        if self._start is not None:
            theta = self._start.theta
            return theta.scheduler if self.frozen_rule else theta
        key = jax.random.fold_in(jax.random.key(self.seed), 1)
        return jax.jit(self.learned_optimizer().init)(key)

    def digests(self) -> dict[str, str | None]:
        """Of the trained optimizers that a run goes on reading, by field of the config."""
        named = {"frozen_rule": self.frozen_rule}
        if self.outer_optimizer not in ("adam", "self"):
            named["outer_optimizer"] = self.outer_optimizer
        found = {field: pretrained.load(name) for field, name in named.items() if name}
        return {
            field: evaluate.learned(field, one.optimizer, one.theta).content
            for field, one in found.items()
        }

    def groups(self) -> Groups:
        """Which groups of tasks run when."""
        if self.groups_in_flight is None:
            return StandingGroups(self.mix, self.horizons, self.num_tasks, self.seed)
        return ChangingGroups(
            self.mix,
            self.horizons,
            self.groups_in_flight,
            self.tasks_per_group,
            self.seed,
            whole_episodes=ESTIMATORS[self.estimator].whole_episodes,
        )

    def estimator_of(
        self, tasks: Sequence[Task], share: Fraction, mesh: Mesh | None
    ) -> EvolutionStrategy:
        """The estimator of a group.

        Args:
          tasks: of equal structure.
          share: its part of the pairs.
          mesh: over which lanes are spread; None for one device.
        """
        devices = 1 if mesh is None else mesh.size
        low, high = map(np.int32, self.horizons.windows(0))
        # Groups that end together with their episodes are out of step by themselves.
        episodes = Episodes(
            self.horizons.window, low, high, stagger=self.groups_in_flight is None
        )
        system = InnerTraining.over(
            tasks,
            self.learned_optimizer(),
            train_weight=self.train_weight,
            end_emphasis=self.end_emphasis,
        )
        special: dict[str, Any] = {}
        if self.gpes_interval is not None:
            special["interval"] = self.gpes_interval
        num_pairs = self.pairs_of_share(share, devices)
        lane_batch = self.lane_batch or turns.pairs_at_once(
            system, num_pairs // devices
        )
        return ESTIMATORS[self.estimator](
            system,
            episodes,
            num_pairs=num_pairs,
            sigma=self.sigma,
            loss_cap=self.loss_cap,
            lane_batch=lane_batch,
            mesh=mesh,
            noise_rank=self.noise_rank,
            **special,
        )

    def pairs_of_share(self, share: Fraction, devices: int) -> int:
        """Pairs of a group: as many on each device, and at least one."""
        return max(1, round(self.num_pairs * share / devices)) * devices

    def outer(self) -> optax.GradientTransformationExtraArgs:
        """The outer optimizer; a learned one needs no learning rate."""
        rate = optax.cosine_decay_schedule(
            self.outer_learning_rate, self.outer_steps, alpha=0.05
        )
        adam = optax.with_extra_args_support(optax.adam(rate))
        if self.outer_optimizer == "adam":
            return adam
        if self.bootstrap_every is not None:
            return bootstrap(
                self.learned_optimizer(),
                adam,
                every=self.bootstrap_every,
                num_steps=self.outer_steps,
            )
        return pretrained.optimizer(self.outer_optimizer, num_steps=self.outer_steps)

    def command(self) -> str:
        """The command line of a run with this config."""
        words = ["learned-opt", "train"]
        for name, (value, default) in _flat(self, TrainConfig()).items():
            if value != default:
                values = value if isinstance(value, tuple) else (value,)
                words += [f"--{name.replace('_', '-')}", *map(str, values)]
        return shlex.join(words)

    def save(self, path: Path) -> None:
        """Write as JSON, whole or not at all."""
        with whole_file(path) as file:
            file.write(f"{self.text()}\n".encode())

    def text(self) -> str:
        """As JSON."""
        return json.dumps(dataclasses.asdict(self), indent=2)

    @classmethod
    def load(cls, path: Path) -> "TrainConfig":
        """Read what `save` wrote.

        Raises:
          ValueError: it is no config; the message names the file.
        """
        try:
            return cls.parse(path.read_text())
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged: {error}") from None

    @classmethod
    def parse(cls, text: str) -> "TrainConfig":
        """The config of a JSON object, such as `text` gives.

        Fields that it lacks, being older than they are, have their defaults.

        Raises:
          ValueError: it has a field that there is not; names it.
        """
        return _from_json(cls, json.loads(text))

    def differences(self, other: "TrainConfig") -> list[str]:
        """Fields in which two configs differ, as 'name: mine, not theirs'."""
        return [
            f"{name}: {mine!r}, not {theirs!r}"
            for name, (mine, theirs) in _flat(self, other).items()
            if mine != theirs
        ]


def _trained(name: str, optimizer: str) -> pretrained.Pretrained:
    """A pretrained optimizer of a certain kind.

    Raises:
      ValueError: it is of another kind.
    """
    found = pretrained.load(name)
    kind = learned_opt.name_of(found.optimizer)
    if kind != optimizer:
        raise ValueError(f"{name!r} is a trained {kind}, not a {optimizer}.")
    return found


def _flat(config: Any, other: Any) -> dict[str, tuple[Any, Any]]:
    """The fields of two configs side by side, those of configs within among them."""
    fields: dict[str, tuple[Any, Any]] = {}
    for field in dataclasses.fields(config):
        mine, theirs = getattr(config, field.name), getattr(other, field.name)
        if dataclasses.is_dataclass(mine):
            fields |= _flat(mine, theirs)
        else:
            fields[field.name] = (mine, theirs)
    return fields


def _from_json(kind: type[T], values: dict[str, Any]) -> T:
    hints = typing.get_type_hints(kind)
    odd = sorted(values.keys() - hints.keys())
    if odd:
        raise ValueError(f"the fields of a {kind.__name__} do not include {odd}.")
    read: dict[str, Any] = {}
    for name, value in values.items():
        if dataclasses.is_dataclass(hints[name]):
            value = _from_json(hints[name], value)
        read[name] = tuple(value) if isinstance(value, list) else value
    return kind(**read)
