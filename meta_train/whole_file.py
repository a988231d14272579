"""Files that appear under their name with all of their content, or not at all."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write; at the end it is on disk and replaces what had its name.

    Several processes may write one name, and each may be killed or lose power: at worst a
    file that ends in `.tmp` is left beside it.

    Raises:
      OSError: the disk is full, say; then nothing is left, and the old file stays.
    """
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
