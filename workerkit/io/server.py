"""One Redis server as this process knows it: where it is, whether it answers, what time it has, whether it evicts."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import redis

from workerkit.core.breaker import Breaker
from workerkit.core.call import Call, Word
from workerkit.core.clock import ServerClock
from workerkit.core.events import GuardWarning, Hooks, StoreDown, StoreUp
from workerkit.errors import GuardEvicts, StoreRefused, StoreUnavailable
from workerkit.io.address import Address
from workerkit.io.link import Link, NotYet, greeting, passes

if TYPE_CHECKING:
    from workerkit.io.aiolink import AioLink

CLOCK_AGE = 30.0  # seconds after which the server is asked for its time again, in the same write as the next Call
Eviction = Literal["refuse", "warn"]


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """`minimum` connections are kept when idle, `maximum` is never passed; `wait` seconds for a free one, `idle`
    seconds until one above the minimum is closed."""

    minimum: int = 10
    maximum: int = 50
    wait: float = 1.0
    idle: float = 60.0


class Server:
    """What the sync and the async side of one process share about a server; no I/O of its own."""

    def __init__(
        self,
        role: str,
        address: Address,
        *,
        options: PoolOptions,
        hooks: Hooks,
        breaker_failures: int = 3,
        guards: bool = False,
        eviction: Eviction = "refuse",
    ) -> None:
        self.role = role
        self.address = address
        self.options = options
        self.hooks = hooks
        self.breaker = Breaker(breaker_failures)
        self.clock = ServerClock()
        self._guards = guards
        self._eviction = eviction
        self.keeps = False  # known not to evict
        self.evicts = False  # whether it may drop keys before their time, as the last handshake told
        self._policy = ""
        self._judged = False

    # Classes of redis-py's connections, where those for the address will not do.
    connection_class: Any = None
    aio_connection_class: Any = None

    def link(self) -> Link:
        """A new connection, not yet open."""
        return Link(self.address)

    def aio_link(self) -> AioLink:
        """As `link`, for the running event loop."""
        from workerkit.io.aiolink import AioLink

        return AioLink(self.address)

    def greeting(self) -> list[tuple[Word, ...]]:
        name = f"workerkit:{self.role}:{escape_name(socket.gethostname())}:{os.getpid()}"
        return greeting(self.address, name)

    def greeted(self, replies: list[Any], received: float) -> None:
        """Judge the replies of a handshake that ended at `received` (monotonic seconds).

        Raises NotYet while the server is busy or loading, StoreRefused for a login or database that will not do.
        """
        memory = replies.pop()
        for reply in replies:
            if passes(reply):
                raise NotYet(reply)
            if isinstance(reply, redis.RedisError):
                raise StoreRefused(f"{self.shown} refused the connection: {self._said(reply)}", store=self.role)
        self.learn_time(replies[-1], received)
        self._judge_eviction(memory)

    def _said(self, reply: Exception) -> str:
        if isinstance(reply, redis.AuthenticationError):
            return f"wrong or missing user or password; write them into workerkit_{self.setting} ({reply})"
        return str(reply).partition(", with args")[0]  # a server that knows no HELLO repeats the password in it

    @property
    def setting(self) -> str:
        return "guard_url" if self.role == "guard" else "redis_url"

    def unavailable(self, reason: str, *, store: str, call: str) -> StoreUnavailable:
        """The error for a `call` that could not be made."""
        where = f"{self.shown} (workerkit_{self.setting})"
        return StoreUnavailable(f"{where} cannot be reached: {reason}", store=store, call=call)

    @property
    def shown(self) -> str:
        return self.address.shown

    def learn_time(self, reply: Any, received: float) -> None:
        """Take the reply to a `TIME`; an error in its place teaches nothing, and will be met again in due time."""
        if isinstance(reply, Exception):
            return
        self.clock.learn(int(reply[0]) * 1_000_000 + int(reply[1]), received)

    def clock_is_old(self, now: float) -> bool:
        return now - self.clock.learned > CLOCK_AGE

    def _judge_eviction(self, memory: Any) -> None:
        if isinstance(memory, Exception):
            if self._guards:
                self._warn(f"{self.shown} does not say whether it evicts keys ({memory}); allow +info to its user")
            return
        text = memory if isinstance(memory, str) else bytes(memory).decode()
        found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        self._policy = found.get("maxmemory_policy", "noeviction")
        self.evicts = found.get("maxmemory") != "0" and self._policy != "noeviction"
        self.keeps = not self.evicts

    def check(self, calls: Sequence[Call[Any]]) -> None:
        """Raise GuardEvicts (or warn, if that is the setting) when what `calls` write could vanish.

        Calls of the cache pass: a user of the cache alone may have one server that evicts.
        """
        if not self.evicts or all(call.store == "cache" for call in calls):
            return
        message = (
            f"{self.shown} holds limits, leases and job records, but evicts keys (maxmemory-policy {self._policy}): "
            "set it to noeviction, point workerkit_guard_url to a server that is, or accept it with "
            "workerkit_guard_eviction='warn'"
        )
        if self._eviction == "refuse":
            raise GuardEvicts(message, store="guard", call=calls[0].name, policy=self._policy)
        self._warn(message)

    def _warn(self, message: str) -> None:
        if not self._judged:
            self._judged = True
            self.hooks.emit(GuardWarning(message))

    def is_well(self, now: float) -> bool:
        """Whether nothing has to be told to this server, or noted of it, beside a Call that it answers."""
        return not self.breaker.failures and now - self.clock.learned <= CLOCK_AGE

    def admit(self, now: float) -> None:
        """Raise StoreUnavailable at once while the breaker is open."""
        if not self.breaker.admits(now):
            message = f"{self.shown} (workerkit_{self.setting}) is down; it is tried again within a second"
            raise StoreUnavailable(message, store=self.role)

    def succeeded(self) -> None:
        if self.breaker.failures and self.breaker.succeeded():
            self.hooks.emit(StoreUp(self.role))

    def failed(self, reason: str) -> None:
        if self.breaker.failed(time.monotonic()):
            self.hooks.emit(StoreDown(self.role, reason))


def escape_name(text: str) -> str:
    """A client name may hold no space or newline."""
    return "".join(letter if letter.isalnum() or letter in "-._" else "-" for letter in text)
