"""A name means the same task tomorrow: fingerprints of starts and batches.

    PYTHONPATH=. python tests/tasksets/test_golden_tasks.py > tests/tasksets/golden.json

writes what is compared with here. A changed fingerprint is a changed task: every result
that was measured on it is void, so the change belongs in the changelog.
"""

import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import small_variants

import tasksets
from tasksets import registry
from tasksets.catalogue import read_text_name
from tasksets.corpora import read

GOLDEN = Path(__file__).with_name("golden.json")
NAMES = [
    task.name
    for family in small_variants.families()
    for task in small_variants.stackable(family, most=2)
] + small_variants.fixed()


def fingerprint(name: str) -> dict:
    """The start and a training batch of a task, and the bits of both."""
    start, batch = jax.device_get(_start(tasksets.get(name), jax.random.key(0)))
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves((start, batch))]
    bits = hashlib.sha256(b"".join(leaf.tobytes() for leaf in leaves)).hexdigest()
    return {"start": _summaries(start), "batch": _summaries(batch), "bits": bits}


@functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def _start(task, key):
    return task.init(key), task.batch("train", key)


def _summaries(tree) -> dict[str, list]:
    paths, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): _summary(leaf) for path, leaf in paths}


def _summary(leaf: np.ndarray) -> list:
    """[shape, hash] of integers; [shape, sum, sum of squares, first 3] of floats."""
    shape = list(np.shape(leaf))
    if not np.issubdtype(leaf.dtype, np.floating):
        return [shape, hashlib.sha256(np.int64(leaf).tobytes()).hexdigest()[:16]]
    values = np.float64(leaf).ravel()
    return [shape, values.sum(), (values**2).sum(), *values[:3]]


def every_fingerprint() -> dict:
    """Of all names; and of the bundled text, which differs between Pythons."""
    text = read(read_text_name("python_docs")).splits["train"].tokens.tobytes()
    return {
        "python_docs": hashlib.sha256(text).hexdigest()[:16],
        **{name: fingerprint(name) for name in NAMES},
    }


@functools.cache
def _fresh(hash_seed: int) -> dict:
    """The fingerprints from a new process, which hashes strings in its own way."""
    here = Path(__file__)
    of_process = {
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": str(here.parents[2]),
        # What one process compiles, the other need not.
        "JAX_COMPILATION_CACHE_DIR": jax.config.values["jax_compilation_cache_dir"],
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    run = subprocess.run(
        [sys.executable, str(here)],
        env={**os.environ, **of_process},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_two_processes_make_the_same_tasks_bit_by_bit():
    assert _fresh(1) == _fresh(2)


@pytest.mark.parametrize("name", NAMES, ids=registry.root_of)
def test_a_name_still_means_the_task_that_it_meant(name):
    golden, found = json.loads(GOLDEN.read_text()), _fresh(1)
    _assert_alike(found[name]["start"], golden[name]["start"])
    if "python_docs" in name and found["python_docs"] != golden["python_docs"]:
        pytest.skip("this Python comes with another text")
    _assert_alike(found[name]["batch"], golden[name]["batch"])


def test_every_fingerprint_is_of_a_task_that_is_tested():
    assert json.loads(GOLDEN.read_text()).keys() == {"python_docs", *NAMES}


def _assert_alike(found: dict, golden: dict):
    assert found.keys() == golden.keys()
    for path, (shape, *numbers) in found.items():
        golden_shape, *golden_numbers = golden[path]
        assert shape == golden_shape, path
        if isinstance(numbers[0], str):
            assert numbers == golden_numbers, path
        else:
            # Sums of entries of either sign cancel: their scale is the entries'.
            scale = np.sqrt(golden_numbers[1] * max(1, np.prod(shape)))
            np.testing.assert_allclose(
                numbers, golden_numbers, rtol=1e-5, atol=1e-6 * scale, err_msg=path
            )


if __name__ == "__main__":
    lines = [
        f"{json.dumps(name)}: {json.dumps(found)}"
        for name, found in every_fingerprint().items()
    ]
    print("{", ",\n".join(lines), "}", sep="\n")
