"""What the listeners tell, on every kind of server; the sync and the async one under the same tests."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import statistics
import threading
import time

import pytest

from tests.rig import Child, Rig, TlsFront, command, get, until
from workerkit.cache.local import L1, Local
from workerkit.core.codec import Codec
from workerkit.core.envelope import Envelope
from workerkit.core.events import BackgroundTrouble
from workerkit.io.aiolistener import BREATH, AioListener
from workerkit.io.listener import Channel, Listener, Session
from workerkit.io.perloop import PerLoop
from workerkit.testing.servers import start_server

PREFIX, TAGS = "wk:c:{tests.f-ab12cd34:", "wk:c:{tag:"
KEY, LEASE, TAG = f"{PREFIX}0123}}:v", f"{PREFIX}0123}}:l", f"{TAGS}4567}}:t"


class LoopThread:
    """An AioListener with the verbs of a Listener, on a loop of its own."""

    def __init__(self, server, **options):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.listener = self.run(self.make(server, options))

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(10)

    async def make(self, server, options):
        return AioListener(server, **options)

    def follow(self, *words):
        self.run(self.call(self.listener.follow, *words))

    def start(self):
        self.run(self.call(self.listener.start))

    async def call(self, act, *words):
        return act(*words)

    def stop(self):
        self.run(self.listener.stop())

    def end(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


KINDS = {"sync": Listener, "async": LoopThread}


@pytest.fixture(params=KINDS)
def listen(request):
    """`listen(rig)`: a listener of either kind."""
    with contextlib.ExitStack() as stack:

        def start(rig, **options):
            listener = KINDS[request.param](rig.server, **options)
            if isinstance(listener, LoopThread):
                stack.callback(listener.end)
            stack.callback(listener.stop)
            return listener

        yield start


@pytest.fixture(scope="module")
def running():
    """`running(kind)`: the module's server of this kind."""
    with contextlib.ExitStack() as stack:
        yield functools.cache(lambda kind: stack.enter_context(start_server(kind)))


@pytest.fixture
def other_server(server_kind, running):
    """A server of every kind in turn, empty and with nobody on it; not to be killed or reconfigured."""
    server = running(server_kind)
    server.cli("FLUSHALL")
    until(lambda: clients(server) == 0)
    return server


@pytest.fixture
def rig(other_server):
    made = Rig(other_server.url)
    yield made
    made.close()


def local():
    return Local(L1(), Codec().load)


def followed(listener, *prefixes):
    """A Local that is open."""
    made = local()
    listener.follow(made, *(prefixes or (PREFIX, TAGS)))
    until(lambda: made.is_open)
    return made


def read(rig, local, key=KEY, *args, tags=(), generation=None):
    """Read an entry as a caller does; whether it was kept."""
    if generation is None:
        generation = local.generation
    body = rig.runner.call(get(key))
    entry = Envelope(b"12345678", 0, 0, 0, 0, (), 1, 0, body)
    return local.insert(key, args, {}, entry, Codec().load(body), until=float("inf"), generation=generation, tags=tags)


def settle(rig, local):
    """Wait until all changes up to now were told."""
    mark = local.generation
    rig.runner.call(command("SET", f"{TAGS}settled}}:t", "1"))
    until(lambda: local.generation > mark)


CHANGES = {
    "set": [("SET", KEY, "2")],
    "delete": [("DEL", KEY)],
    "unlink": [("UNLINK", KEY)],
    "expire by a script": [("EVAL", "return redis.call('PEXPIRE', KEYS[1], 60000)", 1, KEY)],
    "delete by a script": [("EVAL", "return redis.call('DEL', KEYS[1])", 1, KEY)],
    "in a transaction": [("EVAL", "redis.call('SET', KEYS[1], 2); redis.call('SET', KEYS[1], 3)", 1, KEY)],
    "flushall": [("FLUSHALL",)],
    "flushdb": [("FLUSHDB", "ASYNC")],
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_clients_change_drops_the_entry(rig, other_server, listen, change):
    kept = followed(listen(rig))
    other_server.cli("SET", KEY, "1")
    settle(rig, kept)
    assert read(rig, kept)
    for words in CHANGES[change]:
        other_server.cli(*words)
    until(lambda: len(kept) == 0)
    settle(rig, kept)
    other_server.cli("SET", KEY, "9")
    settle(rig, kept)
    assert read(rig, kept)  # it goes on
    assert kept.find_key(KEY, (), {}).get() == 9


def test_leases_counters_and_other_functions_drop_nothing(rig, other_server, listen):
    kept = followed(listen(rig))
    other_server.cli("SET", KEY, "1")
    settle(rig, kept)
    assert read(rig, kept)
    for key in (LEASE, f"{PREFIX}all}}:n", KEY.replace("tests.f", "tests.ff"), f"{PREFIX}other}}:v", "unrelated"):
        other_server.cli("SET", key, "1")
    settle(rig, kept)
    assert kept.find_key(KEY, (), {}) is not None


def test_a_tag_drops_what_is_under_it(rig, other_server, listen):
    kept = followed(listen(rig))
    second = f"{PREFIX}other}}:v"
    other_server.cli("MSET", KEY, "1", second, "1")
    settle(rig, kept)
    assert read(rig, kept, tags=(TAG,))
    assert read(rig, kept, second)
    other_server.cli("SET", TAG, "1")
    until(lambda: len(kept) == 1)
    assert kept.find_key(second, (), {}) is not None


def test_an_entry_that_changed_while_it_was_read_is_not_kept(rig, other_server, listen):
    kept = followed(listen(rig))
    before = kept.generation
    other_server.cli("SET", KEY, "1")
    until(lambda: kept.generation > before)
    assert not read(rig, kept, generation=before)
    assert read(rig, kept)


def test_prefixes_and_followers_may_come_later(rig, other_server, listen):
    listener = listen(rig, interval=60.0, timeout=60.0)  # nothing is waited for
    first = followed(listener, PREFIX)
    same, tagged, both = followed(listener, PREFIX), followed(listener, TAGS), followed(listener, TAGS, PREFIX)
    other_server.cli("SET", KEY, "1")
    until(lambda: all(read(rig, each) for each in (first, same, both)))
    assert read(rig, tagged, tags=(TAG,))
    other_server.cli("SET", KEY, "2")
    until(lambda: len(first) == len(same) == len(both) == 0)
    assert len(tagged) == 1
    other_server.cli("SET", TAG, "2")
    until(lambda: len(tagged) == 0)


def test_many_prefixes(rig, other_server, listen):
    """More than fits into one write."""
    listener = listen(rig)
    names = [f"wk:c:{{{'long' * 40}{number}:" for number in range(3000)]
    followed(listener, *names)
    last = followed(listener, PREFIX)
    assert read_after_set(rig, other_server, last)


def read_after_set(rig, other_server, kept):
    other_server.cli("SET", KEY, "1")
    return until(lambda: read(rig, kept))


def clients(server):
    return str(server.cli("CLIENT", "LIST")).count("name=workerkit")


def test_it_has_a_connection_of_its_own_and_ends_it(rig, other_server, listen):
    listener = listen(rig)
    threads = threading.active_count()
    made = followed(listener)
    assert rig.pool.size == 0
    assert clients(other_server) == 1
    ours = [each.daemon for each in threading.enumerate() if each.name == "workerkit-l1"]
    assert ours == ([True] if isinstance(listener, Listener) else [])
    began = time.monotonic()
    listener.stop()
    assert time.monotonic() - began < 0.5
    assert threading.active_count() == threads
    assert not made.is_open
    until(lambda: clients(other_server) == 0)
    listener.start()
    until(lambda: made.is_open)
    assert clients(other_server) == 1


def test_nothing_starts_before_the_first_use(rig, other_server):
    threads = threading.active_count()
    listener = Listener(rig.server)
    listener.stop()
    assert threading.active_count() == threads
    assert clients(other_server) == 0


def test_several_threads_start_one_listener(rig, other_server):
    listener = Listener(rig.server)
    made = [local() for _ in range(8)]
    threads = [threading.Thread(target=listener.follow, args=(each, PREFIX)) for each in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: all(each.is_open for each in made))
    assert clients(other_server) == 1
    listener.stop()


def test_tcp_with_a_user_a_password_and_a_database(private_server, listen):
    server = private_server(tcp=True)
    server.cli("ACL", "SETUSER", "worker", "on", ">p:ss", "~wk:*", "+@all")
    rig = Rig(f"redis://worker:p%3Ass@127.0.0.1:{server.port}/3")
    kept = followed(listen(rig))
    rig.runner.call(command("SET", KEY, "1"))
    assert until(lambda: read(rig, kept))
    rig.runner.call(command("SET", KEY, "2"))
    until(lambda: len(kept) == 0)
    rig.close()


def test_tls(fresh_server, listen, tmp_path):
    with TlsFront(fresh_server, tmp_path / "tls") as front:
        rig = Rig(front.url())
        listener = listen(rig)
        kept = followed(listener)
        fresh_server.cli("SET", KEY, "1")
        assert until(lambda: read(rig, kept))
        fresh_server.cli("MSET", KEY, "2", *[word for n in range(3000) for word in (f"{PREFIX}{n}}}:v", "1")])
        until(lambda: len(kept) == 0)
        listener.stop()
        rig.close()


def test_a_user_who_may_not_listen_has_no_entries_and_no_errors(private_server, listen):
    server = private_server()
    server.cli("ACL", "SETUSER", "worker", "on", ">s3cret", "~wk:*", "+@all", "-client")
    rig = Rig(f"unix://worker:s3cret@{server.socket}")
    made = local()
    listener = listen(rig)
    listener.follow(made, PREFIX)
    until(lambda: rig.events)
    assert not made.is_open
    server.cli("ACL", "SETUSER", "worker", "+client")
    until(lambda: made.is_open)
    trouble = [event for event in rig.events if isinstance(event, BackgroundTrouble)]
    assert len(trouble) == 1  # one an outage, however often it is tried
    assert "s3cret" not in str(trouble[0])


def test_a_wrong_password_is_told_as_what_it_is(private_server, listen):
    server = private_server()
    server.cli("ACL", "SETUSER", "worker", "on", ">s3cret", "~wk:*", "+@all")
    rig = Rig(f"unix://worker:wr0ng@{server.socket}")
    listen(rig).follow(local(), PREFIX)
    (event,) = until(lambda: rig.events)
    assert isinstance(event, BackgroundTrouble)
    assert "wrong or missing user or password; write them into workerkit_redis_url" in event.reason
    assert "wr0ng" not in str(event)


class Clocked:
    """A follower that writes down when it was told what."""

    def __init__(self):
        self.is_open = False
        self.told = {}

    def open(self):
        self.is_open = True

    def close(self):
        self.is_open = False

    def drop(self, key):
        self.told[key] = time.monotonic()

    def forked(self):
        self.told = {}


@pytest.mark.parametrize("kind", KINDS)
def test_how_soon_another_process_is_told(rig, other_server, kind):
    keys = [f"{PREFIX}{number}}}:v" for number in range(500)]

    def other_process():
        follower = Clocked()
        listener = KINDS[kind](rig.server)
        listener.follow(follower, PREFIX)
        until(lambda: follower.is_open)
        Rig(other_server.url).runner.call(command("SET", "child", "ready"))
        until(lambda: len(follower.told) == len(keys))
        listener.stop()
        return follower.told

    child = Child(other_process)
    until(lambda: other_server.cli("GET", "child"))
    sent = {}
    for key in keys:
        sent[key] = time.monotonic()
        rig.runner.call(command("SET", key, "1"))
    told = child.answer()
    delays = sorted((told[key] - sent[key]) * 1000 for key in keys)
    p50, p99 = statistics.median(delays), delays[int(len(delays) * 0.99)]
    print(f"{kind}, {rig.server.shown}: told after p50 {p50:.2f} ms, p99 {p99:.2f} ms, at most {delays[-1]:.2f} ms")
    assert p50 < 50


def test_nobody_is_open_before_all_its_prefixes_are_heard(rig):
    channel = Channel(rig.server)
    session = Session(rig.server, channel, 1.0, 1.0)
    early, late = local(), local()
    channel.follow(early, (PREFIX,))
    session.outgoing(0.0)
    session.incoming(b"%0\r\n*2\r\n$1\r\n1\r\n$1\r\n2\r\n$0\r\n\r\n")  # HELLO, TIME, INFO
    assert not early.is_open
    channel.follow(late, (TAGS, PREFIX))
    session.outgoing(0.1)
    session.incoming(b"+OK\r\n")
    assert (early.is_open, late.is_open) == (True, False)
    session.outgoing(0.2)
    session.incoming(b"+PONG\r\n")
    assert not late.is_open
    session.incoming(b"+OK\r\n")
    assert late.is_open
    channel.close()
    assert (early.is_open, late.is_open) == (False, False)


# What is the loop's alone


def test_coroutines_that_never_wait_are_told_when_they_breathe(rig, other_server):
    async def story():
        listener = AioListener(rig.server)
        kept = local()
        listener.follow(kept, PREFIX, TAGS)
        async with asyncio.timeout(10):
            while not kept.is_open:  # noqa: ASYNC110 - it has no event
                await asyncio.sleep(0.001)
        body = b"1"
        entry = Envelope(b"12345678", 0, 0, 0, 0, (), 1, 0, body)
        assert kept.insert(KEY, (1,), {}, entry, 1, until=float("inf"), generation=kept.generation)
        other_server.cli("SET", KEY, "2")
        other_server.cli("PING")
        assert kept.find((1,), {}) is not None  # nobody could tell
        began = time.monotonic()
        assert listener.breath < began
        for _ in range(100):
            await listener.breathe()
        assert kept.find((1,), {}) is None
        assert began < listener.breath <= time.monotonic() + BREATH
        await listener.stop()

    asyncio.run(story())


def test_every_loop_has_its_own():
    made = []

    def make():
        made.append(object())
        return made[-1]

    per_loop = PerLoop(make)

    async def twice():
        assert per_loop.here() is per_loop.here()
        return per_loop.here()

    first, second = asyncio.run(twice()), asyncio.run(twice())
    assert first is not second
    assert len(made) == 2
    assert len(per_loop._by_loop) == 1  # a loop that is closed is not held on to


def test_the_end_of_a_loop_ends_its_listener(rig, other_server):
    kept = local()

    async def story():
        AioListener(rig.server).follow(kept, PREFIX)
        while not kept.is_open:  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)

    asyncio.run(story())
    assert not kept.is_open
    until(lambda: clients(other_server) == 0)
