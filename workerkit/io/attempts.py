"""How Calls are brought to their results: what may be sent again, what must not, and when to give up.

A generator, so that the sync and the async runner share it: it yields what to do (`Wire`: one write, one read;
`Pause`), and gets the replies sent in, or `Lost` thrown in.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Iterable, Sequence
from typing import Any, NoReturn

import redis
from redis import exceptions as replies

from workerkit.core.call import Call, Word
from workerkit.errors import OutcomeUnknown, StoreError, StoreRefused
from workerkit.io.link import Lost, NotYet, pack, passes
from workerkit.io.server import Server

FIRST_PAUSE = 0.002
LONGEST_PAUSE = 0.1
_SHORTEST, _LONGEST = 10**15, 10**16  # server times of 16 digits: from 2001 to 2286
# A failover: the name may lead to another server by now.
_MOVED_ON = (replies.ReadOnlyError, replies.MasterDownError)


class Wire:
    """One write and one read: `commands` on one connection; `fresh` asks for a new one."""

    __slots__ = ("calls", "fresh", "whole")

    def __init__(self, calls: Sequence[Call[Any]], whole: Sequence[bool], *, fresh: bool) -> None:
        self.calls = calls
        self.whole = whole
        self.fresh = fresh

    def commands(self, server: Server, deadline: float) -> Iterable[tuple[Word, ...]]:
        """What to send, on a connection whose handshake has told the server's time and policy."""
        server.check(self.calls)
        not_after = server.clock.at(deadline)
        return [call.words(not_after, whole=whole) for call, whole in zip(self.calls, self.whole, strict=True)]


def packed(call: Call[Any], server: Server, deadline: float) -> bytes:
    """As `Wire.commands`, for one Call that nothing speaks against: before there is a connection, and ready to send."""
    if call.script is None:
        if call.packed is None:
            call.packed = pack(call.args)
        return call.packed
    not_after = server.clock.at(deadline)
    if not _SHORTEST <= not_after < _LONGEST:
        return pack(call.words(not_after))
    around = call.around
    if around is not None:
        return b"%b%d%b" % (around[0], not_after, around[1])
    whole = pack(call.words(not_after))
    if call.kept and call.once:
        head, word, tail = whole.partition(b"$16\r\n%d" % not_after)
        call.around = head + word[:-16], tail
    return whole


class Pause:
    """Wait before the next attempt."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


Attempts = Generator[Wire | Pause, Any, list[Any]]


def attempts(calls: Sequence[Call[Any]], server: Server, deadline: float) -> Attempts:
    """Bring `calls` to their results by `deadline` (monotonic seconds); answers the parsed results.

    The server has admitted them. Raises StoreUnavailable, StoreRefused or OutcomeUnknown; with several calls the first
    error, after all were read.
    """
    done: list[Any] = [None] * len(calls)
    todo = list(range(len(calls)))
    whole: set[int] = set()
    fresh = resent = False
    pause = FIRST_PAUSE
    while todo:
        try:
            answers = yield Wire([calls[i] for i in todo], [i in whole for i in todo], fresh=fresh)
        except NotYet as refused:
            answers = [refused.answer] * len(todo)  # the handshake's answer holds for all that would have followed
        except Lost as lost:
            _judge(lost, [calls[i] for i in todo], server, last=resent or time.monotonic() >= deadline)
            fresh = resent = True  # one more time on a new connection: the old one may have died while idle
            continue
        todo, wait, fresh = _settle(todo, answers, done, whole, server)
        if todo and time.monotonic() + pause * wait >= deadline:
            server.failed(str(done[todo[0]]))
            raise _unavailable(calls[todo[0]], server, f"it answered only {done[todo[0]]}")
        if wait:
            yield Pause(pause * (0.5 + 0.5 * random.random()))  # noqa: S311 - jitter, not a secret
            pause = min(pause * 2, LONGEST_PAUSE)
    server.succeeded()
    return [
        _refuse(call, server, answer) if isinstance(answer, Exception) else call.parse(answer)
        for call, answer in zip(calls, done, strict=True)
    ]


def _judge(lost: Lost, calls: Sequence[Call[Any]], server: Server, *, last: bool) -> None:
    """Raise what a loss means for these calls, unless they may be sent again."""
    server.failed(str(lost))
    if lost.sent and any(call.once for call in calls):
        raise _unknown(calls[0], server, str(lost)) from None
    if last or not lost.sent:
        raise _unavailable(calls[0], server, str(lost)) from None


def _settle(
    todo: Sequence[int], answers: Sequence[Any], done: list[Any], whole: set[int], server: Server
) -> tuple[list[int], bool, bool]:
    """Note the answers: which calls go again, whether after a pause, and whether on a new connection."""
    again: list[int] = []
    wait = fresh = False
    for i, answer in zip(todo, answers, strict=True):
        done[i] = answer
        if not isinstance(answer, Exception):
            continue
        if isinstance(answer, replies.NoScriptError):
            whole.add(i)
        elif passes(answer):
            wait = True
            fresh = fresh or isinstance(answer, _MOVED_ON)
        elif not _is_late(answer, server):
            continue
        again.append(i)
    return again, wait, fresh


def _is_late(answer: Exception, server: Server) -> bool:
    """Whether a script refused to run after its deadline: then the server's clock was moved; learn it anew."""
    text = str(answer)
    if not text.startswith("LATE "):
        return False
    server.clock.learn(int(text[5:]), time.monotonic())
    return True


def _refuse(call: Call[Any], server: Server, answer: Exception) -> NoReturn:
    if isinstance(answer, (redis.exceptions.MovedError, redis.exceptions.AskError)):
        raise _noted(
            StoreRefused(
                f"{server.shown} is a node of a cluster, which is not supported yet; use a single server",
                store=call.store,
                call=call.name,
            ),
            call,
        )
    text = str(answer)
    advice = " (its memory is full)" if text.startswith("OOM") or isinstance(answer, replies.OutOfMemoryError) else ""
    raise _noted(
        StoreRefused(f"{server.shown} refused {call.name}: {text}{advice}", store=call.store, call=call.name), call
    )


def _unavailable(call: Call[Any], server: Server, reason: str) -> StoreError:
    return _noted(server.unavailable(reason, store=call.store, call=call.name), call)


def _unknown(call: Call[Any], server: Server, reason: str) -> StoreError:
    error = OutcomeUnknown(
        f"{server.shown} did not answer {call.name}, which may have been executed: {reason}",
        store=call.store,
        call=call.name,
    )
    return _noted(error, call)


def _noted(error: StoreError, call: Call[Any]) -> StoreError:
    # A traceback out of a runner shows no frame of the policy that built the Call.
    error.add_note(f"in {call!r}")
    return error
