"""Each way of the proxy to break a connection, seen from a bare socket."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

import pytest

from workerkit.errors import DefinitionError
from workerkit.testing.proxy import FaultProxy

PING, PONG = b"PING\r\n", b"+PONG\r\n"


@pytest.fixture
def proxy(redis_server, redis_url):
    with FaultProxy(redis_url) as proxy:
        yield proxy


@pytest.fixture
def link(proxy):
    with connect(proxy) as link:
        link.sendall(PING)
        assert read(link, len(PONG)) == PONG
        yield link


def connect(proxy):
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def read(link, count):
    """So many bytes, or fewer when the stream ends before."""
    got = b""
    while len(got) < count and (more := link.recv(count - len(got))):
        got += more
    return got


def test_it_passes_everything_on_and_counts(proxy, link):
    with connect(proxy) as other:
        other.sendall(PING)
        assert read(other, len(PONG)) == PONG
    assert (proxy.connections, proxy.requests, proxy.bytes_up) == (2, 2, 2 * len(PING))
    assert proxy.url == f"redis://127.0.0.1:{proxy.port}/0"


def test_it_stands_before_a_tcp_server_too(private_server):
    with FaultProxy(private_server(tcp=True).url) as proxy, connect(proxy) as link:
        link.sendall(PING)
        assert read(link, len(PONG)) == PONG


def test_a_large_value_passes_unchanged(proxy, link, redis_server):
    value = "x" * 3_000_000
    redis_server.cli("SET", "large", value)
    link.sendall(b"GET large\r\n")
    head = f"${len(value)}\r\n".encode()
    assert read(link, len(head) + len(value) + 2) == head + value.encode() + b"\r\n"


def test_latency_delays_the_request(proxy, link):
    proxy.latency(0.1)
    begin = time.monotonic()
    link.sendall(PING)
    assert read(link, len(PONG)) == PONG
    assert time.monotonic() - begin >= 0.1


def test_a_black_hole_swallows_and_delivers_late(proxy, link, redis_server):
    proxy.black_hole()
    link.sendall(b"INCR late\r\n")
    link.settimeout(0.1)
    with pytest.raises(TimeoutError):
        link.recv(1)
    assert redis_server.cli("EXISTS", "late") == 0
    proxy.normal()
    link.settimeout(10)
    assert read(link, 4) == b":1\r\n"


def test_reset_breaks_open_and_new_connections(proxy, link):
    proxy.reset()
    with pytest.raises(ConnectionResetError):
        link.recv(1)
    with pytest.raises(ConnectionResetError), connect(proxy) as other:
        other.recv(1)
    proxy.normal()
    with connect(proxy) as healed:
        healed.sendall(PING)
        assert read(healed, len(PONG)) == PONG


def test_half_a_reply_comes_of_a_command_that_was_executed(proxy, link, redis_server):
    proxy.half_reply(2)
    link.sendall(b"INCR done\r\n")
    assert read(link, 100) == b":1"
    assert redis_server.cli("GET", "done") == "1"


def test_half_a_reply_can_be_nothing(proxy, link, redis_server):
    proxy.half_reply(0)
    link.sendall(b"INCR done\r\n")
    assert read(link, 100) == b""
    assert redis_server.cli("GET", "done") == "1"


def test_slices_come_one_by_one(proxy, link):
    proxy.slice(0.02)
    begin = time.monotonic()
    link.sendall(PING)
    assert read(link, len(PONG)) == PONG
    assert time.monotonic() - begin >= 0.02 * (len(PONG) - 1)


def test_slicing_ends_with_its_mode(proxy, link):
    proxy.slice(600)
    link.sendall(PING)
    assert read(link, 1) == PONG[:1]
    proxy.normal()
    assert read(link, len(PONG) - 1) == PONG[1:]


def test_refuse_ends_and_refuses_until_it_is_over(proxy, link):
    proxy.refuse()
    assert link.recv(1) == b""
    with pytest.raises(ConnectionRefusedError):
        connect(proxy)
    proxy.refuse()  # twice is once
    proxy.normal()
    with connect(proxy) as healed:
        healed.sendall(PING)
        assert read(healed, len(PONG)) == PONG


def test_a_server_that_is_gone_ends_the_connection(fresh_server):
    with FaultProxy(fresh_server.url) as proxy:
        fresh_server.kill()
        with connect(proxy) as link:
            assert link.recv(1) == b""
        fresh_server.restart()
        with connect(proxy) as link:
            link.sendall(PING)
            assert read(link, len(PONG)) == PONG


@pytest.mark.parametrize("mode", ["normal", "black_hole", "refuse"])
def test_it_leaves_no_thread_in_any_mode(redis_server, mode):
    before = threading.active_count()
    with FaultProxy(redis_server.url) as proxy:
        link = connect(proxy)
        getattr(proxy, mode)()
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    with link, contextlib.suppress(ConnectionResetError):
        assert link.recv(1) == b""


@pytest.mark.parametrize("upstream", ["localhost:6379", "redis://localhost", "unix://"])
def test_a_bad_upstream_is_refused(upstream):
    with pytest.raises(DefinitionError, match="upstream"):
        FaultProxy(upstream)
