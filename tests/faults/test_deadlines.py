"""P2: every call ends within its deadline + 100 ms, whatever the server, the network or the pool does."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import statistics
import time

import pytest

from tests.rig import Rig, TlsFront, aio_outcome, at_once, charge, command, get, outcome
from workerkit.errors import OutcomeUnknown, PoolExhausted, StoreError, StoreUnavailable
from workerkit.io.server import PoolOptions
from workerkit.testing.proxy import FaultProxy
from workerkit.testing.servers import start_server

TIMEOUT = 0.3
GRACE = 0.1
TRIES = 3
LONG = "x" * 50  # at a byte every 0.3 s this takes 15 s


class Timed:
    """Calls on either side, all at once, each timed; `late` is by how much each passed its deadline."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.late: list[float] = []

    def sync(self, *calls):
        return at_once([lambda call=call: self._timed(call) for call in calls])

    async def aio(self, *calls):
        return await asyncio.gather(*[self._aio_timed(call) for call in calls])

    def _timed(self, call):
        began = time.monotonic()
        answer = outcome(lambda: self.rig.runner.call(call))
        self.late.append(time.monotonic() - began - self.rig.timeout)
        return answer

    async def _aio_timed(self, call):
        began = time.monotonic()
        answer = await aio_outcome(self.rig.aio.call(call))
        self.late.append(time.monotonic() - began - self.rig.timeout)
        return answer

    def judge(self, what, answers):
        print(f"{what}: {len(answers)} calls, latest {max(self.late) * 1000:+.0f} ms of {TIMEOUT} s")
        assert all(isinstance(answer, StoreError) for answer in answers), answers
        # The middle one: this process may be paused by others on the same machine.
        assert statistics.median(self.late) < GRACE


@contextlib.contextmanager
def frozen(server, proxy):
    server.freeze()
    yield
    server.thaw()


@contextlib.contextmanager
def black_hole(server, proxy):
    proxy.black_hole()
    yield
    proxy.normal()


@contextlib.contextmanager
def dribbling(server, proxy):
    proxy.slice(0.3)
    yield
    proxy.normal()


@contextlib.contextmanager
def far_away(server, proxy):
    proxy.latency(3.0)
    yield
    proxy.normal()


@pytest.fixture(scope="module")
def slow_server(main_kind):
    with start_server(main_kind, tcp=True) as server:
        server.cli("SET", "key", LONG)
        yield server


@pytest.fixture(scope="module")
def tls_front(slow_server, tmp_path_factory):
    with TlsFront(slow_server, tmp_path_factory.mktemp("tls")) as front:
        yield front


@pytest.mark.parametrize("side", ["sync", "aio"])
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("fault", [frozen, black_hole, dribbling, far_away])
def test_deadlines_hold(slow_server, fault, warm, side):
    calls = [charge("count"), get("key"), get("key")]
    with FaultProxy(slow_server.url) as proxy:
        rig = Rig(proxy.url, timeout=TIMEOUT)
        timed = Timed(rig)

        async def story():
            if warm:
                await asyncio.gather(*[rig.aio.call(charge("count"), timeout=5.0) for _ in calls])
            with fault(slow_server, proxy):
                return await timed.aio(*calls)

        if side == "aio":
            answers = asyncio.run(story())
        else:
            if warm:
                rig.warm(len(calls))
            with fault(slow_server, proxy):
                answers = timed.sync(*calls)
    timed.judge(f"{fault.__name__}, {'warm' if warm else 'cold'}, {side}", answers)
    assert isinstance(answers[0], OutcomeUnknown if warm else StoreUnavailable)


@pytest.mark.parametrize("side", ["sync", "aio"])
def test_deadlines_hold_in_a_tls_handshake_that_dribbles(tls_front, side):
    with FaultProxy(f"redis://localhost:{tls_front.port}") as proxy:
        proxy.slice(0.3)
        timed = Timed(Rig(tls_front.url().replace(str(tls_front.port), str(proxy.port)), timeout=TIMEOUT))
        calls = [get("key")] * TRIES
        answers = timed.sync(*calls) if side == "sync" else asyncio.run(timed.aio(*calls))
    timed.judge(f"TLS handshake, {side}", answers)


@pytest.mark.parametrize("side", ["sync", "aio"])
@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_deadlines_hold_while_sending_what_nobody_reads(slow_server, tls_front, transport, side):
    rig = Rig(slow_server.url if transport == "tcp" else tls_front.url(), timeout=TIMEOUT)
    huge = command("SET", "huge", b"x" * 20_000_000)
    timed = Timed(rig)

    async def story():
        await rig.aio.call(get("key"), timeout=5.0)
        with frozen(slow_server, None):
            return await timed.aio(huge)

    if side == "aio":
        answers = asyncio.run(story())
    else:
        rig.runner.call(get("key"), timeout=5.0)
        with frozen(slow_server, None):
            answers = timed.sync(huge)
    timed.judge(f"20 MB over {transport}, {side}", answers)


@pytest.mark.parametrize("side", ["sync", "aio"])
def test_deadlines_hold_where_nobody_accepts(side):
    with socket.socket() as listening, contextlib.ExitStack() as queue:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(3):  # fill its queue, so that the next connection gets no answer at all
            filler = queue.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listening.getsockname())
        timed = Timed(Rig(f"redis://127.0.0.1:{listening.getsockname()[1]}", timeout=TIMEOUT))
        calls = [get("key")] * TRIES
        answers = timed.sync(*calls) if side == "sync" else asyncio.run(timed.aio(*calls))
    timed.judge(f"full backlog, {side}", answers)
    assert all("imeout" in str(answer) or "no answer" in str(answer) for answer in answers)


def test_waiting_for_a_connection_is_bounded(fresh_server):
    """One connection, 100 threads: whoever gets none in time hears how it stood."""
    rig = Rig(fresh_server.url, timeout=3.0, options=PoolOptions(minimum=1, maximum=1, wait=0.3))
    rig.warm()
    fresh_server.freeze()
    began = time.monotonic()
    answers = at_once([lambda: rig.runner.call(get("key"), timeout=1.0)] * 100)
    took = time.monotonic() - began
    fresh_server.thaw()
    exhausted = [answer for answer in answers if isinstance(answer, PoolExhausted)]
    longest = max(each.waited for each in exhausted)
    print(f"{len(exhausted)} of 100 exhausted after at most {longest:.2f} s: {exhausted[0]}")
    assert len(exhausted) == 99
    assert took < 1.0 + 0.5  # a hundred threads on a busy machine, but bounded
    assert {(each.in_use, each.limit) for each in exhausted} == {(1, 1)}
    assert statistics.median(each.waited for each in exhausted) < 0.3 + GRACE
    assert "workerkit_pool_max" in str(exhausted[0])
    assert rig.runner.call(get("key")) is None
    assert (rig.pool.size, rig.pool.in_use) == (1, 0)


def test_waiting_coroutines_are_bounded_too(fresh_server):
    rig = Rig(fresh_server.url, timeout=3.0, options=PoolOptions(minimum=1, maximum=1, wait=0.3))

    async def story():
        await rig.aio.call(get("key"))
        fresh_server.freeze()
        answers = await asyncio.gather(*[aio_outcome(rig.aio.call(get("key"), timeout=1.0)) for _ in range(100)])
        fresh_server.thaw()
        assert await rig.aio.call(get("key")) is None
        return answers, rig.aio.pools["cache"].in_use

    answers, in_use = asyncio.run(story())
    exhausted = [answer for answer in answers if isinstance(answer, PoolExhausted)]
    assert len(exhausted) == 99
    assert in_use == 0
    assert statistics.median(each.waited for each in exhausted) < 0.3 + GRACE
