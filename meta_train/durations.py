"""Durations as people write them on a command line: 90, 90s, 9m, 1.5h."""

import re
import time
from collections.abc import Callable


def seconds(text: str) -> float:
    """Seconds in a duration such as '90', '90s', '9m' or '1.5h'.

    Raises:
      ValueError: it is no duration.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*([smh]?)\s*", text)
    if not match:
        raise ValueError(f"{text!r} is no duration; write 90s, 9m or 1.5h.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def budget(text: str) -> float | None:
    """The same; None, which is no limit, for an empty text."""
    return seconds(text) if text else None


def over(budget: float | None) -> Callable[[], bool]:
    """Whether so many seconds have passed since now; None: they never have."""
    ends = float("inf") if budget is None else time.monotonic() + budget
    return lambda: time.monotonic() >= ends
