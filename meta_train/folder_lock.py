"""A run folder belongs to one process at a time.

    with held(folder, warn):      # raises FolderInUseError while another one has it
        ...

It is an advisory lock (`flock`) on the file ``lock`` in the folder. The kernel lets go of
it when the process ends, however that ends, so nothing is ever left to clean up; the file
stays, and says who had it last.
"""

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

_TAKEN = (errno.EAGAIN, errno.EACCES)


class FolderInUseError(OSError):
    """Another process is training in the folder; says which."""


@contextmanager
def held(folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
    """The folder as nobody else's; made when missing.

    Args:
      folder: a run folder.
      warn: told where the file system has no locks; then nobody is kept out.

    Raises:
      FolderInUseError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as file:
        try:
            _lock(file)
        except OSError as error:
            if error.errno in _TAKEN:
                file.seek(0)
                raise FolderInUseError(
                    f"{folder} is in use by {file.read().strip() or 'another process'}; "
                    "wait for it to end, end it, or choose another folder."
                ) from None
            warn(f"{folder} cannot be locked ({error}): let no other run use it.")
        else:
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
        yield


def _lock(file: IO[str]) -> None:
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no such locks")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
