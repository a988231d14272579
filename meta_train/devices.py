"""Devices: every CPU core is one, and lanes are spread over all of them.

On CPU, XLA runs one program per device faster than one program over several threads:
the loops here are too short to be worth dividing.
"""

import functools
import gc
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from tasksets.array_cache import cache_folder

_LARGE_PROGRAM = 4096  # memory mappings; one of a small task takes some 700


def use_all_cores() -> None:
    """Make every CPU core a jax device; call before anything else touches jax.

    The number of devices stays where it was already chosen (``jax_num_cpu_devices``), so a
    second call does nothing.

    A thread that starts a computation on a CPU then waits for it. Otherwise a thread that
    is ahead by dozens of small ones, as one that prepares tasks is, can lock up a program
    that sums over devices: on one device it waits for the sum, on the other for a place
    behind computations which in turn wait until it has begun on both.

    Raises:
      RuntimeError: jax has computed something already.
    """
    if _setting("jax_num_cpu_devices") < 1:
        try:
            jax.config.update("jax_num_cpu_devices", num_cores())
        except RuntimeError as error:
            raise RuntimeError(
                "too late to make every CPU core a device: jax has made an array already, "
                "perhaps where a module was imported. Make that one with numpy, or call "
                "`meta_train.devices.use_all_cores()` before it."
            ) from error
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def num_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not everywhere
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_compilation_cache(folder: str) -> None:
    """Keep every compiled program in a folder, however small it is.

    Does nothing where a folder was already chosen.
    """
    if _setting("jax_compilation_cache_dir") is not None:
        return
    compilation_cache.reset_cache()  # jax asks once whether there is a folder
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def program_folder() -> str:
    """Where programs that belong to no run are kept on this machine."""
    return str(cache_folder() / "jax")


@contextmanager
def compilation_cache_in(folder: Path) -> Iterator[None]:
    """Within, compiled programs are kept in a folder, unless one was already chosen."""
    chosen = _setting("jax_compilation_cache_dir")
    use_compilation_cache(str(folder))
    try:
        yield
    finally:
        if chosen is None:
            compilation_cache.reset_cache()
            jax.config.update("jax_compilation_cache_dir", None)


def compiler_options() -> dict[str, int] | None:
    """How to compile programs made of many small fused loops, None for the defaults.

    On CPU, LLVM's level 1 compiles them in less time than its default and runs them no
    slower, and full-width vectors run them faster.
    """
    if jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": 1, "xla_cpu_prefer_vector_width": 512}


def compile_for(
    f: Callable[..., Any],
    arguments: Sequence[Any],
    options: dict[str, int] | None = None,
    **of_jit: Any,
) -> Callable[..., Any]:
    """A program for arguments of these shapes, gone when nobody holds it any more.

    jax keeps what it made of a function, programs too, as long as the function is there.
    Where thousands are made in one process it has to be a function of their own: each takes
    hundreds of memory mappings, of which Linux allows 65,530.

    Raises:
      OSError: so few of these are left that XLA might end the process for want of them.
    """
    require_room(1, _LARGE_PROGRAM)
    own = functools.partial(f)
    options = compiler_options() if options is None else options
    jitted = jax.jit(own, compiler_options=options, **of_jit)
    with _garbage_left:
        lowered = jitted.lower(*arguments)
    return lowered.compile()


class _GarbageLeft:
    """Within, Python does not look for garbage; while jax traces, it would time and again.

    A third of the time that tracing takes, in vain: what is being made is in use. Threads
    may be within at once; it goes on when the last of them leaves.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._enabled = False

    def __enter__(self) -> None:
        with self._lock:
            if self._within == 0:
                self._enabled = gc.isenabled()
                gc.disable()
            self._within += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0 and self._enabled:
                gc.enable()


_garbage_left = _GarbageLeft()


def memory_mappings() -> tuple[int, int]:
    """How many this process has and may have; where nobody counts them, 0 and many."""
    try:
        most = int(Path("/proc/sys/vm/max_map_count").read_text())
        with Path("/proc/self/maps").open("rb") as file:
            return sum(1 for _ in file), most
    except OSError:  # not Linux
        return 0, sys.maxsize


def require_room(programs: int, each: float) -> None:
    """Refuse more programs than this process has memory mappings for.

    Args:
      programs: how many more are to be compiled.
      each: memory mappings that one takes.

    Raises:
      OSError: XLA might end the process for want of them.
    """
    used, most = memory_mappings()
    if used + programs * each > most:
        raise OSError(
            f"no room for another {programs} compiled programs of {each:,.0f} memory "
            f"mappings each: this process has {used:,} of the {most:,} that Linux allows "
            "it. Have fewer structures in flight (num_tasks, or groups_in_flight in its "
            "place), or raise the limit: sysctl -w vm.max_map_count=1000000"
        )


def run_once_options() -> dict[str, int] | None:
    """How to compile a small program that runs once: on CPU, without optimising it."""
    if jax.default_backend() != "cpu":
        return None
    return {"xla_backend_optimization_level": 0}


def replicate(tree: Any, mesh: Mesh | None) -> Any:
    """The same arrays on every device of a mesh, so that no step has to move them."""
    if mesh is None:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def lane_mesh() -> Mesh | None:
    """A one-dimensional mesh over this process's devices with the axis "lanes".

    None where there is just one. Warns of CPU devices that may lock up, see `use_all_cores`.
    """
    devices = jax.local_devices()
    if len(devices) == 1:
        return None
    if devices[0].platform == "cpu" and jax.config.read(
        "jax_cpu_enable_async_dispatch"
    ):
        warnings.warn(
            "several CPU devices can lock up while they are used asynchronously: call "
            "meta_train.devices.use_all_cores() before anything else touches jax, or "
            'jax.config.update("jax_cpu_enable_async_dispatch", False)',
            RuntimeWarning,
            stacklevel=2,
        )
    return jax.make_mesh(
        (len(devices),), ("lanes",), axis_types=(AxisType.Auto,), devices=devices
    )


def _setting(name: str) -> Any:
    return getattr(jax.config, name)  # jax makes these attributes at import
