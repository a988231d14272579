"""Runs that are killed again and again: see benchmarks/chaos.py, which also counts."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_run_killed_at_random_moments_ends_as_the_quiet_one_bit_by_bit(processes):
    words = ["--processes", str(processes), "--kills", "3", "--outer-steps", "3000"]
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.chaos", *words, "--seconds", "3"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "theta equal bit by bit" in ended.stdout
