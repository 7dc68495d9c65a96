"""How many processes use a limiter: each says so now and then, and is forgotten when it stops."""

from __future__ import annotations

from workerkit.core.call import Call
from workerkit.core.keys import Keys
from workerkit.core.lua import Script

_BEAT = Script("workerkit.limits", "fleet")


class Fleet:
    """The processes of one limiter, each under a name of its own (`member`)."""

    def __init__(self, keys: Keys, name: str) -> None:
        self._key = keys.key(name, "all", "m")

    def beat(self, member: str, ttl_ms: int) -> Call[int]:
        """Count `member` for the next `ttl_ms` milliseconds of the server's clock; answers how many are alive now."""
        return Call("limits.beat", "guard", int, script=_BEAT, keys=(self._key,), args=(member, ttl_ms))

    def leave(self, member: str) -> Call[bool]:
        """Count `member` no longer; answers whether it was counted."""
        return Call("limits.leave", "guard", bool, args=("ZREM", self._key, member))
