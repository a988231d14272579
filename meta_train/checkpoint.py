"""Checkpoints of a run: written while it goes on, a few kept, a bad one never fatal.

    checkpoints/0of2/<step>.safetensors    state/...    theta and all that moves with it
                                           group<s>/... lanes of the group in slot s

Each process of a run writes its own groups into its own folder, the first one the state
too. All of them read what they need from all folders, so a run may go on with another
number of processes. The arrays are copied to the host at once and written in a thread. One
that cannot be written is named, and the next turn tries again. One that cannot be read is
named and passed over for the one before it; one that another config made, or whose
groups hold other tasks, is refused.

(Orbax writes in a thread too, but arrays that its processes hold in common, with barriers
between them; lanes belong to one process, which should wait for no other.)
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from meta_train import stored_trees
from meta_train.background_writer import BackgroundWriter
from meta_train.config import TrainConfig
from meta_train.engine import Engine
from meta_train.group_log import Total
from meta_train.outer import OuterState
from meta_train.preparation import Lanes, Prepared
from meta_train.processes import Processes
from meta_train.stored_trees import Arrays

_KEPT = 3


class CheckpointError(RuntimeError):
    """No checkpoint can be used, or the last one not be written; says what to do."""


class Saved(Protocol):
    """What of a run is saved: an `Engine`, or a leader, whose workers have the lanes."""

    @property
    def state(self) -> OuterState: ...

    @property
    def lanes(self) -> dict[int, Lanes]: ...

    @property
    def in_flight(self) -> dict[int, Prepared]: ...


class Found(NamedTuple):
    """A checkpoint that may be usable: of which step, by how many processes."""

    step: int
    processes: int


class Checkpoints:
    """The checkpoints in one folder.

    Args:
      folder: made when missing.
      config: the run's config, stored with every checkpoint and compared on restore.
      processes: of which this one keeps its own part.
      warn: told, in one line each, about checkpoints that were passed over, or could not
        be written.

    Attributes:
      writer: writes them.
    """

    def __init__(
        self,
        folder: Path,
        config: TrainConfig,
        processes: Processes,
        warn: Callable[[str], None],
    ):
        self.writer = BackgroundWriter(warn)
        self._config = config
        self._digests = config.digests()
        self._processes = processes
        self._warn = warn
        self._folder = folder
        self._newest: int | None = None  # step of the newest good one of so many
        self._part = _part(folder, processes.index, processes.count)
        self._part.mkdir(parents=True, exist_ok=True)
        for unfinished in self._part.glob("*.tmp"):  # a kill cut it short
            unfinished.unlink()

    def save(self, run: Saved, totals: Mapping[int, Total]) -> None:
        """Copy this process's part of a run, and write it in the background.

        The writer must not be busy.

        Args:
          run: between two outer steps.
          totals: of its groups, as the log of groups has them.
        """
        step = int(run.state.step)
        arrays, facts = self._content(run, totals)
        name = f"checkpoint {_file(self._part, step)}"
        self.writer.write(name, lambda: self._write(step, arrays, facts))

    def save_last(self, run: Saved, totals: Mapping[int, Total]) -> None:
        """Write this process's part of a run; returns when it is safely on disk.

        Raises:
          CheckpointError: that is not possible; says what to do.
        """
        self.writer.wait()
        step = int(run.state.step)
        if step == self._newest:
            return
        saved = _steps(self._part)
        try:
            self._write(step, *self._content(run, totals))
        except OSError as error:
            kept = (
                f"--resume goes on from step {saved[-1]}" if saved else "none is kept"
            )
            raise CheckpointError(
                f"the last checkpoint, of step {step}, could not be written: {error}. "
                f"As it is, {kept}; so make room in {self._folder}, or mend what is "
                "wrong with it, and go on with --resume."
            ) from error

    def _content(
        self, run: Saved, totals: Mapping[int, Total]
    ) -> tuple[Arrays, dict[str, Any]]:
        """What belongs into this process's part."""
        pieces: dict[str, Any] = {
            f"group{slot}": lanes for slot, lanes in run.lanes.items()
        }
        if self._processes.index == 0:
            pieces["state"] = run.state
        facts = {
            "config": self._config.text(),
            "thetas": self._digests,
            "groups": _describe(run.in_flight),
            "totals": {str(slot): total for slot, total in totals.items()},
        }
        return stored_trees.on_host(pieces), facts

    def _write(self, step: int, arrays: Arrays, facts: dict[str, Any]) -> None:
        stored_trees.write(_file(self._part, step), arrays, facts)
        self._newest = step
        # Where another process cannot write, the last ones that all have are older.
        count, mine = self._processes.count, _steps(self._part)
        complete = _complete(self._folder, count)
        for old in set(mine[:-_KEPT]) - set(complete[-_KEPT:]):
            _file(self._part, old).unlink()
        if len(complete) > 1 and self._processes.index == 0:
            for part in self._folder.glob("*of*"):
                if not part.name.endswith(f"of{count}"):
                    # A file that somebody still has open can be in the way.
                    shutil.rmtree(part, ignore_errors=True)

    def restore_state(self, like: OuterState) -> tuple[Found, OuterState] | None:
        """The newest good state, None where no checkpoint was ever written.

        All parts of its checkpoint are whole and made by this config.

        Args:
          like: a state of the same run; gives structure, dtypes and shardings.

        Raises:
          CheckpointError: there are checkpoints, but none that is readable and from
            this config.
        """
        refused = []
        for found in self._candidates():
            try:
                for index in range(found.processes):
                    self._check(found, index)
                with stored_trees.opened(self._where(found, 0)) as stored:
                    state = stored.load("state", like)
                if found.processes == self._processes.count:
                    self._newest = found.step
                return found, state
            except Exception as error:  # a broken file can fail in any way at all
                reason = str(error).strip().splitlines() or [type(error).__name__]
                refused.append(f"checkpoint {self._where(found, 0)}: {reason[0]}")
                self._warn(refused[-1])
        if refused:
            raise CheckpointError("no usable checkpoint:\n  " + "\n  ".join(refused))
        return None

    def restore_lanes(self, found: Found, engine: Engine) -> dict[int, Lanes]:
        """Lanes for an engine that is at the step of a checkpoint, by slot.

        Where there are more or fewer lanes in a group than there were, as on another
        number of devices, they begin anew; a warning says so.

        Raises:
          CheckpointError: the checkpoint has other groups in flight, or other tasks in
            them: the data sets or the package are not what they were.
        """
        lanes, others = {}, {}
        for slot, now in _describe(engine.in_flight).items():
            if now["born"] == found.step:
                continue  # it has not begun
            with stored_trees.opened(self._where(found, int(slot))) as stored:
                was = stored.facts["groups"].get(slot)
                if was is None:
                    continue  # the workers of an elastic run keep their lanes
                if was != now:
                    raise CheckpointError(
                        f"at step {found.step} the group in slot {slot} was {was}, but "
                        f"would be {now}: the data sets on this machine, or this "
                        "package, have changed since."
                    )
                like, group = engine.lanes[int(slot)], f"group{slot}"
                were = stored.leading_axis(group)
                if were != engine.in_flight[int(slot)].estimator.num_pairs:
                    others[int(slot)] = were
                else:
                    lanes[int(slot)] = stored.load(group, like)
        if others:
            slot, were = next(iter(others.items()))
            self._warn(
                f"the lanes of {len(others)} groups begin anew: a group had {were} "
                f"antithetic pairs when the checkpoint of step {found.step} was written, "
                f"and has {engine.in_flight[slot].estimator.num_pairs} on the devices "
                "here."
            )
        return lanes

    def restore_totals(self, found: Found, engine: Engine) -> dict[int, Total]:
        """What the log of groups had added up of an engine's groups, by slot."""
        totals = {}
        for slot in engine.in_flight:
            with stored_trees.opened(self._where(found, slot)) as stored:
                if str(slot) in stored.facts["totals"]:
                    totals[slot] = Total(*stored.facts["totals"][str(slot)])
        return totals

    def _candidates(self) -> list[Found]:
        """Steps of which every process wrote its part, the newest first."""
        counts = [
            int(part.name.removeprefix("0of")) for part in self._folder.glob("0of*")
        ]
        found = [
            Found(s, count) for count in counts for s in _complete(self._folder, count)
        ]
        return sorted(found, reverse=True)

    def _check(self, found: Found, index: int) -> None:
        """Raise ValueError for a part that is damaged or of another config."""
        with stored_trees.opened(self._where(found, index)) as stored:
            made_by = TrainConfig.parse(stored.facts["config"])
            if differences := made_by.differences(self._config):
                raise ValueError(f"made by another config ({'; '.join(differences)})")
            for field, digest in stored.facts.get("thetas", {}).items():
                if digest != self._digests.get(field):
                    raise ValueError(
                        f"{field}={getattr(self._config, field)!r} has another theta now "
                        "than when it was made"
                    )
            stored.check()

    def _where(self, found: Found, slot: int) -> Path:
        """The file that has a slot; of a process's own index, its file."""
        part = _part(self._folder, slot % found.processes, found.processes)
        return _file(part, found.step)


def _part(folder: Path, index: int, count: int) -> Path:
    return folder / f"{index}of{count}"


def _file(part: Path, step: int) -> Path:
    return part / f"{step}.safetensors"


def _steps(part: Path) -> list[int]:
    """Of the checkpoints in a part, the oldest first."""
    return sorted(int(path.stem) for path in part.glob("*.safetensors"))


def _complete(folder: Path, count: int) -> list[int]:
    """Steps of which each of so many processes wrote its part, the oldest first."""
    parts = [set(_steps(_part(folder, index, count))) for index in range(count)]
    return sorted(set.intersection(*parts))


def _describe(in_flight: Mapping[int, Prepared]) -> dict[str, Any]:
    """What must be as it was for lanes to go on, by slot."""
    return {
        str(slot): {
            "generation": prepared.group.generation,
            "born": prepared.group.born,
            "ends": prepared.group.ends,
            "windows": prepared.group.windows,
            "tasks": list(prepared.tasks),
        }
        for slot, prepared in in_flight.items()
    }
