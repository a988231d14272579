"""A cache for what is large: kept while somebody uses it, and the last few anyway.

A run over thousands of tasks meets every data set there is. `functools.cache` would
keep them all for good; forgetting one that is in use would load it a second time.
"""

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class Recent(Generic[P, T]):
    """A function whose results are the same objects while they are alive.

    Args:
      function: of hashable positional arguments; its results can be weakly referenced.
      kept: how many results, the latest asked for, are alive even if nobody uses them.
    """

    def __init__(self, function: Callable[P, T], kept: int):
        functools.update_wrapper(self, function)
        self._function = function
        self._alive: weakref.WeakValueDictionary[Any, T] = weakref.WeakValueDictionary()
        self._latest: dict[int, T] = {}  # by id, the latest asked for at the end
        self._kept = kept
        self._lock = threading.Lock()  # of the dictionaries
        # One load, also when two threads want it; who wants another one need not wait.
        self._loading: dict[Any, threading.Lock] = {}

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        assert not kwargs, "arguments are positional"
        with self._lock:
            loading = self._loading.setdefault(args, threading.Lock())
        with loading:
            result = self._alive.get(args)
            if result is None:
                result = self._function(*args, **kwargs)
            return self._keep(args, result)

    def _keep(self, args: Any, result: T) -> T:
        with self._lock:
            self._alive[args] = result
            self._latest.pop(id(result), None)
            self._latest[id(result)] = result
            if len(self._latest) > self._kept:
                del self._latest[next(iter(self._latest))]
            return result

    def cache_clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._alive.clear()
            self._latest.clear()


def recent(kept: int) -> Callable[[Callable[P, T]], Recent[P, T]]:
    """Decorator; see `Recent`."""
    return lambda function: Recent(function, kept)
