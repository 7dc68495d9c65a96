from __future__ import annotations

import sys
import threading

from hypothesis import given
from hypothesis import strategies as st

from workerkit.core.breaker import FIRST_PAUSE, LONGEST_PAUSE, Breaker


def breaker():
    return Breaker(3, jitter=lambda: 1.0)


def test_it_opens_at_the_threshold_and_says_so_once():
    it = breaker()
    assert [it.failed(0.0) for _ in range(5)] == [False, False, True, False, False]
    assert not it.closed


def test_a_success_in_between_starts_the_count_anew():
    it = breaker()
    it.failed(0.0)
    it.failed(0.0)
    assert it.succeeded() is False
    assert [it.failed(0.0) for _ in range(3)] == [False, False, True]


def test_while_open_one_probe_a_pause_is_let_through():
    it = breaker()
    for _ in range(3):
        it.failed(0.0)
    assert not it.admits(FIRST_PAUSE * 0.99)
    assert [it.admits(FIRST_PAUSE) for _ in range(5)] == [True, False, False, False, False]


def test_a_probe_that_never_reports_back_blocks_nothing():
    it = breaker()
    for _ in range(3):
        it.failed(0.0)
    assert it.admits(10.0)
    assert it.admits(10.0 + LONGEST_PAUSE)


def test_the_pause_grows_to_half_a_second_and_shrinks_after_a_success():
    it = breaker()
    now = 0.0
    for _ in range(20):
        it.failed(now)
        now += LONGEST_PAUSE
        assert it.admits(now)
    assert it.succeeded() is True
    assert it.succeeded() is False
    assert it.admits(now)
    for _ in range(3):
        it.failed(now)
    assert it.admits(now + FIRST_PAUSE)


@given(st.lists(st.booleans(), max_size=30), st.floats(0, 1))
def test_a_server_that_is_back_is_tried_within_half_a_second(history, jitter):
    it = Breaker(3, jitter=lambda: jitter)
    for success in history:
        it.succeeded() if success else it.failed(100.0)
    assert it.admits(100.0 + LONGEST_PAUSE)


def test_of_many_threads_one_sees_it_open_and_one_sees_it_close():
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            it = breaker()
            start = threading.Barrier(6)
            opened, closed = [], []

            def fail(it=it, start=start, opened=opened):
                start.wait()
                opened.append(it.failed(0.0))

            def succeed(it=it, start=start, closed=closed):
                start.wait()
                closed.append(it.succeeded())

            for act in (fail, succeed):
                threads = [threading.Thread(target=act) for _ in range(6)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join()
            assert (sum(opened), sum(closed)) == (1, 1)
    finally:
        sys.setswitchinterval(interval)
