"""Writing while a run goes on: one thing at a time, and a failure ends nothing.

Whoever has something to write asks first whether the thread is ``busy``, and if so waits
for a later turn: however slow a disk is, nothing queues up.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor


class BackgroundWriter:
    """A thread that writes.

    Args:
      warn: told in one line what could not be written, and why.

    Attributes:
      failures: how many things could not be written.
      longest: seconds that the slowest took, failed ones included.
    """

    def __init__(self, warn: Callable[[str], None]):
        self.failures, self.longest = 0, 0.0
        self._warn = warn
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._current: tuple[str, Future[None]] | None = None

    @property
    def busy(self) -> bool:
        """Whether something is still being written."""
        if self._current is not None and self._current[1].done():
            self.wait()
        return self._current is not None

    def write(self, name: str, write: Callable[[], None]) -> None:
        """Call ``write`` in the thread, which must not be busy."""
        assert not self.busy, f"{name} must wait"
        self._current = name, self._thread.submit(self._timed, write)

    def wait(self) -> None:
        """Return when nothing is being written."""
        if self._current is None:
            return
        (name, future), self._current = self._current, None
        try:
            future.result()
        except Exception as error:  # whatever it is, the run is worth more
            self.failures += 1
            self._warn(f"{name} could not be written: {error or repr(error)}")

    def close(self) -> None:
        """End the thread when it is done."""
        self.wait()
        self._thread.shutdown()

    def _timed(self, write: Callable[[], None]) -> None:
        started = time.monotonic()
        try:
            write()
        finally:
            self.longest = max(self.longest, time.monotonic() - started)
