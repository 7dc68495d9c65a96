"""What is sent again and what is not: every answer a server or a network may give, from a model."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions as replies

from workerkit.core.call import Call, as_is
from workerkit.core.events import Hooks, StoreDown, StoreUp
from workerkit.core.lua import Script
from workerkit.errors import OutcomeUnknown, StoreRefused, StoreUnavailable
from workerkit.io.address import parse_address
from workerkit.io.attempts import LONGEST_PAUSE, Pause, Wire, attempts, packed
from workerkit.io.link import Lost, NotYet, pack
from workerkit.io.server import PoolOptions, Server

CHARGE = Script("tests.faults.lua", "charge")
GET = Call("get", "cache", lambda reply: f"parsed {reply}", args=("GET", "key"))
SET_ONCE = Call("once", "cache", as_is, args=("INCR", "key"), once=True)
ONCE = Call("charge", "cache", as_is, script=CHARGE, keys=("key",))
PASSING = [
    replies.BusyLoadingError("loading"),
    replies.ReadOnlyError("a replica"),
    replies.ClusterDownError("CLUSTERDOWN"),
    replies.MasterDownError("MASTERDOWN"),
    replies.TryAgainError("TRYAGAIN"),
    replies.ResponseError("BUSY running a script"),
]


@pytest.fixture
def server():
    return fresh_server()


def fresh_server():
    events = []
    hooks = Hooks(events.append)
    server = Server("redis", parse_address("redis://host", what="redis_url"), options=PoolOptions(), hooks=hooks)
    server.clock.learn(10**15, time.monotonic())
    server.events = events
    return server


class Story:
    """An execution whose answers the test gives; `wires` are the commands that went out, pauses are skipped."""

    def __init__(self, server, *calls, seconds=5.0):
        self._server = server
        self._deadline = time.monotonic() + seconds
        server.admit(time.monotonic())
        self._running = attempts(calls, server, self._deadline)
        self.wires = []
        self.pauses = []
        self.fresh = []
        self.result = None
        self._note(lambda: next(self._running))

    def answers(self, *answers):
        return self._note(lambda: self._running.send(list(answers)))

    def fails(self, lost):
        return self._note(lambda: self._running.throw(lost))

    def _note(self, step):
        try:
            found = step()
            while isinstance(found, Pause):
                self.pauses.append(found.seconds)
                found = self._running.send(None)
        except StopIteration as done:
            self.result = done.value
            return self
        assert isinstance(found, Wire)
        self.wires.append([words[:2] for words in found.commands(self._server, self._deadline)])
        self.fresh.append(found.fresh)
        return self


def test_an_answer_is_parsed(server):
    story = Story(server, GET).answers(b"value")
    assert story.result == ["parsed b'value'"]
    assert story.wires == [[("GET", "key")]]


def test_a_script_the_server_has_forgotten_is_sent_whole_alone_and_once(server):
    story = Story(server, GET, ONCE, GET).answers(b"1", replies.NoScriptError("no script"), b"3").answers(7)
    assert story.wires == [
        [("GET", "key"), ("EVALSHA", CHARGE.sha), ("GET", "key")],
        [("EVAL", CHARGE.source)],
    ]
    assert story.result == ["parsed b'1'", 7, "parsed b'3'"]


@pytest.mark.parametrize("answer", PASSING, ids=lambda answer: type(answer).__name__)
def test_an_answer_that_passes_is_waited_out_even_by_what_must_not_run_twice(server, answer):
    story = Story(server, ONCE)
    for _ in range(9):
        story.answers(answer)
    story.answers(7)
    assert story.result == [7]
    assert len(story.wires) == 10
    assert all(0 < pause <= LONGEST_PAUSE for pause in story.pauses)
    assert sum(story.pauses[-3:]) > 3 * LONGEST_PAUSE / 2 - 1e-9
    assert server.events == []


@pytest.mark.parametrize(("answer", "fresh"), list(zip(PASSING, [0, 1, 0, 1, 0, 0], strict=True)))
def test_only_a_failover_asks_for_another_connection(server, answer, fresh):
    assert Story(server, GET).answers(answer).fresh == [False, fresh]


def test_a_handshake_met_with_an_answer_that_passes_is_waited_out_too(server):
    story = Story(server, ONCE).fails(NotYet(replies.ResponseError("BUSY running a script"))).answers(7)
    assert story.result == [7]


@pytest.mark.parametrize("answer", PASSING, ids=lambda answer: type(answer).__name__)
def test_what_does_not_pass_in_time_was_not_executed(server, answer):
    story = Story(server, ONCE, seconds=-1.0)
    with pytest.raises(StoreUnavailable, match="it answered only"):
        story.answers(answer)


@pytest.mark.parametrize("call", [ONCE, SET_ONCE])
def test_what_must_not_run_twice_is_never_sent_again_after_it_was_lost(server, call):
    with pytest.raises(OutcomeUnknown, match="may have been executed") as caught:
        Story(server, GET, call).fails(Lost("reset", sent=True))
    assert (caught.value.store, caught.value.call) == ("cache", "get")


def test_what_may_run_twice_is_sent_once_more_on_a_new_connection(server):
    story = Story(server, GET).fails(Lost("reset", sent=True)).answers(b"value")
    assert story.fresh == [False, True]
    assert story.result == ["parsed b'value'"]


def test_but_not_a_third_time(server):
    story = Story(server, GET).fails(Lost("reset", sent=True))
    with pytest.raises(StoreUnavailable, match="reset again"):
        story.fails(Lost("reset again", sent=True))


def test_nor_after_the_deadline(server):
    with pytest.raises(StoreUnavailable):
        Story(server, GET, seconds=-1.0).fails(Lost("timeout", sent=True))


@pytest.mark.parametrize("call", [GET, ONCE])
def test_what_was_never_sent_was_not_executed(server, call):
    with pytest.raises(StoreUnavailable, match=r"redis://host \(workerkit_redis_url\) cannot be reached: refused"):
        Story(server, call).fails(Lost("refused", sent=False))


def test_a_refusal_for_being_late_teaches_the_time_and_is_sent_again(server):
    story = Story(server, ONCE)
    first = story._server.clock.at(story._deadline)
    story.answers(replies.ResponseError("LATE 2000000000000000"))
    assert server.clock.at(story._deadline) > first + 9 * 10**14
    assert story.answers(7).result == [7]
    assert story.pauses == []


def test_a_call_that_is_truly_late_gives_up(server):
    with pytest.raises(StoreUnavailable, match="LATE"):
        Story(server, ONCE, seconds=-1.0).answers(replies.ResponseError("LATE 2000000000000000"))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (replies.ResponseError("WRONGTYPE wrong"), "refused get: WRONGTYPE wrong"),
        (replies.ResponseError("BUSYGROUP exists"), "BUSYGROUP"),
        (replies.OutOfMemoryError("command not allowed"), "its memory is full"),
        (replies.MovedError("1 127.0.0.1:7000"), "node of a cluster"),
        (replies.NoPermissionError("no permissions"), "no permissions"),
    ],
)
def test_any_other_error_reply_is_a_refusal_after_all_replies_were_read(server, answer, said):
    story = Story(server, GET, GET)
    with pytest.raises(StoreRefused, match=said) as caught:
        story.answers(answer, b"fine")
    assert "<Call get >" in "".join(caught.value.__notes__)
    assert server.breaker.closed


def test_three_failures_open_the_breaker_and_one_success_closes_it(server):
    for _ in range(3):
        with pytest.raises(StoreUnavailable):
            Story(server, GET).fails(Lost("refused", sent=False))
    with pytest.raises(StoreUnavailable, match="tried again within a second"):
        Story(server, GET)
    server.breaker._retry_at = 0.0
    Story(server, GET).answers(b"value")
    assert server.events == [StoreDown("redis", "refused"), StoreUp("redis")]


ANSWERS = st.sampled_from(["value", "noscript", "late", "passes", "refused", "lost unsent", "lost sent"])


@given(st.lists(st.lists(ANSWERS, min_size=3, max_size=3), max_size=8), st.booleans())
def test_whatever_happens_nothing_that_may_have_run_is_sent_again_if_it_must_not(story_of, with_once):
    """The model of a server that executes exactly what it answers with a value, or loses after it was sent."""
    server = fresh_server()
    calls = [GET, ONCE if with_once else GET, GET]
    executed = [0, 0, 0]
    running = attempts(calls, server, time.monotonic() + 5.0)
    made = {
        "noscript": lambda: replies.NoScriptError("no script"),
        "late": lambda: replies.ResponseError(f"LATE {10**15}"),
        "passes": lambda: replies.BusyLoadingError("loading"),
        "refused": lambda: replies.ResponseError("ERR no"),
    }
    step = next(running)
    try:
        for kinds in story_of:
            while isinstance(step, Pause):
                step = running.send(None)
            sent = [next(i for i, call in enumerate(calls) if call is each) for each in step.calls]
            if "lost" in kinds[0]:
                if kinds[0] == "lost sent":
                    for number in sent:
                        executed[number] += 1
                step = running.throw(Lost("lost", sent=kinds[0] == "lost sent"))
                continue
            answers = []
            for number, kind in zip(sent, kinds, strict=False):
                executed[number] += kind == "value" or "lost" in kind
                answers.append(made.get(kind, lambda: b"value")())
            step = running.send(answers)
    except (StopIteration, StoreRefused, StoreUnavailable, OutcomeUnknown):
        pass
    if with_once:
        assert executed[1] <= 1


@pytest.mark.parametrize("start", [0, 10**15 - 5_000_000, 1_700_000_000_000_000, 10**16 - 5_000_000])
def test_a_call_that_is_kept_is_packed_once_and_says_the_same_each_time(start):
    server, kept = fresh_server(), Call("c", "cache", as_is, script=CHARGE, keys=("$16\r\nk",), args=(7, ""), kept=True)
    for _ in range(2):
        for ahead in (0, 1, 4, 6, 1_000_000):  # 15 digits, 16 and 17
            server.clock.learn(start, 0.0)
            assert packed(kept, server, float(ahead)) == pack(kept.words(server.clock.at(float(ahead))))
    assert (kept.around is None) == (start == 0)


def test_a_call_that_is_sent_once_is_not_remembered():
    server, call = fresh_server(), Call("c", "cache", as_is, script=CHARGE, keys=("k",), args=(7,))
    server.clock.learn(1_700_000_000_000_000, 0.0)
    packed(call, server, 1.0)
    assert call.around is None
