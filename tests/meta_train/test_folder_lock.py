"""A run folder is one process's, for as long as that lives."""

import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import small_runs

from meta_train import cli, elastic, folder_lock, run
from meta_train.folder_lock import FolderInUseError, held

_HOLDER = """
import sys, time
from pathlib import Path
from meta_train.folder_lock import held
with held(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_in_a_folder_names_the_first(tmp_path, holder):
    small_runs.CONFIG.save(tmp_path / "config.json")
    first = f"in use by process {holder.pid} on {socket.gethostname()}"
    with pytest.raises(FolderInUseError, match=first):
        run.train(small_runs.CONFIG, tmp_path, resume=True)
    with pytest.raises(FolderInUseError, match=first):
        elastic.train(small_runs.CONFIG, tmp_path, None, resume=True)  # type: ignore[arg-type]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "lock"]


def test_the_command_line_says_so_in_one_sentence(tmp_path, holder, capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--seed", "1", "--resume", "--folder", str(tmp_path)])
    assert f"error: {tmp_path} is in use" in " ".join(capsys.readouterr().out.split())


def test_a_process_that_is_killed_lets_go(tmp_path, holder):
    holder.kill()
    holder.wait()
    with held(tmp_path, print):
        assert str(os.getpid()) in (tmp_path / "lock").read_text()
    with held(tmp_path, print):  # as does one that is done
        pass


def test_where_there_are_no_locks_there_is_a_warning(tmp_path, monkeypatch):
    def without(file, flags):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    warnings = []
    with held(tmp_path, warnings.append), held(tmp_path, warnings.append):
        pass
    assert len(warnings) == 2 and "No locks available" in warnings[0]
    monkeypatch.setattr(folder_lock, "fcntl", None)  # as on Windows
    with held(tmp_path, warnings.append):
        assert "no such locks" in warnings[-1]
