"""redis-py's own clients on a kit's server, for the commands that workerkit has no verb for.

They have their own connections, with the kit's limits and timeout, no retries, and the protection from soft time
limits; the guarantees about resending and running late are the runners' alone.
"""

from __future__ import annotations

from typing import Any

import redis
import redis.asyncio

from workerkit.io.address import Address
from workerkit.io.interrupts import SHIELD
from workerkit.io.server import Server

_SYNC: dict[str, Any] = {
    "tcp": redis.Connection,
    "tls": redis.SSLConnection,
    "unix": redis.UnixDomainSocketConnection,
}
_ASYNC: dict[str, Any] = {
    "tcp": redis.asyncio.Connection,
    "tls": redis.asyncio.SSLConnection,
    "unix": redis.asyncio.UnixDomainSocketConnection,
}


class _Pipeline(redis.client.Pipeline):
    """A pipeline that a soft time limit cannot cut in two."""

    def execute(self, raise_on_error: bool = True) -> Any:
        before = SHIELD.enter()
        try:
            return super().execute(raise_on_error)
        finally:
            if before >= 0:
                SHIELD.depth = before
                SHIELD.deliver()


class Client(redis.Redis):
    """redis-py's client; a soft time limit waits for the end of a command."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        before = SHIELD.enter()
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]  # redis-py's
        finally:
            if before >= 0:
                SHIELD.depth = before
                SHIELD.deliver()

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> _Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


def client(server: Server, timeout: float) -> Client:
    """A sync client of `server`; `timeout` seconds for each send and receive."""
    pool = redis.BlockingConnectionPool(  # type: ignore[no-untyped-call]  # redis-py's
        connection_class=server.connection_class or _SYNC[server.address.transport],
        timeout=server.options.wait,
        **_arguments(server, timeout),
    )
    return Client(connection_pool=pool)


def aio_client(server: Server, timeout: float) -> redis.asyncio.Redis:
    """A client of `server` for the running event loop alone; close it with `aclose`."""
    pool = redis.asyncio.BlockingConnectionPool(
        connection_class=server.aio_connection_class or _ASYNC[server.address.transport],
        timeout=server.options.wait,
        **_arguments(server, timeout),
    )
    return redis.asyncio.Redis(connection_pool=pool)


def _arguments(server: Server, timeout: float) -> dict[str, Any]:
    address = server.address
    return {
        **_plain(address),
        "max_connections": server.options.maximum,
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "db": address.db,
        "username": address.username,
        "password": address.password,
    }


def _plain(address: Address) -> dict[str, Any]:
    """What redis-py's connections (sync and async) are made with: no retries, no health checks, nothing hidden."""
    arguments: dict[str, Any] = {
        **address.arguments,
        "protocol": 3,
        "health_check_interval": 0,
        "retry": None,
    }
    try:
        from redis.maint_notifications import MaintNotificationsConfig
    except ImportError:
        pass  # redis-py before 7
    else:
        arguments["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    if address.transport != "unix":
        arguments["socket_keepalive"] = True
    return arguments
