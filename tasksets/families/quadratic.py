"""quadratic_family: noisy quadratic bowls of many spectra and scales.

    loss = c * out(|(A + N) x|^2),    out(f) = f or log(max(f, 0) + 1e-8)

One of the twelve families of TaskSet (Metz et al. 2020, arXiv 2002.11887). A is drawn
once for a task; N, where there is one, anew in every call of the loss; x starts from
its law. A seed gives the config that it gives there; the matrix of a config is drawn
by numpy here, so it is another matrix of the same law.

Normalisation is linear in log(f + 1e-8) whatever `out` is, from the expectation of f
over the start and the noise (1) to f = 0 (0), which x = 0 reaches.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from tasksets import sampling
from tasksets.decompositions import orthogonal_factor
from tasksets.family import Family
from tasksets.task import Problem, SplitName

_FLOOR = 1e-8
_MATRIX_KINDS = ["normal", "linspace_eigen", "uniform", "logspace_eigen"]
_VECTOR_KINDS = ["normal", "uniform"]

Point = dict[str, Float[Array, "dims"]]


@dataclass(frozen=True)
class Law:
    """The law of a matrix or vector: of its entries, or of its eigenvalues."""

    kind: str  # normal, uniform; for matrices also linspace_eigen, logspace_eigen
    mean: float | None = None  # of a normal's entries
    std: float | None = None  # of a normal's entries
    min: float | None = None  # of all others: of uniform entries or eigenvalues
    max: float | None = None

    def as_taskset(self) -> list[Any]:
        """[kind, {its numbers}]."""
        fields = asdict(self)
        kind = fields.pop("kind")
        return [kind, {k: v for k, v in fields.items() if v is not None}]

    @property
    def is_spectrum(self) -> bool:
        return self.kind.endswith("_eigen")

    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of independent entries."""
        if self.kind == "normal":
            return _known(self.mean), _known(self.std)
        low, high = _known(self.min), _known(self.max)
        return (low + high) / 2, (high - low) / np.sqrt(12)

    def spectrum(self, dims: int) -> Float[np.ndarray, "dims"]:
        """Eigenvalues, spaced evenly or evenly in their logarithm."""
        space = np.linspace if self.kind == "linspace_eigen" else np.geomspace
        return space(_known(self.min), _known(self.max), dims).astype(np.float32)


def _known(number: float | None) -> float:
    assert number is not None
    return number


@dataclass(frozen=True)
class QuadraticConfig:
    """Every field of the family, with how it is sampled."""

    matrix: Law  # of A; uniform over four kinds, see _matrix_law
    start: Law  # of x; normal(N(0,1), U(0,2)) or uniform(min U(-5,2.5), width U(0,5))
    output: str  # identity or log; 50/50
    dims: int  # logint 2-3000
    seed: int  # of A, U{0..99999}
    loss_scale: float  # the c above, logU(1e-5, 1e3)
    noise: Law | None  # of N; None with p .5, else see _noise_law

    def as_taskset(self) -> dict[str, Any]:
        """This config in the form of TaskSet's JSON."""
        return {
            "A_dist": self.matrix.as_taskset(),
            "initial_dist": self.start.as_taskset(),
            "output_fn": self.output,
            "dims": self.dims,
            "seed": self.seed,
            "loss_scale": self.loss_scale,
            "noise": {"A_noise": self.noise.as_taskset()} if self.noise else None,
        }


def sample(seed: int) -> QuadraticConfig:
    """The config that TaskSet samples from `seed`."""
    rng = np.random.RandomState(seed)
    matrix = _matrix_law(rng)
    start = _start_law(rng)
    output = str(rng.choice(["identity", "log"]))
    dims = sampling.log_int(rng, 2, 3000)
    matrix_seed = int(rng.randint(0, 100000))
    loss_scale = sampling.log_float(rng, 1e-5, 1e3)
    noise = _noise_law(rng) if rng.choice([True, False]) else None
    return QuadraticConfig(matrix, start, output, dims, matrix_seed, loss_scale, noise)


def _matrix_law(rng: np.random.RandomState) -> Law:
    kind = str(rng.choice(_MATRIX_KINDS))
    if kind == "normal":
        return _normal(rng, mean_std=1, highest_std=2)
    if kind == "logspace_eigen":
        return Law(kind, min=1e-5, max=rng.uniform(1, 1000))
    if kind == "uniform":
        return _interval(rng, kind, (-3, 1), widest=5)
    return _interval(rng, kind, (0.01, 50), widest=100)


def _noise_law(rng: np.random.RandomState) -> Law:
    kind = str(rng.choice(_MATRIX_KINDS))
    if kind == "normal":
        return _normal(rng, mean_std=0.05, highest_std=0.05)
    if kind == "logspace_eigen":
        return Law(kind, min=1e-5, max=rng.uniform(1, 10))
    if kind == "uniform":
        return _interval(rng, kind, (-0.15, 0.05), widest=0.25)
    return _interval(rng, kind, (0.01, 2), widest=10)


def _start_law(rng: np.random.RandomState) -> Law:
    kind = str(rng.choice(_VECTOR_KINDS))
    if kind == "normal":
        return _normal(rng, mean_std=1, highest_std=2)
    return _interval(rng, kind, (-5, 2.5), widest=5)


def _normal(rng: np.random.RandomState, mean_std: float, highest_std: float) -> Law:
    mean = rng.normal(0, mean_std)
    return Law("normal", mean=mean, std=rng.uniform(0, highest_std))


def _interval(
    rng: np.random.RandomState, kind: str, lowest: tuple[float, float], widest: float
) -> Law:
    low = rng.uniform(*lowest)
    return Law(kind, min=low, max=low + rng.uniform(0, widest))


class EntryNumbers(NamedTuple):
    """Independent entries: mean + std * standard draw."""

    mean: Float[Array, "*lanes"]
    std: Float[Array, "*lanes"]


class QuadraticNumbers(NamedTuple):
    """What may differ between tasks of equal structure."""

    matrix: Float[Array, "*lanes dims dims"]  # A
    start: EntryNumbers
    noise: EntryNumbers | Float[Array, "*lanes dims"] | None  # entries, or eigenvalues
    loss_scale: Float[Array, "*lanes"]
    initial_loss: Float[Array, "*lanes"]  # at the expectation of |(A + N) x|^2
    best_loss: Float[Array, "*lanes"]  # at x = 0


@dataclass(frozen=True)
class QuadraticProblem(Problem):
    """The structure of a task of this family; the kind of A is not part of it."""

    dims: int
    start: str  # normal or uniform
    noise: str | None  # normal, uniform, eigen
    output: str  # identity or log

    def init(self, numbers: QuadraticNumbers, key: PRNGKeyArray) -> Point:
        return {"x": _entries(self.start, numbers.start, (self.dims,), key)}

    def take(
        self, numbers: QuadraticNumbers, data: tuple[()], split: SplitName, drawn: Any
    ) -> tuple[()]:
        """Nothing: the four splits are one, and the noise comes with the loss."""
        del numbers, data, split, drawn
        return ()

    def loss(
        self,
        numbers: QuadraticNumbers,
        params: Point,
        batch: tuple[()],
        key: PRNGKeyArray,
    ) -> Float[Array, ""]:
        del batch
        matrix = numbers.matrix
        if self.noise == "eigen":
            matrix = matrix + _matrix_of_spectrum(numbers.noise, key)
        elif self.noise is not None:
            matrix = matrix + _entries(self.noise, numbers.noise, matrix.shape, key)
        f = jnp.sum((matrix @ params["x"]) ** 2)
        return numbers.loss_scale * (_log(f) if self.output == "log" else f)

    def progress(
        self, numbers: QuadraticNumbers, loss: Float[Array, "..."]
    ) -> Float[Array, "..."]:
        value = loss / numbers.loss_scale
        return value if self.output == "log" else _log(value)


def _log(f: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.log(jnp.maximum(f, 0.0) + _FLOOR)


def _entries(
    kind: str, numbers: Any, shape: tuple[int, ...], key: PRNGKeyArray
) -> Float[Array, "..."]:
    if kind == "normal":
        standard = jax.random.normal(key, shape)
    else:
        bound = np.sqrt(3)
        standard = jax.random.uniform(key, shape, minval=-bound, maxval=bound)
    return numbers.mean + numbers.std * standard


def _matrix_of_spectrum(spectrum: Any, key: PRNGKeyArray) -> Float[Array, "dims dims"]:
    """Q diag(spectrum) Q^T, with Q from the QR decomposition of a uniform matrix."""
    dims = spectrum.shape[0]
    q = orthogonal_factor(jax.random.uniform(key, (dims, dims), minval=-1.0))
    return (q * spectrum) @ q.T


def build(config: QuadraticConfig) -> tuple[QuadraticProblem, QuadraticNumbers, tuple]:
    """The task of a config."""
    return _with_matrix(config, _draw_matrix(config))


def outline(
    config: QuadraticConfig,
) -> tuple[QuadraticProblem, QuadraticNumbers, tuple]:
    """The same with zeros for its matrix: an orthogonal one of 3000 takes seconds."""
    return _with_matrix(config, np.zeros((config.dims, config.dims)))


def _with_matrix(
    config: QuadraticConfig, matrix: Float[np.ndarray, "dims dims"]
) -> tuple[QuadraticProblem, QuadraticNumbers, tuple]:
    if config.output not in ("identity", "log"):
        raise ValueError(f"output is identity or log, not {config.output!r}")
    noise = config.noise
    noise_kind = noise.kind if noise and not noise.is_spectrum else noise and "eigen"
    f = _expected_square(config, matrix)
    out = (lambda f: np.log(f + _FLOOR)) if config.output == "log" else (lambda f: f)
    noise_numbers = None
    if noise is not None:
        if noise.is_spectrum:
            noise_numbers = jnp.asarray(noise.spectrum(config.dims))
        else:
            noise_numbers = EntryNumbers(*map(jnp.float32, noise.moments()))
    numbers = QuadraticNumbers(
        matrix=jnp.asarray(matrix, jnp.float32),
        start=EntryNumbers(*map(jnp.float32, config.start.moments())),
        noise=noise_numbers,
        loss_scale=jnp.float32(config.loss_scale),
        initial_loss=jnp.float32(config.loss_scale * out(f)),
        best_loss=jnp.float32(config.loss_scale * out(0.0)),
    )
    problem = QuadraticProblem(
        config.dims, config.start.kind, noise_kind, config.output
    )
    return problem, numbers, ()


def _draw_matrix(config: QuadraticConfig) -> Float[np.ndarray, "dims dims"]:
    """A in float64, so that its float32 is the same on every machine."""
    rng = np.random.RandomState(config.seed)
    shape, law = (config.dims, config.dims), config.matrix
    if law.kind == "normal":
        return rng.normal(*law.moments(), shape)
    if law.kind == "uniform":
        return rng.uniform(_known(law.min), _known(law.max), shape)
    q, r = np.linalg.qr(rng.uniform(-1, 1, shape))
    q = q * np.sign(np.diagonal(r))
    return (q * law.spectrum(config.dims)) @ q.T


def _expected_square(config: QuadraticConfig, matrix: np.ndarray) -> float:
    """E |(A + N) x|^2 over the start and the noise.

    With m, s the mean and deviation of the entries of x, E x x^T = m^2 1 1^T + s^2 I.
    For N of eigenvalues l in a uniformly turned basis, E N = mean(l) I and
    E N^2 = mean(l^2) I.
    """
    m, s = config.start.moments()
    square = lambda a: m**2 * np.sum(a.sum(1) ** 2) + s**2 * np.sum(a**2)
    x_square = config.dims * (m**2 + s**2)
    noise = config.noise
    if noise is None:
        return square(matrix)
    if noise.is_spectrum:
        spectrum = noise.spectrum(config.dims).astype(np.float64)
        x_a_x = m**2 * matrix.sum() + s**2 * np.trace(matrix)
        cross = 2 * spectrum.mean() * x_a_x
        return square(matrix) + cross + (spectrum**2).mean() * x_square
    mean, std = noise.moments()
    return square(matrix + mean) + std**2 * config.dims * x_square


FAMILY = Family("quadratic_family", sample, build, outline)
