"""A run on bowls of two dimensions, whose programs compile at once; runs in pieces."""

import os
import signal
from pathlib import Path

from meta_train import Horizons, TaskMix, TrainConfig, run

ONE_STRUCTURE = "&output=identity&noise=none"
CONFIG = TrainConfig(
    optimizer="sgd",
    mix=TaskMix(suites=("quadratic",), task_options=("dims=2" + ONE_STRUCTURE,)),
    horizons=Horizons(window=2, min_horizon=2, max_horizon=12),
    groups_in_flight=1,
    tasks_per_group=2,
    num_pairs=2,
    seed=1,
)


def train_in_pieces(folder: Path, config: TrainConfig, every: int) -> None:
    """Stop every few steps by a signal, and go on until the run is finished."""
    finished = False
    while not finished:
        seen = []

        def stop(progress, seen=seen):
            seen.append(progress.step)
            if len(seen) == every:  # once: a second signal would not be handled
                os.kill(os.getpid(), signal.SIGTERM)

        finished = run.train(config, folder, resume=True, on_progress=stop).finished
