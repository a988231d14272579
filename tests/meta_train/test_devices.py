"""CPU devices that wait for each other, and a thread that keeps them busy."""

import gc
import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import pytest

from meta_train import devices
from meta_train.devices import lane_mesh

_SUMS_AND_SMALL_COMPUTATIONS = """
import os
import threading

import jax
import jax.numpy as jnp

from meta_train.devices import lane_mesh, use_all_cores

jax.config.update("jax_num_cpu_devices", 2)
use_all_cores()
mesh = lane_mesh()


def total(x):
    x = jax.lax.fori_loop(0, 20, lambda _, x: jnp.tanh(x @ x.T @ x / 100), x)
    return jax.lax.psum(jnp.sum(x), "lanes")


def many_small():
    while True:
        x = jnp.ones((300, 300))
        for _ in range(40):
            x = jnp.tanh(x @ x / 100)


lanes = jax.P("lanes")
total = jax.jit(jax.shard_map(total, mesh=mesh, in_specs=lanes, out_specs=jax.P()))
x = jax.device_put(jnp.ones((8, 128)), jax.NamedSharding(mesh, lanes))
threading.Thread(target=many_small, daemon=True).start()
for _ in range(2000):
    total(x).block_until_ready()
print("all done", flush=True)
os._exit(0)
"""


def test_a_thread_with_many_small_computations_does_not_lock_devices_up():
    # Where it does, XLA ends the process after a minute.
    command = [sys.executable, "-c", _SUMS_AND_SMALL_COMPUTATIONS]
    run = subprocess.run(command, capture_output=True, text=True, timeout=55)
    assert run.stdout.strip() == "all done", run.stderr


def test_devices_that_may_lock_up_are_warned_of():
    assert lane_mesh() is not None
    jax.config.update("jax_cpu_enable_async_dispatch", True)
    try:
        with pytest.warns(RuntimeWarning, match="use_all_cores"):
            assert lane_mesh() is not None
    finally:
        jax.config.update("jax_cpu_enable_async_dispatch", False)


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is of Linux")
def test_a_program_for_which_there_is_no_room_is_an_error(monkeypatch):
    monkeypatch.setattr(devices, "_LARGE_PROGRAM", 10**9)
    with pytest.raises(OSError, match=r"sysctl -w vm\.max_map_count"):
        devices.compile_for(lambda x: x + 1, (jnp.zeros(3),))


def test_garbage_is_left_while_a_program_is_traced_and_no_longer():
    enabled = []

    def traced(x):
        enabled.append(gc.isenabled())
        return x + 1

    def fails(x):
        raise ArithmeticError

    program = devices.compile_for(traced, (jnp.zeros(3),))
    assert program(jnp.zeros(3))[0] == 1
    assert enabled == [False]
    assert gc.isenabled()
    with pytest.raises(ArithmeticError):
        devices.compile_for(fails, (jnp.zeros(3),))
    assert gc.isenabled()


def test_garbage_is_looked_for_again_when_the_last_of_several_threads_has_traced():
    within, leave = threading.Barrier(3), [threading.Event(), threading.Event()]

    def compile_slowly(leave):
        def traced(x):
            within.wait()
            assert leave.wait(60)
            return x + 1

        devices.compile_for(traced, (jnp.zeros(3),))

    threads = [threading.Thread(target=compile_slowly, args=(e,)) for e in leave]
    for thread in threads:
        thread.start()
    within.wait()
    for event, thread in zip(leave, threads, strict=True):
        assert not gc.isenabled()
        event.set()
        thread.join()
    assert gc.isenabled()


def test_making_cores_devices_too_late_says_what_to_do():
    late = "import jax.numpy as jnp; jnp.zeros(1); from meta_train import devices; "
    run = subprocess.run(
        [sys.executable, "-c", late + "devices.use_all_cores()"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert "RuntimeError: too late to make every CPU core a device" in run.stderr


def test_cores_are_counted_where_a_process_cannot_be_pinned(monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    assert devices.num_cores() == os.cpu_count()
