"""A Call: one atomic round trip to Redis, as a value.

Policies only build Calls; a runner in `workerkit.io` executes them. That is why there is no second, async copy of
any policy, and why a policy can be tested by answering its Calls from a model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

if TYPE_CHECKING:
    from workerkit.core.lua import Script

T = TypeVar("T")
Store = Literal["cache", "guard"]
Word = str | bytes | int


def as_is(reply: Any) -> Any:
    """The parser of a Call whose reply needs none."""
    return reply


class Call(Generic[T]):
    """One command, or one script, with its keys, its arguments and the parser of its reply.

    `once` says that the Call must not run twice: it is never resent when its outcome is unknown. A script that
    includes `not_after` is such a Call, and also refuses to run after the caller has given up. `kept` says that it is
    sent again and again, so that packing it only once pays.
    """

    __slots__ = ("args", "around", "kept", "keys", "name", "once", "packed", "parse", "script", "store")

    def __init__(
        self,
        name: str,
        store: Store,
        parse: Callable[[Any], T],
        *,
        script: Script | None = None,
        keys: tuple[str, ...] = (),
        args: tuple[Word, ...] = (),
        once: bool = False,
        kept: bool = False,
    ) -> None:
        self.name = name
        self.store = store
        self.parse = parse
        self.script = script
        self.keys = keys
        self.args = args
        self.once = once if script is None else script.once
        self.kept = kept
        # What a runner remembers of a Call that is sent again: the command as bytes; a script's, around its deadline.
        self.packed: bytes | None = None
        self.around: tuple[bytes, bytes] | None = None

    def words(self, not_after_us: int, *, whole: bool = False) -> tuple[Word, ...]:
        """The command as words. `whole` sends the script's source instead of its digest (after NOSCRIPT)."""
        script = self.script
        if script is None:
            return self.args
        verb: tuple[Word, ...] = ("EVAL", script.source) if whole else ("EVALSHA", script.sha)
        bound = (not_after_us,) if script.once else ()
        return (*verb, len(self.keys), *self.keys, *bound, *self.args)

    def __iter__(self) -> Generator[Any, Any, T]:
        """`value = yield from call` is precisely typed; a plain `yield call` could not be."""
        value: T = yield self
        return value

    def __repr__(self) -> str:
        # Keys are digests, but arguments may be anything a user stores: they are never shown.
        return f"<Call {self.name} {' '.join(self.keys)}>"


PING: Call[Any] = Call("cache.ping", "cache", as_is, args=("PING",))
