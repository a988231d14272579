"""Measurements: each module prints one table; ``python -m benchmarks`` prints them all."""
