"""Eight CPU devices for every test, and compiled programs kept between runs."""

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version

import pytest

# Most of the time of the tests goes into compiling, and their programs are small: code as
# LLVM first has it, in one piece, by the emitters that jax 0.10 still has beside the new.
_QUICK_TO_COMPILE = [
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if version("jaxlib").startswith("0.10."):
    _QUICK_TO_COMPILE.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), *_QUICK_TO_COMPILE]
)

import jax  # noqa: E402

# Before the first use of a device, which is when jax fixes their number.
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_cpu_enable_async_dispatch", False)


def pytest_configure(config: pytest.Config) -> None:
    compiled = config.rootpath / ".pytest_cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_finish() -> None:
    # Tracing makes objects by the hundred thousand, all in use: a fifth of the time of the
    # tests went into looking for garbage among them.
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


@pytest.fixture(scope="module", autouse=True)
def _programs_are_no_garbage() -> Iterator[None]:
    # jax keeps what the tests of a file traced, ten million objects in the end: a search
    # among them takes seconds.
    yield
    gc.freeze()
