"""The surface of a meta-loss: rugged at long horizons, tame once smoothed.

    L_T(theta) = (1/T) sum_{t <= T} loss_t,      s_T = u . grad L_T(theta),
    s'_T = (L_T(theta + sigma u) - L_T(theta - sigma u)) / (2 sigma),    u ~ N(0, I),

for a small network that is trained with an optimizer of meta-parameters theta. A step that
is a little too long makes training chaotic while it still learns: nearby thetas end in
different networks, derivatives grow by a factor every step, and what looks like a slope is
the flank of a ripple (Metz et al. 2019, arXiv 1810.10180, figures 1 to 3). Evolution
strategies see s', the slope of the surface smoothed by N(0, sigma^2 I), which losses and
sigma bound; backpropagation sees the gradient, whose mean square is that of s.

Around Adam with a rate of 0.1. Criteria, for every seed, with T the longest horizon: s
grows faster than any power of the horizon would, that is more from T/2 to T than from T/4
to T/2, and in both together more than 1000-fold (root mean squares over episodes);
s' at T is within a factor of 10 of what it is at T/8; the roughness of a slice along
the rate, its total variation over its range (1 for a slope, at most 2 for a valley), is
at T more than 3 times that at T/16, and more than 3 times that of the smoothed slice.
"""

import dataclasses
from pathlib import Path
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PRNGKeyArray

import tasksets
from learned_opt import Adam, PerParameterMLP, ScaleFree
from meta_train import surface
from meta_train.devices import compiler_options
from meta_train.experiments.descent import concurrently
from meta_train.experiments.experiment import Claim, Experiment, Report, spread
from meta_train.inner_training import InnerTraining
from meta_train.plots import pyplot, save
from meta_train.surface_plots import plot_lines, plot_planes
from meta_train.system import System, Theta, episode

_CAP = 3.0  # of losses, in units of the initial loss
_KINDS = ("raw", "smoothed")
_RUGGED = "Adam, rate 0.1"


def slopes(
    system: System,
    theta: Theta,
    keys: PRNGKeyArray,
    num_steps: int,
    sigma: float,
) -> tuple[Float[Array, "episodes steps"], Float[Array, "episodes steps"]]:
    """s and s' after every number of steps, along a direction of each episode's own."""
    flat, unravel = ravel_pytree(theta)

    def along(key: PRNGKeyArray) -> tuple[Array, Array]:
        episode_key, direction_key = jax.random.split(key)
        u = jax.random.normal(direction_key, flat.shape)

        def losses(a: Array) -> Array:
            return episode(system, unravel(flat + a * u), episode_key, num_steps)[1]

        _, exact = jax.jvp(losses, (0.0,), (1.0,))
        ends = jax.lax.map(losses, jnp.array([sigma, -sigma]))
        ends = jnp.minimum(jnp.nan_to_num(ends, nan=_CAP), _CAP)
        return exact, (ends[0] - ends[1]) / (2 * sigma)

    horizons = jnp.arange(1, num_steps + 1)
    means = lambda steps: jnp.cumsum(steps, axis=1) / horizons
    return jax.tree.map(means, jax.vmap(along)(keys))


class Slopes(NamedTuple):
    """Root mean squares of s and s' over episodes, for every horizon up to the last."""

    exact: Float[np.ndarray, "seeds steps"]
    finite: Float[np.ndarray, "seeds steps"]


def roughness(heights: Float[np.ndarray, "*b points"]) -> Float[np.ndarray, "*b"]:
    """Total variation over range: 1 where a slice is monotone."""
    return np.sum(np.abs(np.diff(heights)), axis=-1) / np.ptp(heights, axis=-1)


@dataclasses.dataclass(frozen=True)
class MetaSurface(Experiment):
    """The settings.

    Attributes:
      task: what is trained, a name of `tasksets`.
      horizon: T, a multiple of 16.
      sigma: of the smoothing, in units of theta, which for Adam are logarithms.
      num_pairs: antithetic pairs that smooth a slice; a plane has a third of them.
      num_episodes: over which slopes are averaged, for each seed.
      points: of a slice; a plane has a quarter of them along each side.
      width: slices reach from -width to +width.
    """

    name: ClassVar[str] = "meta-surface"
    title: ClassVar[str] = "Long horizons make surfaces rugged, smoothing tames them"
    paper: ClassVar[str] = "arXiv 1810.10180, figures 1 to 3"

    task: str = (
        "small_mlp/seed0@digits?hidden=16&activation=tanh&batch_size=16&init_scale=1.0"
        "&reparam_scale=1.0&label_noise=0.0&train_fraction=1.0"
    )
    horizon: int = 192
    sigma: float = 0.2
    num_pairs: int = 24
    num_episodes: int = 32
    points: int = 81
    width: float = 0.3

    @classmethod
    def full(cls) -> "MetaSurface":
        """A wider network on MNIST, longer horizons, finer slices."""
        task = cls.task.replace("digits", "mnist").replace("hidden=16", "hidden=32-32")
        return cls(
            seeds=(0, 1, 2, 3, 4),
            task=task,
            horizon=384,
            num_pairs=64,
            num_episodes=256,
            points=201,
        )

    def run(self, folder: Path) -> Report:
        """Slopes around several optimizers, slices around one of them."""
        subjects = self.subjects()
        found = concurrently(
            {name: lambda name=name: self._slopes(*subjects[name]) for name in subjects}
        )
        lines = {
            (steps, kind): self._lines(*subjects[_RUGGED], steps, kind)
            for steps in self.horizons
            for kind in _KINDS
        }
        planes = concurrently(
            {
                f"{kind}, {steps} steps": lambda case=(steps, kind): self._plane(
                    *subjects[_RUGGED], *case
                )
                for steps, kind in (
                    (self.horizons[0], "raw"),
                    (self.horizon, "raw"),
                    (self.horizon, "smoothed"),
                )
            }
        )
        panels = {
            f"{steps} steps": {kind: lines[steps, kind][0] for kind in _KINDS}
            for steps in self.horizons
        }
        offsets = np.linspace(-self.width, self.width, self.points)
        labels = "offset of log rate", "offset of log (1 - b1)"
        figures = [
            self._plot_slopes(found, folder / "slopes.png"),
            plot_lines(panels, offsets, folder / "lines.png", label=labels[0]),
            plot_planes(planes, self._coarse, folder / "planes.png", labels=labels),
        ]
        rough = {case: roughness(heights) for case, heights in lines.items()}
        return Report(self._claims(found, rough), self._rows(found), figures)

    @property
    def horizons(self) -> tuple[int, int, int]:
        """Of the slices."""
        return self.horizon // 16, self.horizon // 4, self.horizon

    def subjects(self) -> dict[str, tuple[InnerTraining, Theta]]:
        """Optimizers and the theta around which they are looked at, by name."""
        optimizers = {
            _RUGGED: Adam(0.1),
            "Adam, rate 0.01": Adam(0.01),
            "per-parameter MLP, untrained": PerParameterMLP(),
            "scale-free rule, untrained": ScaleFree(),
        }
        task = tasksets.get(self.task)
        return {
            name: (
                InnerTraining(task, optimizer, train_weight=1.0),
                optimizer.init(jax.random.key(0)),
            )
            for name, optimizer in optimizers.items()
        }

    def _slopes(self, system: System, theta: Theta) -> Slopes:
        """Root mean squares over episodes."""
        options = compiler_options()
        of = jax.jit(slopes, static_argnums=3, compiler_options=options)
        split = lambda seed: jax.random.split(jax.random.key(seed), self.num_episodes)
        keys = map(split, self.seeds)
        found = [of(system, theta, key, self.horizon, self.sigma) for key in keys]
        both = np.asarray(found, np.float64)  # [seeds, 2, episodes, steps]
        exact, finite = np.moveaxis(np.sqrt(np.mean(both**2, axis=2)), 1, 0)
        return Slopes(exact, finite)

    def _height(
        self, system: System, seed: int, steps: int, kind: str, num_pairs: int
    ) -> surface.Height:
        key = jax.random.key(seed)
        raw = surface.meta_loss(system, jax.random.split(key, 1), steps, cap=_CAP)
        if kind == "raw":
            return raw
        return surface.smoothed(raw, self.sigma, key, num_pairs)

    def _lines(
        self, system: System, theta: Theta, steps: int, kind: str
    ) -> Float[np.ndarray, "seeds points"]:
        offsets = np.linspace(-self.width, self.width, self.points)

        def line(seed: int) -> Float[np.ndarray, "points"]:
            height = self._height(system, seed, steps, kind, self.num_pairs)
            return surface.line(height, theta, _towards("log_learning_rate"), offsets)

        jobs = {str(seed): lambda seed=seed: line(seed) for seed in self.seeds}
        return np.stack(list(concurrently(jobs).values()))

    def _plane(
        self, system: System, theta: Theta, steps: int, kind: str
    ) -> Float[np.ndarray, "points points"]:
        height = self._height(system, self.seeds[0], steps, kind, self.num_pairs // 3)
        directions = _towards("log_learning_rate"), _towards("log_one_minus_b1")
        return surface.plane(height, theta, directions, self._coarse)

    @property
    def _coarse(self) -> Float[np.ndarray, "points"]:
        return np.linspace(-self.width, self.width, self.points // 4)

    def _rows(self, found: dict[str, Slopes]) -> list[dict[str, str]]:
        horizons = [self.horizon // k for k in (8, 4, 2, 1)]
        return [
            {"optimizer": name, "slope": kind}
            | {f"{t} steps": spread(slope[:, t - 1]) for t in horizons}
            for name, both in found.items()
            for kind, slope in zip(("exact", "over sigma"), both, strict=True)
        ]

    def _claims(
        self, found: dict[str, Slopes], rough: dict[tuple[int, str], np.ndarray]
    ) -> list[Claim]:
        at = lambda slope, divisor: slope[:, self.horizon // divisor - 1]
        exact, finite = found[_RUGGED]
        early = at(exact, 2) / at(exact, 4)
        late = at(exact, 1) / at(exact, 2)
        total, tame = early * late, at(finite, 1) / at(finite, 8)
        short, long = rough[self.horizons[0], "raw"], rough[self.horizon, "raw"]
        smooth = rough[self.horizon, "smoothed"]
        return [
            Claim(
                "the gradient's norm grows exponentially with the horizon",
                f"times {spread(early)}, then {spread(late)} per doubling",
                bool(np.all((late > early) & (total > 1000))),
            ),
            Claim(
                "what evolution strategies see does not",
                f"times {spread(tame)} over three doublings",
                bool(np.all((tame < 10) & (tame > 0.1))),
            ),
            Claim(
                "the surface gets more rugged with the horizon",
                f"roughness {spread(short)} to {spread(long)}",
                bool(np.all(long > 3 * short)),
            ),
            Claim(
                "smoothing makes it tame",
                f"roughness {spread(long)} to {spread(smooth)}",
                bool(np.all(long > 3 * smooth)),
            ),
        ]

    def _plot_slopes(self, found: dict[str, Slopes], path: Path) -> Path:
        fig, axes = pyplot().subplots(1, 2, figsize=(10, 4), sharey=True)
        steps = np.arange(1, self.horizon + 1)
        titles = "Exact slope", f"Slope over sigma = {self.sigma:g}"
        for i, (ax, title) in enumerate(zip(axes, titles, strict=True)):
            for name, both in found.items():
                (line,) = ax.plot(steps, np.median(both[i], axis=0), label=name)
                low, high = both[i].min(axis=0), both[i].max(axis=0)
                ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.15)
            ax.set(xlabel="horizon (steps)", yscale="log", title=title)
            ax.grid(alpha=0.25)
        axes[0].set_ylabel("root mean square over episodes")
        axes[0].legend(fontsize=8)
        return save(fig, path)


def _towards(name: str) -> Theta:
    """The unit step of theta along one of Adam's numbers."""
    zeros = jax.tree.map(jnp.zeros_like, Adam().init(jax.random.key(0)))
    return zeros._replace(**{name: jnp.ones(())})
