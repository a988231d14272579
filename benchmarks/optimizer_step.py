"""What one update costs with each optimizer: time, memory, compile time.

    python -m benchmarks optimizer_step
    python -m benchmarks.optimizer_step --models transformer-100m --rounds 20
    python -m benchmarks.optimizer_step --models thousand --layout Flat

An optimizer's programs run in turn with those of `optax.adamw`, so that a noisy machine is
noisy for both; times are medians over rounds. The state is donated, as in training. Per
optimizer:

* update: `tx.update` alone; and for the MLP a whole training step (batch 128, gradient,
  update, apply), each also relative to `optax.adamw`;
* bandwidth: the bytes an update must move at least (gradients, parameters and state are
  read, updates and state are written) per second of the update, as a share of what
  scaling a large array in place reaches in the same rounds;
* matmul: operations of the optimizer's matrix products per second of the update, as a
  share of what a large product reaches; small networks are unrolled, and have none;
* memory: what the update needs besides its inputs and outputs, relative to the size of
  state and updates.
"""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from rich.console import Console
from rich.table import Table

import learned_opt
from tasksets.cost import operations

BASELINE = "optax.adamw"
_COPIED = 2**25  # elements of the array that measures bandwidth
_MULTIPLIED = 2048  # rows and columns of the matrices that measure matrix products


def mlp() -> Iterator[tuple[int, ...]]:
    """Two hidden layers of 128 on 3,072 inputs, 10 classes: 411,146 parameters."""
    for inputs, outputs in ((3072, 128), (128, 128), (128, 10)):
        yield from ((inputs, outputs), (outputs,))


def resnet() -> Iterator[tuple[int, ...]]:
    """A 14-layer ResNet for small images, three stages 48-192 wide: 1.6M parameters."""

    def conv(size: int, inputs: int, outputs: int) -> Iterator[tuple[int, ...]]:
        yield from ((size, size, inputs, outputs), (outputs,), (outputs,))

    yield from conv(3, 3, 48)
    for inputs, outputs in ((48, 48), (48, 96), (96, 192)):
        if inputs != outputs:
            yield from conv(1, inputs, outputs)
        yield from conv(3, inputs, outputs)
        for _ in range(3):
            yield from conv(3, outputs, outputs)
    yield from ((192, 10), (10,))


def transformer(width: int, layers: int, vocabulary: int) -> Iterator[tuple[int, ...]]:
    """A decoder with tied embeddings, 16 tensors per layer."""
    yield (vocabulary, width)
    for _ in range(layers):
        for inputs, outputs in ((1, 1), (1, 1), (1, 1), (1, 1), (1, 4), (4, 1)):
            yield from ((inputs * width, outputs * width), (outputs * width,))
        yield from ((width,),) * 4
    yield from ((width,),) * 2


def thousand() -> Iterator[tuple[int, ...]]:
    """A thousand small tensors."""
    for _ in range(500):
        yield from ((32, 32), (32,))


MODELS: dict[str, Callable[[], Iterator[tuple[int, ...]]]] = {
    "mlp": mlp,
    "resnet": resnet,
    "transformer": lambda: transformer(256, 12, 2048),
    "transformer-100m": lambda: transformer(768, 12, 16384),
    "thousand": thousand,
}


@dataclasses.dataclass
class Program:
    """A compiled function, the inputs it keeps, and those it replaces."""

    run: Callable[..., Any]  # (*kept, *replaced) -> (replaced, anything)
    kept: tuple[Any, ...]
    replaced: tuple[Any, ...]
    compile_seconds: float
    temporary: int  # bytes
    flops: int

    def seconds(self) -> float:
        """Runs once."""
        began = time.perf_counter()
        done = self.run(*self.kept, *self.replaced)
        self.replaced, _ = jax.block_until_ready(done)
        return time.perf_counter() - began


@dataclasses.dataclass(frozen=True)
class Measure:
    """Measures one update of every optimizer; prints a table per model."""

    models: tuple[str, ...] = ("mlp", "resnet", "transformer")
    """Of mlp, resnet, transformer, transformer-100m, thousand."""
    optimizers: tuple[str, ...] = learned_opt.names()
    """Registered names; optax.adamw is always there."""
    rounds: int = 11
    layout: Literal["PerTensor", "Flat", "Kernels"] = "PerTensor"
    """Of learned_opt: arrays of their own, one vector, or kernels of their own on GPUs."""

    def __call__(self) -> None:
        for model in self.models:
            shapes = tuple(MODELS[model]())
            Console(width=130).print(self._table(model, shapes))

    def _table(self, model: str, shapes: tuple[tuple[int, ...], ...]) -> Table:
        params = _normal(jax.random.key(0), shapes)
        grads = _normal(jax.random.key(1), shapes)

        def programs(name: str) -> dict[str, Program]:
            tx = transform(name, self.layout)
            made = {"update": _update(tx, grads, params)}
            if model == "mlp":
                made["step"] = _training_step(tx, params)
            return made

        machine = {"copy": _copy(), "matmul": _matmul()}
        baseline = programs(BASELINE)
        count = sum(math.prod(shape) for shape in shapes)
        table = Table(
            title=f"one update, {model}: {count:,} parameters in {len(shapes)} tensors "
            f"({jax.devices()[0].device_kind}, {self.layout})"
        )
        columns = ["optimizer", "update ms", "x adamw"]
        columns += ["step ms", "x adamw"] if model == "mlp" else []
        columns += [
            "moves MB",
            "bandwidth",
            "matmul",
            "state MB",
            "memory",
            "compile s",
        ]
        for column in columns:
            table.add_column(column, justify="right")
        for name in (BASELINE, *self.optimizers):
            # The states of all optimizers at once would not fit a small machine.
            mine = baseline if name == BASELINE else programs(name)
            times = _time((machine, baseline, mine), self.rounds)
            table.add_row(name, *_cells(mine["update"], *times, _bytes(grads)))
        return table


def _cells(
    update: Program,
    machine: dict[str, float],
    baseline: dict[str, float],
    mine: dict[str, float],
    size: int,
) -> list[str]:
    """A row of the table, from median seconds and the bytes of the parameters."""
    cells = []
    for what, seconds in mine.items():
        cells += [f"{1e3 * seconds:.2f}", f"{seconds / baseline[what]:.1f}"]
    state = _bytes(update.replaced)
    moved = 3 * size + 2 * state
    bandwidth = moved / mine["update"] / (8 * _COPIED / machine["copy"])
    rate = update.flops / mine["update"]
    share = rate / (2 * _MULTIPLIED**3 / machine["matmul"])
    return [
        *cells,
        f"{moved / 1e6:,.0f}",
        f"{bandwidth:.0%}",
        f"{share:.0%}" if share >= 0.005 else "-",
        f"{state / 1e6:,.1f}",
        f"{update.temporary / (size + state):.2f}",
        f"{update.compile_seconds:.1f}",
    ]


def _normal(key: jax.Array, shapes: tuple[tuple[int, ...], ...]) -> list[jax.Array]:
    """Tensors of size ``1 / sqrt(inputs)``, as in a model at its start."""

    def draw(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return jax.random.normal(key, shape) / math.sqrt(math.prod(shape[:-1]))

    keys = jax.random.split(key, len(shapes))
    return [draw(*pair) for pair in zip(keys, shapes, strict=True)]


def transform(name: str, layout: str) -> optax.GradientTransformationExtraArgs:
    """An untrained optimizer by its name, or `BASELINE`, in a layout of `learned_opt`."""
    if name == BASELINE:
        return optax.with_extra_args_support(optax.adamw(1e-3))
    optimizer = learned_opt.get(name)()
    theta = jax.jit(optimizer.init)(jax.random.key(0))
    if not isinstance(optimizer, learned_opt.Rule):
        return optimizer.transform(theta, num_steps=1000)
    kind = getattr(learned_opt, layout)
    return optimizer.transform(theta, num_steps=1000, layout=kind)


def _update(
    tx: optax.GradientTransformationExtraArgs, grads: Any, params: Any
) -> Program:
    def update(grads: Any, params: Any, state: Any) -> tuple[Any, Any]:
        updates, state = tx.update(grads, state, params, value=jnp.float32(1.0))
        return (state,), updates

    return _compile(update, (grads, params), (jax.jit(tx.init)(params),))


def _training_step(
    tx: optax.GradientTransformationExtraArgs, params: list[jax.Array]
) -> Program:
    """Of the MLP: batch 128."""
    x = jax.random.normal(jax.random.key(2), (128, params[0].shape[0]))
    y = jax.random.randint(jax.random.key(3), (128,), 0, params[-1].shape[0])

    def loss(params: list[jax.Array], x: jax.Array, y: jax.Array) -> jax.Array:
        for i in range(0, len(params), 2):
            x = x if i == 0 else jax.nn.relu(x)
            x = x @ params[i] + params[i + 1]
        return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()

    def step(x: Any, y: Any, params: Any, state: Any) -> tuple[Any, Any]:
        value, grads = jax.value_and_grad(loss)(params, x, y)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    state = jax.jit(tx.init)(params)
    return _compile(step, (x, y), (jax.tree.map(jnp.copy, params), state))


def _copy() -> Program:
    """Reads and writes 4 bytes for each element, in place: no page is touched first."""
    scale = lambda c, x: ((c * x,), ())
    return _compile(scale, (jnp.float32(1.0),), (jnp.ones(_COPIED),))


def _matmul() -> Program:
    x = jnp.ones((_MULTIPLIED, _MULTIPLIED))
    return _compile(lambda a, b: ((), a @ b), (x, x), ())


def _compile(
    function: Callable[..., Any], kept: tuple[Any, ...], replaced: tuple[Any, ...]
) -> Program:
    donated = tuple(range(len(kept), len(kept) + len(replaced)))
    lowered = jax.jit(function, donate_argnums=donated).lower(*kept, *replaced)
    began = time.perf_counter()
    compiled = lowered.compile()
    seconds = time.perf_counter() - began
    temporary = compiled.memory_analysis().temp_size_in_bytes
    products = operations(function, *kept, *replaced).products
    return Program(compiled, kept, replaced, seconds, temporary, products)


def _time(groups: Sequence[dict[str, Program]], rounds: int) -> list[dict[str, float]]:
    """The median seconds of each program, in turn; the first round warms up."""
    taken = [{what: [] for what in programs} for programs in groups]
    for _ in range(rounds + 1):
        for programs, seconds in zip(groups, taken, strict=True):
            for what, program in programs.items():
                seconds[what].append(program.seconds())
    return [{w: statistics.median(x[1:]) for w, x in one.items()} for one in taken]


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def main() -> None:
    """Every optimizer on the three models that fit a small machine."""
    Measure()()


if __name__ == "__main__":
    tyro.cli(Measure)()
