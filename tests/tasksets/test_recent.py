"""Large results are loaded once while they are used, and then forgotten."""

import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasksets.recent import recent


class _Large:
    """Something that can be weakly referenced."""


@pytest.fixture
def load():
    calls = []

    @recent(kept=2)
    def load(name):
        calls.append(name)
        return _Large()

    load.calls = calls
    return load


def test_what_is_in_use_is_loaded_once(load):
    a = load("a")
    for name in "bcdef":
        load(name)
    gc.collect()
    assert load("a") is a and load.calls.count("a") == 1


def test_who_wants_something_else_does_not_wait():
    began, go_on = threading.Event(), threading.Event()

    @recent(kept=2)
    def load(name):
        if name == "slow":
            began.set()
            assert go_on.wait(20)
        return _Large()

    fast = load("fast")
    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(load, "slow")
        assert began.wait(20)
        again = pool.submit(load, "fast")
        assert again.result(timeout=10) is fast
        same = [pool.submit(load, "slow") for _ in range(2)]
        go_on.set()
        assert all(each.result(timeout=10) is slow.result() for each in same)


def test_only_the_latest_few_are_kept_for_nobody(load):
    for name in "abc":
        load(name)
    gc.collect()
    load("b"), load("c")
    assert load.calls == list("abc")
    load("a")
    assert load.calls == list("abca")


def test_asking_again_makes_a_result_one_of_the_latest(load):
    load("a"), load("b"), load("a"), load("c")
    gc.collect()
    load("a"), load("c")
    assert load.calls == list("abc")
    load("b")
    assert load.calls == list("abcb")


def test_a_cleared_cache_loads_again(load):
    a = load("a")
    load.cache_clear()
    assert load("a") is not a
