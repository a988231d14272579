"""What an update becomes on a GPU that is not here: kernels, bytes moved, memory.

    pip install jax-cuda13-plugin jax-cuda13-pjrt  # the versions of jax; no GPU, no driver
    JAX_PLATFORMS=cpu python -m benchmarks.gpu_program
    JAX_PLATFORMS=cpu python -m benchmarks.gpu_program --model transformer

XLA compiles for a described device (here an H100), and what it made is read: nothing is
run, so there are no times but of compiling (by the CPU). Per optimizer and layout:

* launches: kernels that an update starts;
* numbers moved: float32 that kernels read from and write to memory, per parameter, those
  of loops counted as often as they run; no cache is thought of. AdamW moves 7 (gradient,
  parameter and two averages read; step and averages written), and `least` is what must be
  moved by an optimizer with its state: gradients, parameters and state read once, steps and
  state written once;
* memory: what is needed besides inputs and outputs, relative to the size of state and
  updates.
"""

import dataclasses
import math
import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
import tyro
from jax.experimental import topologies
from jax.sharding import SingleDeviceSharding
from jax.stages import Compiled
from rich.console import Console
from rich.table import Table

from benchmarks.optimizer_step import BASELINE, MODELS, transform

H100 = """
gpu_device_info {
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: 233472
  threads_per_core_limit: 2048
  core_count: 132
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
runtime_version { major: 12 minor: 8 }
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 7 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""
BANDWIDTH = 3.35e12  # of its memory, bytes per second
# Neither start a kernel nor move anything.
_FREE = {
    "after-all",
    "bitcast",
    "constant",
    "get-tuple-element",
    "parameter",
    "partition-id",
    "replica-id",
    "tuple",
}
_SHAPE = re.compile(r"\b(pred|[suf]8|bf16|[suf]16|[suf]32|[suf]64)\[([\d,]*)\]")
_BITS = {"pred": 8, "bf16": 16}


@dataclasses.dataclass(frozen=True)
class Measure:
    """Compiles one update of every optimizer for an H100; prints a table."""

    model: str = "matrix"
    """matrix (2048 x 2048), or a model of optimizer_step."""
    optimizers: tuple[str, ...] = (
        "scale_free",
        "adafactor_mlp",
        "star",
        "celo_rule",
        "celo",
        "hyper_v2",
    )
    donate: bool = True
    """The state is the update's to overwrite."""
    guarded: bool = False
    """In `optax.apply_if_finite`, which may bring the old state back."""
    layouts: tuple[Literal["PerTensor", "Flat", "Kernels"], ...] = (
        "PerTensor",
        "Flat",
        "Kernels",
    )

    def __call__(self) -> None:
        shapes = ((2048, 2048),) if self.model == "matrix" else MODELS[self.model]()
        params = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        count = sum(x.size for x in params)
        table = Table(
            title=f"one update, {self.model}: {count:,} parameters in {len(params)} "
            "tensors, compiled for an H100"
        )
        columns = [
            "layout",
            "launches",
            "numbers moved",
            "least",
            "memory",
            "compile s",
        ]
        for column in ("optimizer", *columns):
            table.add_column(column, justify="right")
        cases = [(name, layout) for name in self.optimizers for layout in self.layouts]
        for name, layout in [(BASELINE, "-"), *cases]:
            tx = transform(name, layout)
            tx = optax.apply_if_finite(tx, 5) if self.guarded else tx
            table.add_row(name, layout, *_cells(tx, params, count, self.donate))
        Console(width=100).print(table)


def _cells(
    tx: optax.GradientTransformationExtraArgs, params: Any, count: int, donate: bool
) -> list[str]:
    state = jax.eval_shape(tx.init, params)

    def update(grads: Any, params: Any, state: Any) -> tuple[Any, Any]:
        # The state first: donated buffers go to outputs of their shape in order.
        return tx.update(grads, state, params, value=jnp.float32(1.0))[::-1]

    arguments = (params, params, state)
    compiled, seconds = compile_for_h100(update, arguments, (2,) if donate else ())
    launches, moved = traffic(compiled.as_text())
    sizes = [_bytes(x) for x in (params, state)]
    memory = compiled.memory_analysis().temp_size_in_bytes / sum(sizes)
    return [
        str(launches),
        f"{moved / 4 / count:.1f}",
        f"{(3 * sizes[0] + 2 * sizes[1]) / 4 / count:.1f}",
        f"{memory:.2f}",
        f"{seconds:.1f}",
    ]


def compile_for_h100(
    f: Callable[..., Any], arguments: tuple[Any, ...], donated: tuple[int, ...] = ()
) -> tuple[Compiled, float]:
    """A function's program for one H100, and how many seconds compiling it took.

    Args:
      f: to compile; its shapes are those of ``arguments``.
      arguments: pytrees of arrays, or of what has their shapes.
      donated: which arguments may be overwritten.

    Raises:
      SystemExit: XLA's compiler for CUDA is not installed.
    """
    try:
        topology = topologies.get_topology_desc(
            "h100", "cuda", target_config=H100, topology="1x1x1"
        )
    except (RuntimeError, ValueError) as e:
        raise SystemExit(
            "XLA's compiler for CUDA did not start; `pip install jax-cuda13-plugin"
            f"=={jax.__version__} jax-cuda13-pjrt=={jax.__version__}` brings it, and "
            f"JAX_PLATFORMS=cpu must be set where there is no GPU ({e})."
        ) from e
    place = SingleDeviceSharding(topology.devices[0])
    put = lambda x: jax.ShapeDtypeStruct(jnp.shape(x), x.dtype, sharding=place)
    jitted = jax.jit(f, donate_argnums=donated, in_shardings=place, out_shardings=place)
    began = time.perf_counter()
    on_cpu = jax.default_backend
    # As tensors are cut into larger pieces on accelerators.
    jax.default_backend = lambda: "gpu"
    try:
        lowered = jitted.lower(*jax.tree.map(put, arguments))
    finally:
        jax.default_backend = on_cpu
    compiled = lowered.compile()
    return compiled, time.perf_counter() - began


def _bytes(tree: Any) -> int:
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


@dataclasses.dataclass(frozen=True)
class Instruction:
    """A line of a compiled program."""

    name: str
    size: int  # bytes of what it makes
    kind: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool


def traffic(program: str) -> tuple[int, int]:
    """Kernels that a compiled GPU program starts, and the bytes they move.

    Args:
      program: its text, as ``jax.stages.Compiled.as_text`` gives it.
    """
    computations, entry = _parse(program)

    def walk(name: str) -> tuple[int, int]:
        launches, moved = 0, 0
        sizes = {x.name: x.size for x in computations[name]}
        for x in computations[name]:
            if x.kind in _FREE or x.kind.endswith("-done"):
                continue
            if x.kind in ("while", "call", "conditional"):
                trips = re.search(r'known_trip_count":\{"n":"(\d+)"', x.attributes)
                times = int(trips[1]) if trips else 1
                called = re.findall(
                    r"(?:body|to_apply|calls|\w+_computation)=%?([\w.\-]+)",
                    x.attributes,
                )
                inner = [walk(y) for y in called]
                launches += times * sum(a for a, _ in inner)
                moved += times * sum(b for _, b in inner)
                continue
            launches += 1
            if x.kind == "fusion":
                called = re.search(r"calls=%?([\w.\-]+)", x.attributes)
                assert called is not None, x
                moved += _moved_by_fusion(computations[called[1]])
            else:
                moved += x.size + sum(sizes.get(y, 0) for y in set(x.operands))
        return launches, moved

    return walk(entry)


def _moved_by_fusion(body: list[Instruction]) -> int:
    """Bytes: of slices that are read or replaced, theirs and not the whole array's."""
    by_name = {x.name: x for x in body}
    users = defaultdict(list)
    for x in body:
        for y in x.operands:
            users[y].append(x)

    def readers(x: Instruction) -> list[Instruction]:
        found = []
        for user in users[x.name]:
            found += readers(user) if user.kind in ("bitcast", "reshape") else [user]
        return found

    def origin(x: Instruction) -> Instruction:
        while x.kind in ("bitcast", "reshape", "copy"):
            x = by_name[x.operands[0]]
        return x

    root = next(x for x in body if x.is_root)
    roots = [by_name[y] for y in root.operands] if root.kind == "tuple" else [root]
    moved, in_place = 0, set()
    for x in map(origin, roots):
        if x.kind == "dynamic-update-slice":
            moved += by_name[x.operands[1]].size
            in_place.add(origin(by_name[x.operands[0]]).name)
        else:
            moved += x.size
    for x in body:
        if x.kind != "parameter" or x.name in in_place:
            continue
        found = readers(x)
        slices = {"slice", "dynamic-slice", "gather"}
        if found and all(y.kind in slices for y in found):
            moved += sum(y.size for y in found)
        else:
            moved += x.size
    return moved


def _parse(program: str) -> tuple[dict[str, list[Instruction]], str]:
    """The instructions of each computation, and the name of the first to run."""
    computations: dict[str, list[Instruction]] = {}
    entry, current = "", None
    for line in program.splitlines():
        if header := re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{", line):
            current = computations.setdefault(header[2], [])
            entry = header[2] if header[1] else entry
        elif line.startswith("}"):
            current = None
        elif current is not None and (x := _instruction(line)):
            current.append(x)
    return computations, entry


def _instruction(line: str) -> Instruction | None:
    found = re.match(r"\s*(ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) ([\w\-]+)\((.*)", line)
    if found is None:
        return None
    root, name, shape, kind, rest = found.groups()
    arguments, attributes = _split_at_closing(rest)
    operands = tuple(re.findall(r"%([\w.\-]+)", arguments))
    return Instruction(name, _size(shape), kind, operands, attributes, bool(root))


def _split_at_closing(text: str) -> tuple[str, str]:
    """What comes before and after the bracket that closes one left open."""
    depth = 1
    for i, letter in enumerate(text):
        depth += (letter in "({[") - (letter in ")}]")
        if depth == 0:
            return text[:i], text[i:]
    return text, ""


def _size(shape: str) -> int:
    """Bytes of an array or a tuple of arrays, like ``f32[2,3]{1,0}``."""
    return sum(
        math.prod(int(n) for n in axes.split(",") if n)
        * (_BITS.get(kind) or int(kind[1:]))
        // 8
        for kind, axes in _SHAPE.findall(shape)
    )


def main() -> None:
    """The small networks, on a matrix."""
    Measure()()


if __name__ == "__main__":
    tyro.cli(Measure)()
