"""Many tasks checked at once."""

import time
from concurrent.futures import ThreadPoolExecutor

from meta_train import task_display


def test_whoever_stops_looking_at_checks_does_not_wait_for_all_of_them(monkeypatch):
    checked = []

    def check(name):
        time.sleep(0.02)
        checked.append(name)
        return name

    pool = lambda jobs, *how: ThreadPoolExecutor(jobs)
    monkeypatch.setattr(task_display, "ProcessPoolExecutor", pool)
    monkeypatch.setattr(task_display, "_check_one", check)
    found = task_display.check_all([str(i) for i in range(500)], jobs=1)
    assert next(found) == "0"
    found.close()
    assert len(checked) < 10
