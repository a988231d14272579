"""Linux allows a process so many memory mappings, and each program takes hundreds."""

import dataclasses
import weakref

import pytest
from small_runs import CONFIG

from meta_train import TaskMix, TrainConfig, devices, engine, preparation, run

PER_PROGRAM = 500
STRUCTURES = 14
MIX = TaskMix(
    suites=("quadratic",),
    task_options=tuple(
        f"dims={n}&output=identity&noise=none" for n in range(2, 2 + STRUCTURES)
    ),
)


class Program:
    """A compiled program that knows how many there are."""

    made: list[weakref.ref]

    def __init__(self, program):
        self._program = program
        self.made.append(weakref.ref(self))

    def __call__(self, *arguments):
        return self._program(*arguments)


@pytest.fixture
def room(monkeypatch):
    """Sets for how many programs at a time there is room; the programs ever made."""
    Program.made, compile_for = [], devices.compile_for
    most = None

    def mappings():
        alive = sum(program() is not None for program in Program.made)
        return PER_PROGRAM * alive, PER_PROGRAM * most

    def compiled(*arguments, **of_jit):
        devices.require_room(1, PER_PROGRAM)
        return Program(compile_for(*arguments, **of_jit))

    def for_programs(number):
        nonlocal most
        most = number
        monkeypatch.setattr(devices, "_LARGE_PROGRAM", 0)
        monkeypatch.setattr(devices, "memory_mappings", mappings)
        monkeypatch.setattr(engine, "memory_mappings", mappings)
        monkeypatch.setattr(preparation, "compile_for", compiled)
        return Program.made

    return for_programs


def test_too_many_structures_are_told_before_all_room_is_taken(room, tmp_path):
    config = TrainConfig(
        optimizer="sgd", mix=MIX, num_tasks=STRUCTURES, num_pairs=1, outer_steps=1
    )
    made = room(for_programs := STRUCTURES - 1)
    with pytest.raises(OSError, match=r"another 4 compiled programs of 5\d\d memory"):
        run.train(config, tmp_path)
    assert len(made) < for_programs


def test_programs_that_no_group_needs_make_room(room, tmp_path):
    config = dataclasses.replace(CONFIG, mix=MIX, outer_steps=12)
    unlimited = run.train(config, tmp_path / "unlimited")
    made = room(2)  # for a group and the one after it
    assert run.train(config, tmp_path / "limited").theta == unlimited.theta
    assert len(made) > 3
