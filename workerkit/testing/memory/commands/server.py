"""The server itself, and the handshake with it."""

from __future__ import annotations

from workerkit.testing.memory.commands.registry import Words, command, text
from workerkit.testing.memory.replies import OK, Refused, Reply, Status
from workerkit.testing.memory.store import Store

# What a server without a bound on its memory says.
_INFO = b"# Server\r\nredis_version:7.2.4\r\n# Memory\r\nmaxmemory:0\r\nmaxmemory_policy:noeviction\r\n"


@command("PING", -1)
def ping(store: Store, words: Words) -> Reply:
    return words[0] if words else Status(b"PONG")


@command("ECHO", 2)
def echo(store: Store, words: Words) -> Reply:
    return words[0]


@command("TIME", 1)
def time(store: Store, words: Words) -> Reply:
    seconds, us = divmod(store.now_us, 1_000_000)
    return [str(seconds).encode(), str(us).encode()]


@command("INFO", -1)
def info(store: Store, words: Words) -> Reply:
    return _INFO


@command("HELLO", -1)
def hello(store: Store, words: Words) -> Reply:
    if not words or words[0] != b"3":
        raise Refused("NOPROTO workerkit's memory speaks RESP3 alone: write HELLO 3")
    return {b"server": b"workerkit-memory", b"proto": 3, b"role": b"master"}


@command("SELECT", 2)
def select(store: Store, words: Words) -> Reply:
    return OK


@command("CLIENT", -2)
def client(store: Store, words: Words) -> Reply:
    if words[0].upper() in {b"SETINFO", b"SETNAME"}:
        return OK
    raise Refused(f"ERR workerkit's memory has no CLIENT {text(words[0])}")
