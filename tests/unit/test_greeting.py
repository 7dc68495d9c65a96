"""What is said of a server that refuses the handshake."""

from __future__ import annotations

import pytest
import redis

from workerkit.core.events import Hooks
from workerkit.errors import StoreRefused
from workerkit.io.address import parse_address
from workerkit.io.server import PoolOptions, Server


def test_an_old_server_repeats_the_password_and_the_error_does_not() -> None:
    server = Server(
        "redis", parse_address("redis://:hunter2@localhost/0", what="redis_url"), options=PoolOptions(), hooks=Hooks()
    )
    reply = redis.ResponseError("unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `a`, `hunter2`, ")
    with pytest.raises(StoreRefused, match=r"refused the connection: unknown command `HELLO`$") as refused:
        server.greeted([reply, b""], 0.0)
    assert "hunter2" not in repr(refused.value)
