"""The health of a Redis server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workerkit.core.call import Call
from workerkit.core.call import Store as Name
from workerkit.core.flow import Flow
from workerkit.errors import StoreError, StoreRefused
from workerkit.io.server import Server
from workerkit.top.asking import Answers, Questions, ask
from workerkit.top.snapshot import Store

_INFO = "top.info"


def ask_with_info(store: Name, questions: Questions) -> Flow[tuple[Answers, Mapping[str, str] | None]]:
    """The answers, and what the server says of itself; None where its user may not ask."""
    info = Call(_INFO, store, _info, args=("INFO",))
    try:
        answers = yield from ask({_INFO: info, **questions})
        return answers, answers[_INFO]
    except StoreRefused as refused:
        if refused.call != _INFO:
            raise
    return (yield from ask(questions)), None


def well(roles: tuple[str, ...], server: Server, ping: float, info: Mapping[str, str] | None) -> Store:
    """A server that has answered."""
    if info is None:
        return Store(roles, server.shown, ping)
    kind, version = ("valkey", info["valkey_version"]) if "valkey_version" in info else ("redis", info["redis_version"])

    def number(name: str) -> int:
        return int(info.get(name, 0))

    return Store(
        roles,
        server.shown,
        ping,
        hidden=False,
        software=f"{kind} {version}",
        uptime=number("uptime_in_seconds"),
        memory=number("used_memory"),
        memory_max=number("maxmemory") or None,
        policy=info.get("maxmemory_policy", ""),
        clients=number("connected_clients"),
        clients_max=number("maxclients") or None,
        commands=number("instantaneous_ops_per_sec"),
        evicted=number("evicted_keys"),
        rejected=number("rejected_connections"),
    )


def ill(roles: tuple[str, ...], server: Server, error: StoreError) -> Store:
    """A server that could not be read."""
    return Store(roles, server.shown, error=str(error))


def _info(reply: Any) -> dict[str, str]:
    text = reply if isinstance(reply, str) else bytes(reply).decode("utf-8", "replace")
    return {name: value for name, colon, value in (line.partition(":") for line in text.splitlines()) if colon}
