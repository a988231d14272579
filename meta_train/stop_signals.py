"""Signals that ask a run to stop: it does so after a step, with a checkpoint."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def watch() -> Iterator[list[str]]:
    """A list that receives the name of a signal, SIGINT or SIGTERM, that arrived.

    A second signal acts as if we were not here, so a hanging run can still be ended.
    """
    stopped: list[str] = []
    previous = {}

    def handle(number: int, frame: Any) -> None:
        del frame
        stopped.append(signal.Signals(number).name)
        signal.signal(number, previous[number])

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.getsignal(number)
            signal.signal(number, handle)
    except ValueError:
        pass  # not in the main thread: whoever owns it handles signals
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            if signal.getsignal(number) is handle:
                signal.signal(number, handler)
