"""Who waits for a limiter key: noted for looking at, and never asked by a decision."""

from __future__ import annotations

from typing import Any

from workerkit.core.call import Call, as_is
from workerkit.core.keys import Keys
from workerkit.core.lua import Script

NOTED = 0.25  # seconds: who waits for less is gone before anybody looks

_WAITERS = Script("workerkit.limits", "waiters")


class Waiters:
    """Those who wait for one limiter."""

    def __init__(self, keys: Keys, name: str) -> None:
        self._keys = keys
        self._name = name

    def note(self, part: str, who: str, seconds: float) -> Call[Any]:
        """List `who` for so many seconds."""
        key, life = self._key(part), round(seconds * 1e6)
        return Call("limits.wait", "guard", as_is, script=_WAITERS, keys=(key,), args=(who, life))

    def forget(self, part: str, who: str) -> Call[Any]:
        """List `who` no longer."""
        return Call("limits.waited", "guard", as_is, args=("ZREM", self._key(part), who))

    def read(self, part: str) -> Call[list[str]]:
        """Who waits, the first to give up first."""
        return Call("limits.waiting", "guard", _names, script=_WAITERS, keys=(self._key(part),), args=("", 0))

    def _key(self, part: str) -> str:
        return self._keys.key(self._name, part, "q")


def _names(reply: Any) -> list[str]:
    return [member.decode("utf-8", "replace") for member in reply]
