"""The shield: handlers are deferred during a round trip and run after it, however the two are nested."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from workerkit.io.interrupts import SHIELD, Deferring, Shield


class Limit(Exception):
    """What a handler raises."""


@pytest.fixture(params=[signal.SIGUSR1, signal.SIGALRM], ids=["SIGUSR1", "SIGALRM"])
def strike(request):
    """Strikes with a signal whose handler notes itself in `strike.seen`."""

    def handler(signum, frame):
        strike.seen.append(frame)

    def strike():
        os.kill(os.getpid(), request.param)

    strike.seen = []
    strike.signal = request.param
    replaced = signal.signal(request.param, handler)
    yield strike
    signal.signal(request.param, replaced)


def leave(shield, before):
    shield.depth = before
    shield.deliver()


def test_a_signal_outside_a_round_trip_is_handled_at_once(strike):
    shield = Shield()
    leave(shield, shield.enter())
    strike()
    assert len(strike.seen) == 1
    assert strike.seen[0] is not None


def test_a_signal_within_a_round_trip_waits_for_its_end(strike):
    shield = Shield()
    before = shield.enter()
    strike()
    strike()
    assert strike.seen == []
    leave(shield, before)
    assert len(strike.seen) == 2
    assert shield.pending == []


def test_within_round_trips_the_outermost_end_counts(strike):
    shield = Shield()
    outer = shield.enter()
    inner = shield.enter()
    strike()
    leave(shield, inner)
    assert strike.seen == []
    leave(shield, outer)
    assert len(strike.seen) == 1


def test_what_the_handler_raises_comes_out_where_the_round_trip_ends():
    shield = Shield()

    def handler(*_):
        raise Limit

    replaced = signal.signal(signal.SIGUSR1, handler)
    try:
        before = shield.enter()
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Limit):
            leave(shield, before)
        assert (shield.depth, shield.pending) == (0, [])
    finally:
        signal.signal(signal.SIGUSR1, replaced)


def test_user_code_within_a_flow_is_interrupted_at_once(strike):
    shield = Shield()
    before = shield.enter()
    strike()
    lowered = shield.lower()
    assert len(strike.seen) == 1
    strike()
    assert len(strike.seen) == 2
    shield.restore(lowered)
    strike()
    assert len(strike.seen) == 2
    leave(shield, before)
    assert len(strike.seen) == 3


def test_a_handler_installed_later_is_wrapped_at_the_next_round_trip(strike):
    """billiard installs its own after worker_process_init."""
    shield = Shield()
    leave(shield, shield.enter())
    later = []
    signal.signal(strike.signal, lambda *_: later.append(1))
    before = shield.enter()
    strike()
    assert (strike.seen, later) == ([], [])
    leave(shield, before)
    assert (strike.seen, later) == ([], [1])


def test_a_handler_is_wrapped_once_even_if_somebody_saves_and_restores_it(strike):
    shield = Shield()
    leave(shield, shield.enter())
    saved = signal.getsignal(strike.signal)
    assert isinstance(saved, Deferring)
    signal.signal(strike.signal, signal.SIG_IGN)
    leave(shield, shield.enter())
    assert signal.getsignal(strike.signal) is signal.SIG_IGN
    signal.signal(strike.signal, saved)
    before = shield.enter()
    installed = signal.getsignal(strike.signal)
    assert not isinstance(installed.original, Deferring)
    strike()
    leave(shield, before)
    assert len(strike.seen) == 1


def test_other_threads_have_nothing_to_do_with_it(strike):
    shield = Shield()
    before = shield.enter()
    answers = []

    def beside():
        answers.append(shield.enter())
        answers.append(shield.lower())
        shield.restore(-1)

    thread = threading.Thread(target=beside)
    thread.start()
    thread.join()
    assert answers == [-1, -1]
    assert shield.depth == 1
    leave(shield, before)


def test_a_child_starts_with_nothing_under_way():
    before = SHIELD.enter()
    try:
        child = os.fork()
        if not child:
            os._exit(SHIELD.depth * 2 + len(SHIELD.pending))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert SHIELD.depth == before + 1
    finally:
        SHIELD.depth = before
