"""Eight CPU devices for every test, and compiled programs kept between runs."""

import os

import pytest

# Most of the time of the tests goes into compiling: LLVM's level 1 takes less.
os.environ["XLA_FLAGS"] = " ".join(
    (os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=1")
)

import jax  # noqa: E402

# Before the first use of a device, which is when jax fixes their number.
jax.config.update("jax_num_cpu_devices", 8)


def pytest_configure(config: pytest.Config) -> None:
    compiled = config.rootpath / ".pytest_cache" / "jax"
    jax.config.update("jax_compilation_cache_dir", str(compiled))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
