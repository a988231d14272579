"""Train tasks with optimizers and compare: any optax transform, tuned baselines beside it.

Every contender sees the same initial parameters and the same batches. A contender with a
grid (Adam over learning rates) is run at every point, and its best point is chosen *per
task* by the loss on the inner validation split, for each figure by that very figure; what
is reported is the loss on other splits. Losses are normalised per task as in TaskSet (Metz
et al. 2020, arXiv 2002.11887): 1 is the initial loss, 0 the best loss that any run of the
comparison reached, clipped, NaN counts as 1.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

import tasksets
from learned_opt import Adam, Flat, LearnedOptimizer, Rule
from meta_train.devices import compiler_options, lane_mesh
from tasksets import Task
from tasksets.task import SPLITS, SplitName

# 14 rates, evenly spaced in the logarithm from 1e-5 to 1.6; 1e-3 is among them.
LEARNING_RATES = tuple(float(10.0 ** (-5 + 0.4 * i)) for i in range(14))
_EVAL_BATCHES = 4  # per split and measurement


@dataclasses.dataclass(frozen=True)
class Contender:
    """An optimizer to evaluate, or a grid of them from which the best is taken.

    Attributes:
      name: how results call it.
      make: ``make(point, num_steps)`` gives an optax transform; traced.
      grid: pytree of arrays with a leading axis of points, tuned per task.
      also: points of the grid that are contenders of their own, untuned, by name.
    """

    name: str
    make: Callable[[Any, int], optax.GradientTransformation]
    grid: Any
    also: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def num_points(self) -> int:
        """Trials per task: 1 needs no tuning."""
        return jax.tree.leaves(self.grid)[0].shape[0]


def fixed(name: str, transform: optax.GradientTransformation) -> Contender:
    """Any optax transform as it is."""
    return Contender(name, lambda point, num_steps: transform, jnp.zeros((1,)))


def learned(name: str, optimizer: LearnedOptimizer, theta: Any) -> Contender:
    """A learned optimizer with its theta; nothing is tuned."""
    grid = jax.tree.map(lambda x: x[None], theta)
    return Contender(name, lambda point, n: _transform(optimizer, point, n), grid)


def adam(name: str, *rates: float, also: Mapping[str, int] | None = None) -> Contender:
    """Adam at the best of the given learning rates."""
    thetas = [Adam(learning_rate=rate).init(jax.random.key(0)) for rate in rates]
    return Contender(
        name,
        lambda point, num_steps: _transform(Adam(), point, num_steps),
        jax.tree.map(lambda *xs: jnp.stack(xs), *thetas),
        also or {},
    )


def _transform(
    optimizer: LearnedOptimizer, theta: Any, num_steps: int
) -> optax.GradientTransformationExtraArgs:
    """The transform, on the flat layout where there is one: the same, only faster."""
    if isinstance(optimizer, Rule):
        return optimizer.transform(theta, num_steps=num_steps, layout=Flat)
    return optimizer.transform(theta, num_steps=num_steps)


def baselines() -> tuple[Contender, ...]:
    """What a learned optimizer must be compared with before anyone believes it."""
    default = {"Adam 1e-3": LEARNING_RATES.index(1e-3)}
    return (
        adam("Adam, best of 14 rates per task", *LEARNING_RATES, also=default),
        fixed("Prodigy, defaults", optax.contrib.prodigy()),
    )


@dataclasses.dataclass(frozen=True)
class Curves:
    """All losses of one contender.

    Attributes:
      contender: its name.
      tasks: names of the tasks.
      steps: training steps done at each measurement, ``[evals]``.
      losses: by split, ``[tasks, points, seeds, evals]``.
    """

    contender: str
    tasks: tuple[str, ...]
    steps: np.ndarray
    losses: dict[str, np.ndarray]

    def best(self, figure: Callable[[np.ndarray], np.ndarray]) -> dict[str, np.ndarray]:
        """Losses ``[tasks, seeds, evals]`` at each task's best point.

        Args:
          figure: what to be best at: maps losses ``[..., evals]`` to ``[...]``.
        """
        scores = figure(self.losses["inner_valid"]).mean(axis=-1)
        scores = np.where(np.isfinite(scores), scores, np.inf)
        index = scores.argmin(axis=1)[:, None, None, None]
        return {
            split: np.take_along_axis(losses, index, axis=1)[:, 0]
            for split, losses in self.losses.items()
        }


def final(losses: np.ndarray) -> np.ndarray:
    """Loss at the end of training."""
    return losses[..., -1]


def over_run(losses: np.ndarray) -> np.ndarray:
    """Mean loss over the whole of training; one non-finite loss makes it non-finite."""
    return losses.mean(axis=-1)


FIGURES = {"mean over run": over_run, "final": final}


def run(
    tasks: Sequence[Task],
    contenders: Sequence[Contender],
    *,
    num_steps: int,
    num_seeds: int = 3,
    num_evals: int = 25,
    seed: int = 0,
    on_group: Callable[[int, int], None] = lambda done, total: None,
) -> list[Curves]:
    """Train every task with every contender.

    Args:
      tasks: in any mix of structures; those of equal structure run in one program.
      contenders: what to compare.
      num_steps: training steps, a multiple of ``num_evals``.
      num_seeds: independent initialisations and batch orders per task.
      num_evals: measurements after the one at step 0, evenly spaced.
      seed: of all randomness.
      on_group: told after each program how many of how many are done.

    Raises:
      ValueError: ``num_steps`` is not a multiple of ``num_evals``.
    """
    if num_steps % num_evals:
        raise ValueError(
            f"num_steps={num_steps} is not a multiple of num_evals={num_evals}."
        )
    groups = tasksets.group_by_structure(tasks)
    names = tuple(task.name for group in groups for task in group)
    total, curves = len(groups) * len(contenders), []
    for number, contender in enumerate(contenders):
        parts = []
        for group in groups:
            parts.append(
                _run_group(group, contender, num_steps, num_seeds, num_evals, seed)
            )
            on_group(number * len(groups) + len(parts), total)
        losses = {s: np.concatenate([part[s] for part in parts]) for s in SPLITS}
        steps = np.arange(num_evals + 1) * (num_steps // num_evals)
        curves.append(Curves(contender.name, names, steps, losses))
        for name, point in contender.also.items():
            alone = {s: x[:, point : point + 1] for s, x in losses.items()}
            curves.append(Curves(name, names, steps, alone))
    return curves


def normalised(
    curves: Sequence[Curves], split: str, figure: Callable[[np.ndarray], np.ndarray]
) -> list[Float[np.ndarray, "tasks seeds evals"]]:
    """Normalised losses of each contender at its best point for ``figure``."""
    every = np.concatenate(
        [c.losses[split].reshape(len(c.tasks), -1) for c in curves], axis=1
    )
    best = np.nanmin(np.where(np.isfinite(every), every, np.nan), axis=1)
    start = np.mean([c.losses[split][..., 0].mean(axis=(1, 2)) for c in curves], axis=0)
    span = (start - best)[:, None, None]
    result = []
    for c in curves:
        scaled = (c.best(figure)[split] - best[:, None, None]) / span
        result.append(np.where(np.isnan(scaled), 1.0, np.clip(scaled, 0.0, 1.0)))
    return result


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of a comparison: normalised losses over tasks and seeds, 0 is best."""

    contender: str
    split: str
    figure: str
    mean: float
    median: float
    spread: float  # standard deviation over seeds of the mean over tasks
    diverged: int  # runs that ended non-finite


def table(
    curves: Sequence[Curves], splits: Sequence[str] = ("test", "train")
) -> list[Row]:
    """Mean and median over tasks for each contender, split and figure."""
    rows = []
    for split in splits:
        for name, figure in FIGURES.items():
            for c, losses in zip(
                curves, normalised(curves, split, figure), strict=True
            ):
                scores = figure(losses)
                diverged = ~np.isfinite(c.best(figure)[split][..., -1])
                rows.append(
                    Row(
                        c.contender,
                        split,
                        name,
                        float(scores.mean()),
                        float(np.median(scores.mean(axis=1))),
                        float(scores.mean(axis=0).std()),
                        int(diverged.sum()),
                    )
                )
    return rows


def _run_group(
    tasks: Sequence[Task],
    contender: Contender,
    num_steps: int,
    num_seeds: int,
    num_evals: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Losses by split, ``[tasks, points, seeds, evals]``, of tasks of one structure."""
    mesh = lane_mesh()
    devices = mesh.size if mesh else 1
    lanes = [(t, s) for t in range(len(tasks)) for s in range(num_seeds)]
    padding = -len(lanes) % devices
    padded = lanes + lanes[:1] * padding
    task_of_lane = jnp.array([t for t, _ in padded])
    root = jax.random.key(seed)
    keys = jax.vmap(lambda s: jax.random.fold_in(root, s))(
        jnp.array([s for _, s in padded])
    )

    def train_lanes(stack: Task, grid: Any, indices: Array, keys: Array):
        def lane(index: Array, key: Array):
            one = lambda point: _train(
                stack.lane(index),
                contender.make(point, num_steps),
                num_steps,
                num_evals,
                key,
            )
            return jax.vmap(one)(grid)

        return jax.vmap(lane)(indices, keys)

    if mesh is not None:
        lanes_axis, everywhere = PartitionSpec("lanes"), PartitionSpec()
        train_lanes = jax.shard_map(
            train_lanes,
            mesh=mesh,
            in_specs=(everywhere, everywhere, lanes_axis, lanes_axis),
            out_specs=lanes_axis,
            check_vma=False,  # a transform's initial state may be constants
        )
    compiled = jax.jit(train_lanes, compiler_options=compiler_options())
    losses = compiled(tasksets.stack(tasks), contender.grid, task_of_lane, keys)
    shape = (len(tasks), num_seeds, contender.num_points, num_evals + 1)
    return {
        split: np.asarray(x)[: len(lanes)].reshape(shape).swapaxes(1, 2)
        for split, x in losses.items()
    }


def _train(
    task: Task,
    transform: optax.GradientTransformation,
    num_steps: int,
    num_evals: int,
    key: Array,
) -> dict[str, Float[Array, "evals"]]:
    """One run; losses by split before training and after each stretch of it."""
    tx = optax.with_extra_args_support(transform)
    init_key, train_key, eval_key = jax.random.split(key, 3)
    params = task.init(init_key)

    def draw(key: Array) -> tuple[Any, ...]:
        keys = jax.random.split(key, 4)
        drawn = task.draw("train", keys[0]), task.draw("inner_valid", keys[1])
        return *drawn, keys[2], keys[3]

    def step(carry: Any, x: tuple[Any, ...]) -> tuple[Any, None]:
        params, state = carry
        train_draw, valid_draw, loss_key, valid_key = x
        batch = task.take("train", train_draw)
        value, grads = jax.value_and_grad(task.loss)(params, batch, loss_key)
        valid_batch = task.take("inner_valid", valid_draw)
        valid_value = task.loss(params, valid_batch, valid_key)
        updates, state = tx.update(
            grads, state, params, value=value, valid_value=valid_value
        )
        return (optax.apply_updates(params, updates), state), None

    def draw_eval(split: SplitName, key: Array) -> tuple[Any, Array]:
        batch_key, loss_key = jax.random.split(key)
        return task.take(split, task.draw(split, batch_key)), loss_key

    # Every measurement uses the same batches: curves without sampling noise between them.
    eval_keys = jax.random.split(eval_key, _EVAL_BATCHES)
    eval_batches = {s: jax.vmap(partial(draw_eval, s))(eval_keys) for s in SPLITS}

    def stretch(carry: Any, stretch_key: Array) -> tuple[Any, dict[str, Array]]:
        losses = {
            split: jnp.mean(jax.vmap(partial(task.loss, carry[0]))(*batches))
            for split, batches in eval_batches.items()
        }
        # Random numbers are cheap in bulk and dear one step at a time.
        xs = jax.vmap(draw)(jax.random.split(stretch_key, num_steps // num_evals))
        carry, _ = jax.lax.scan(step, carry, xs)
        return carry, losses

    # The last stretch only measures what the ones before it trained.
    stretch_keys = jax.random.split(train_key, num_evals + 1)
    return jax.lax.scan(stretch, (params, tx.init(params)), stretch_keys)[1]
