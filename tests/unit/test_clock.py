from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.core.clock import ServerClock

HOUR = 3_600_000_000


def test_nothing_is_known_before_the_first_sample():
    clock = ServerClock()
    assert not clock.known
    with pytest.raises(RuntimeError):
        clock.at(1.0)


@given(
    st.integers(0, 2**52),
    st.floats(0, 1e7),
    st.lists(st.tuples(st.floats(0, 5), st.floats(0, 5)), min_size=1, max_size=5),
    st.floats(0, 100),
)
def test_the_servers_time_is_never_overestimated(offset_us, began, samples, later):
    """Whatever the delays: the server answers some time after the question, and the reply takes some time more."""
    clock = ServerClock()
    now = began
    for before, after in samples:
        now += before
        said = offset_us + int(now * 1e6)
        now += after
        clock.learn(said, received=now)
    assert clock.at(now + later) <= offset_us + int((now + later) * 1e6) + 2  # two roundings to microseconds
    assert clock.at(now + later) >= offset_us + int((now + later) * 1e6) - int(samples[-1][1] * 1e6) - 2


@pytest.mark.parametrize("moved", [HOUR, -HOUR])
def test_a_new_sample_replaces_the_old_one(moved):
    clock = ServerClock()
    clock.learn(10 * HOUR, received=100.0)
    clock.learn(10 * HOUR + moved, received=101.0)
    assert clock.learned == 101.0
    assert clock.at(102.0) == 10 * HOUR + moved + 1_000_000


def test_now_is_the_time_at_this_moment():
    clock = ServerClock()
    clock.learn(10**15, time.monotonic())
    before = clock.at(time.monotonic())
    assert before <= clock.now_us() <= clock.at(time.monotonic())
