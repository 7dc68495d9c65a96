"""What happens to a process's entries when the connection that keeps them coherent is lost, in every way there is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time

import pytest

from tests.rig import Child, Rig, get, until
from workerkit.cache.local import L1, Local
from workerkit.core.codec import Codec
from workerkit.core.envelope import Envelope
from workerkit.core.events import BackgroundTrouble
from workerkit.io.aiolistener import AioListener
from workerkit.io.listener import Listener
from workerkit.testing.proxy import FaultProxy
from workerkit.testing.servers import KINDS

PREFIX = "wk:c:{tests.f-ab12cd34:"
KEY = f"{PREFIX}0123}}:v"
INTERVAL, TIMEOUT = 0.3, 0.2
SLACK = 0.1
HEAVY = os.environ.get("WORKERKIT_HEAVY") == "1"
KILLS, FORKS = (10, 20) if HEAVY else (4, 8)
# What is the network's is the same on every kind of server.
ONE_KIND = ["valkey", *(pytest.param(kind, marks=pytest.mark.heavy) for kind in KINDS if kind != "valkey")]


class LoopThread(AioListener):
    """An AioListener on a loop of its own, used as a Listener is."""

    def __new__(cls, *args, **options):
        made = super().__new__(cls)
        made.loop = asyncio.new_event_loop()
        made.thread = threading.Thread(target=made.loop.run_forever)
        made.thread.start()
        return made

    def follow(self, *words):
        self.loop.call_soon_threadsafe(super().follow, *words)

    def stop(self):
        asyncio.run_coroutine_threadsafe(super().stop(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(params=[Listener, LoopThread], ids=["sync", "async"])
def listen(request):
    """`listen(rig, follower)`: a listener of either kind that `follower` follows."""
    with contextlib.ExitStack() as stack:

        def start(rig, follower, interval=INTERVAL, timeout=TIMEOUT, *, wait=True):
            listener = request.param(rig.server, interval=interval, timeout=timeout)
            stack.callback(listener.stop)
            listener.follow(follower, PREFIX)
            until(lambda: follower.is_open or not wait)
            return listener

        yield start


class Watched(Local):
    """A Local that writes down when it was closed."""

    def __init__(self):
        super().__init__(L1(), Codec().load)
        self.closed = []

    def close(self):
        super().close()
        self.closed.append(time.monotonic())


def read(rig, local, body=None):
    """Read the entry as a caller does; whether it was kept."""
    generation = local.generation
    body = body or rig.runner.call(get(KEY))
    entry = Envelope(b"12345678", 0, 0, 0, 0, (), 1, 0, body)
    return local.insert(KEY, (1,), {}, entry, Codec().load(body), until=float("inf"), generation=generation)


def filled(rig, server, local):
    """Have the entry in Redis and in the process."""
    before = local.generation
    server.cli("SET", KEY, "1")
    until(lambda: local.generation > before)
    assert until(lambda: read(rig, local))


def is_coherent_again(rig, server, local):
    """It opens, and a change is told as before."""
    until(lambda: local.is_open)
    filled(rig, server, local)
    server.cli("SET", KEY, "2")
    until(lambda: not len(local))
    until(lambda: read(rig, local))
    return local.find((1,), {}).get() == 2


def trouble(rig):
    return [event for event in rig.events if isinstance(event, BackgroundTrouble)]


@pytest.fixture
def rig(fresh_server):
    made = Rig(fresh_server.url)
    yield made
    made.close()


def test_a_killed_connection_empties_at_once(other_server, listen):
    rig, local = Rig(other_server.url), Watched()
    listen(rig, local, 60.0, 60.0)  # found out by the end of the stream, not by a PING
    for round_ in range(KILLS):
        filled(rig, other_server, local)
        killed = time.monotonic()
        other_server.cli("CLIENT", "KILL", "TYPE", "normal")
        until(lambda number=round_: len(local.closed) > number)
        took = local.closed[-1] - killed
        assert took < 1.0
        assert is_coherent_again(rig, other_server, local)
    print(f"{other_server.kind}: emptied {took * 1000:.1f} ms after CLIENT KILL, {len(local.closed)} of {KILLS} times")
    assert len(local.closed) == KILLS
    rig.close()


@pytest.mark.parametrize("server_kind", ONE_KIND, indirect=True)
def test_a_black_hole_empties_in_time(other_server, listen):
    rig, local, took = Rig(other_server.url), Watched(), []
    with FaultProxy(other_server.url) as proxy:
        listen(Rig(proxy.url), local)
        for round_ in range(5):
            filled(rig, other_server, local)
            time.sleep(round_ * INTERVAL / 5)  # at any time between two PINGs
            proxy.black_hole()
            began = time.monotonic()
            other_server.cli("SET", KEY, "unheard of")
            until(lambda number=round_: len(local.closed) > number)
            assert local.find((1,), {}) is None
            took.append(local.closed[-1] - began)
            proxy.normal()
            assert is_coherent_again(rig, other_server, local)
        assert len(local.closed) == 5
    print(f"{other_server.kind}: emptied {max(took):.3f} s after a black hole began, at most; {len(took)} times")
    assert max(took) < INTERVAL + TIMEOUT + SLACK
    rig.close()


def test_a_line_too_slow_to_be_trusted_counts_as_lost(fresh_server, rig, listen):
    local = Watched()
    with FaultProxy(fresh_server.url) as proxy:
        listen(Rig(proxy.url), local)
        filled(rig, fresh_server, local)
        proxy.slice(0.05)  # something is heard all the time, and everything comes late
        began = time.monotonic()
        fresh_server.cli("SET", KEY, "2")
        until(lambda: local.find((1,), {}) is None)
        assert local.closed[-1] - began < INTERVAL + TIMEOUT + SLACK
        proxy.normal()
        assert is_coherent_again(rig, fresh_server, local)


def test_half_a_message_is_a_loss(fresh_server, rig, listen):
    local = Watched()
    with FaultProxy(fresh_server.url) as proxy:
        listen(Rig(proxy.url), local, 60.0, 60.0)
        filled(rig, fresh_server, local)
        proxy.half_reply(20)
        fresh_server.cli("SET", KEY, "2")
        until(lambda: local.find((1,), {}) is None)
        proxy.normal()
        assert is_coherent_again(rig, fresh_server, local)


def test_a_reset_connection(fresh_server, rig, listen):
    local, proxied = Watched(), None
    with FaultProxy(fresh_server.url) as proxy:
        proxied = Rig(proxy.url)
        listen(proxied, local, 60.0, 5.0)
        filled(rig, fresh_server, local)
        proxy.reset()
        until(lambda: not local.is_open)
        connections = proxy.connections
        until(lambda: proxy.connections >= connections + 4)
        assert len(trouble(proxied)) == 1
        assert not local.is_open
        assert not read(rig, local)
        proxy.normal()
        assert is_coherent_again(rig, fresh_server, local)


def test_a_server_that_crashes_and_returns(other_server, listen):
    rig, local = Rig(other_server.url), Watched()
    listen(rig, local)
    filled(rig, other_server, local)
    other_server.kill()
    until(lambda: not local.is_open)
    assert local.find((1,), {}) is None
    other_server.start()
    back = time.monotonic()
    until(lambda: local.is_open)
    took = time.monotonic() - back
    print(f"{other_server.kind}: open again {took:.2f} s after the server was back")
    assert took < 1.5
    assert is_coherent_again(rig, other_server, local)
    assert len(trouble(rig)) == 1
    rig.close()


def test_a_frozen_server(fresh_server, rig, listen):
    local = Watched()
    listen(rig, local)
    filled(rig, fresh_server, local)
    frozen = time.monotonic()
    fresh_server.freeze()
    try:
        until(lambda: not local.is_open)
        assert local.closed[-1] - frozen < INTERVAL + TIMEOUT + SLACK
    finally:
        fresh_server.thaw()
    assert is_coherent_again(rig, fresh_server, local)


def test_a_server_that_is_down_from_the_beginning(fresh_server, rig, listen):
    local = Watched()
    fresh_server.kill()
    listen(rig, local, wait=False)
    until(lambda: trouble(rig))
    assert not read(rig, local, b"1")
    fresh_server.start()
    assert is_coherent_again(rig, fresh_server, local)
    assert len(trouble(rig)) == 1


# Forks


def listening(server):
    """The server's names for the connections that listen."""
    lines = str(server.cli("CLIENT", "LIST")).splitlines()
    return {line.split()[0] for line in lines if " flags=tB" in line}


def test_a_child_begins_empty_and_listens_for_itself(fresh_server, rig):
    local = Watched()
    listener = Listener(rig.server)
    listener.follow(local, PREFIX)
    until(lambda: local.is_open)
    filled(rig, fresh_server, local)
    parents = listening(fresh_server)

    def child():
        first = [local.is_open, len(local), threading.active_count()]
        listener.start()
        until(lambda: local.is_open)
        ids = sorted(listening(fresh_server))
        again = is_coherent_again(rig, fresh_server, local)
        listener.stop()
        return [first, ids, again]

    assert local.find((1,), {}) is not None
    first, ids, again = Child(child).answer()
    assert first == [False, 0, 1]
    assert len(set(ids) - parents) == 1
    assert again is True
    assert local.closed == []  # the parent's own went on through all of it
    assert listening(fresh_server) == parents
    assert is_coherent_again(rig, fresh_server, local)
    assert local.closed == []
    listener.stop()


def test_forks_in_the_middle_of_everything(fresh_server, rig):
    """The parent's listener and readers are busy at every fork; no child hangs, none believes its parent's entries."""
    local, over = Watched(), threading.Event()
    listener = Listener(rig.server)
    listener.follow(local, PREFIX)
    until(lambda: local.is_open)

    def write():
        while not over.is_set():
            fresh_server.cli("MSET", *[word for n in range(50) for word in (f"{PREFIX}{n}}}:v", "1")])

    def look():
        while not over.is_set():
            if local.find((1,), {}) is None:
                read(rig, local)

    fresh_server.cli("SET", KEY, "1")
    threads = [threading.Thread(target=act) for act in (write, look, look)]
    for thread in threads:
        thread.start()

    def child():
        before = [local.is_open, len(local)]
        listener.start()
        until(lambda: local.is_open)
        until(lambda: read(rig, local))
        return [before, local.find((1,), {}).get()]

    try:
        answers = [Child(child).answer() for _ in range(FORKS)]
    finally:
        over.set()
        for thread in threads:
            thread.join()
    print(f"{FORKS} forks: {answers.count(None)} children hung")
    assert answers == [[[False, 0], 1]] * FORKS
    assert is_coherent_again(rig, fresh_server, local)
    listener.stop()


def test_the_end_of_a_child_is_not_the_end_of_its_parents_connection(fresh_server, rig):
    local = Watched()
    listener = Listener(rig.server)
    listener.follow(local, PREFIX)
    until(lambda: local.is_open)
    assert Child(listener.stop).answer() is None
    filled(rig, fresh_server, local)
    fresh_server.cli("SET", KEY, "2")
    until(lambda: not len(local))
    assert local.closed == []
    listener.stop()
