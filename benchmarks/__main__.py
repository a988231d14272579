"""Run every benchmark, or those named on the command line."""

import importlib
import sys

ALL = ("meta_training", "optimizer_step")

if __name__ == "__main__":
    for name in sys.argv[1:] or ALL:
        importlib.import_module(f"benchmarks.{name}").main()
