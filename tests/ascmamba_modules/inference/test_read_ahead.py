"""Results in order, never more in memory than allowed."""

import threading
import time

import pytest

from ascmamba_modules.inference.file_batches import map_ahead


def test_order_is_kept_whoever_is_done_first():
    def slow_at_first(i):
        time.sleep(0.02 if i == 0 else 0)
        return i

    assert list(map_ahead(slow_at_first, range(30), 4, 8)) == list(range(30))


def test_never_further_ahead_than_allowed():
    called = []
    results = map_ahead(lambda i: called.append(i) or i, range(100), 4, 5)
    for i in results:
        time.sleep(0.002)  # whoever runs ahead has the time to
        assert len(called) <= i + 1 + 5


def test_calls_run_at_the_same_time():
    barrier = threading.Barrier(3, timeout=30)
    assert len(list(map_ahead(lambda i: barrier.wait(), range(6), 3, 3))) == 6


def test_error_comes_where_its_result_would():
    results = map_ahead(lambda i: 1 // (2 - i), range(5), 2, 3)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_who_stops_taking_stops_the_work():
    called = []
    results = map_ahead(called.append, iter(range(1000)), 1, 3)
    next(results)
    results.close()
    assert len(called) <= 5
