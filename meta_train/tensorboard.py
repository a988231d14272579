"""Scalars for tensorboard, where tensorboardX is installed (the extra "plot")."""

import importlib
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Board:
    """Appends scalars to a folder that tensorboard reads.

    tensorboardX's own `SummaryWriter` writes in a thread, and waits for ever once that
    met a full disk; here whoever logs gets the error.

    Args:
      folder: made when missing.
      keep_steps: what was written about later steps is not shown any more.

    Raises:
      ImportError: there is no tensorboardX.
    """

    def __init__(self, folder: Path, keep_steps: int):
        from tensorboardX.event_file_writer import EventsWriter

        # Its messages are made at import, unseen by type checkers.
        messages: Any = importlib.import_module("tensorboardX.proto.event_pb2")
        folder.mkdir(parents=True, exist_ok=True)
        # Its name has whole seconds only, in which a run may stop and go on.
        self._writer = EventsWriter(str(folder / "events"), f".from{keep_steps}")
        self._event = messages.Event
        start = messages.SessionLog(status=messages.SessionLog.START)
        self._writer.write_event(self._event(step=keep_steps + 1, session_log=start))

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add an outer step, less what is no number; OSError where the disk is full."""
        from tensorboardX.summary import scalar

        now = time.time()
        for name, value in scalars.items():
            if not math.isfinite(value):
                continue
            event = self._event(wall_time=now, step=step, summary=scalar(name, value))
            self._writer.write_event(event)

    def close(self) -> None:
        """Write what is left; raises OSError where the disk is full."""
        self._writer.close()
