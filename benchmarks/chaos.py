"""Kill a run again and again, resume it each time: does it end in the same theta?

    python -m benchmarks.chaos
    python -m benchmarks.chaos --processes 2

A quiet run, of one process with one device, says how a run should end. Then the same run
is killed by SIGKILL at random moments, uniform from the start of a process until some
seconds after its first step, while it compiles, trains or writes; and resumed each time.
Of several processes a random one is killed, or all of them; once a step was done, the
others must end by themselves within 30 s. (Before, they may wait for the lost one to
connect, for the five minutes of `jax.distributed`; then they are killed too, and the
table says "waited".) Printed for every kill: what was killed and after how long, how far
the log was, the newest checkpoint, and the steps after it. At the end every line of
metrics and every bit of theta must be that of the quiet run.
"""

import dataclasses
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn

import tyro

CHECKPOINT_SECONDS = 0.5
_PATIENCE_SECONDS = 600.0
_ALONE_SECONDS = 30.0  # in which processes must end when another one is gone


@dataclasses.dataclass(frozen=True)
class Chaos:
    """Kill a run again and again, resume it each time."""

    kills: int = 20
    processes: int = 1
    """Of the run; each is killed alone, or all together."""
    outer_steps: int = 8000
    seconds: float = 8.0
    """Until when after the first step a process may be killed."""
    seed: int = 0
    """Of the moments and of the victims."""

    def __call__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            _main(self, Path(folder))


def _main(chaos: Chaos, folder: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    _config(chaos.outer_steps).save(folder / "given.json")
    quiet, killed = folder / "quiet", folder / "killed"
    _finish(_start(folder, quiet, 1))
    startup = _seconds_to_first_step(folder, chaos.processes)
    title = f"{chaos.kills} kills of a run of {chaos.processes} processes"
    table = Table(title=title)
    for column in ("killed", "after s", "logged", "newest checkpoint", "to repeat"):
        table.add_column(column, justify="right")
    chance, repeated, before = random.Random(chaos.seed), 0, []
    for _ in range(chaos.kills):
        lives = _start(folder, killed, chaos.processes)
        moment = chance.uniform(0.0, startup + chaos.seconds)
        name, victims = _victims(lives, chance)
        _wait(lives, moment)
        for victim in victims:
            victim.send_signal(signal.SIGKILL)
        waited = _bury(lives, killed, before)
        name += ", waited" if waited else ""
        timing = _lines(killed, "timing.jsonl")
        repeated += _replaced(before, timing)
        logged, found = len(timing), _newest_checkpoint(killed, chaos.processes)
        # A process that was killed before its first step left the log as it was.
        lost = "-" if timing == before else str(max(logged - found, 0))
        table.add_row(name, f"{moment:.1f}", str(logged), str(found), lost)
        before = timing
    _finish(_start(folder, killed, chaos.processes))
    repeated += _replaced(before, _lines(killed, "timing.jsonl"))
    Console(width=100).print(table)
    same_metrics = _lines(killed) == _lines(quiet)
    same_theta = _theta(killed) == _theta(quiet)
    print(
        f"{chaos.outer_steps} steps, {repeated} of them repeated; metrics "
        f"{'equal' if same_metrics else 'DIFFERENT'}, theta "
        f"{'equal bit by bit' if same_theta else 'DIFFERENT'}."
    )
    if not (same_metrics and same_theta):
        sys.exit(1)


def _config(outer_steps: int):
    from meta_train import Horizons, TaskMix, TrainConfig

    return TrainConfig(
        optimizer="adam",
        mix=TaskMix(task_options=("hidden=8&activation=tanh",)),
        horizons=Horizons(window=10, min_horizon=200, max_horizon=2000),
        groups_in_flight=2,
        tasks_per_group=2,
        num_pairs=8,
        outer_steps=outer_steps,
        seed=1,
    )


def live() -> None:
    """A process of the run, as the command line says."""
    given, folder, cache, port, index, count = sys.argv[1:]
    import jax

    from meta_train import TrainConfig, processes, run

    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    run.CHECKPOINT_SECONDS = CHECKPOINT_SECONDS
    if int(count) > 1:
        processes.connect(f"127.0.0.1:{port}", int(count), int(index))
    try:
        run.train(TrainConfig.load(Path(given)), Path(folder), resume=True)
    except processes.ProcessLostError:
        os._exit(3)


def _start(folder: Path, run_folder: Path, count: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from benchmarks import chaos; chaos.live()"
    common = [folder / "given.json", run_folder, folder / "cache", port]
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, [*common, index, count])],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for index in range(count)
    ]


def _finish(lives: list[subprocess.Popen]) -> None:
    codes = [life.wait(timeout=_PATIENCE_SECONDS) for life in lives]
    if any(codes):
        _give_up(lives, f"processes that nobody killed ended with {codes}")


def _seconds_to_first_step(folder: Path, count: int) -> float:
    """With compiled programs at hand; the run that shows it is thrown away."""
    started, lives = time.monotonic(), _start(folder, folder / "started", count)
    while not _lines(folder / "started"):
        _wait(lives, 0.02)
    seconds = time.monotonic() - started
    for life in lives:
        life.kill()
        life.wait()
    return seconds


def _victims(
    lives: list[subprocess.Popen], chance: random.Random
) -> tuple[str, list[subprocess.Popen]]:
    index = chance.randrange(len(lives) + 1) if len(lives) > 1 else len(lives)
    return ("the job", lives) if index == len(lives) else (f"{index}", [lives[index]])


def _wait(lives: list[subprocess.Popen], seconds: float) -> None:
    time.sleep(seconds)
    if any(life.poll() is not None for life in lives):
        _give_up(lives, "the run ended before it was killed so often: --outer-steps")


def _bury(lives: list[subprocess.Popen], folder: Path, before: list[str]) -> bool:
    """Wait until all have ended; whether some had to be killed, waiting for another.

    That is a failure where the log is not as it was before these processes.
    """
    deadline = time.monotonic() + _ALONE_SECONDS
    for life in lives:
        try:
            life.wait(timeout=max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            if _lines(folder, "timing.jsonl") != before:
                _give_up(lives, f"a process outlived another by {_ALONE_SECONDS:.0f} s")
            for other in lives:
                other.kill()
                other.wait()
            return True
    return False


def _give_up(lives: list[subprocess.Popen], why: str) -> NoReturn:
    for life in lives:
        life.kill()
    sys.exit(why)


def _lines(folder: Path, name: str = "metrics.jsonl") -> list[str]:
    path = folder / name
    return path.read_text().splitlines() if path.exists() else []


def _replaced(before: list[str], after: list[str]) -> int:
    """Steps that were logged and then done again; no two take the same time."""
    same = [a == b for a, b in zip(before, after, strict=False)]
    return len(before) - (same.index(False) if False in same else len(same))


def _newest_checkpoint(folder: Path, count: int) -> int:
    """The newest step of which all processes wrote their parts, 0 before the first."""
    parts = [folder / "checkpoints" / f"{i}of{count}" for i in range(count)]
    steps = [{int(p.stem) for p in part.glob("*.safetensors")} for part in parts]
    return max(set.intersection(*steps), default=0)


def _theta(folder: Path) -> list[bytes]:
    import jax

    import pretrained

    theta = pretrained.load(str(folder / "theta")).theta
    return [bytes(leaf) for leaf in jax.tree.leaves(jax.device_get(theta))]


if __name__ == "__main__":
    tyro.cli(Chaos)()
