"""The table of commands, and how a command's words are read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from workerkit.testing.memory.replies import NOT_A_FLOAT, NOT_AN_INTEGER, SYNTAX, Refused, Reply

if TYPE_CHECKING:
    from workerkit.testing.memory.store import Store

Words = Sequence[bytes]
Run = Callable[["Store", Words], Reply]
_WHOLE = re.compile(rb"-?(0|[1-9][0-9]*)")
_FLOAT = re.compile(rb"[+-]?(inf(inity)?|([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?)", re.IGNORECASE)


class Command(NamedTuple):
    """How a command is run, and how many words it has with its name; negative: at least so many."""

    run: Run
    arity: int


COMMANDS: dict[bytes, Command] = {}


def command(name: str, arity: int) -> Callable[[Run], Run]:
    """Enter a function into the table; it gets the words behind the name."""

    def enter(run: Run) -> Run:
        COMMANDS[name.encode()] = Command(run, arity)
        return run

    return enter


def perform(store: Store, words: Words, *, in_script: bool = False) -> Reply:
    """Run one command on `store`, whose turn it must be; raises Refused for an error reply."""
    name = words[0].upper()
    found = COMMANDS.get(name)
    if found is None:
        raise Refused(
            f"ERR unknown command '{text(words[0])}': workerkit's memory has no such command; "
            "write a test that needs it against a real server"
        )
    if len(words) != found.arity if found.arity > 0 else len(words) < -found.arity:
        raise Refused("ERR Wrong number of args calling command from script") if in_script else arity(name)
    return found.run(store, words[1:])


def arity(name: bytes) -> Refused:
    return Refused(f"ERR wrong number of arguments for '{text(name.lower())}' command")


def text(word: bytes) -> str:
    return word.decode("utf-8", "backslashreplace")


def whole(word: bytes, complaint: str = NOT_AN_INTEGER) -> int:
    """A 64-bit integer."""
    if _WHOLE.fullmatch(word) is None or word == b"-0" or not -(2**63) <= int(word) < 2**63:
        raise Refused(complaint)
    return int(word)


def number(word: bytes, complaint: str = NOT_A_FLOAT) -> float:
    """A double; infinite ones too."""
    if _FLOAT.fullmatch(word) is None:
        raise Refused(complaint)
    found = float(word)
    if math.isinf(found) and b"n" not in word.lower():
        raise Refused(complaint)
    return found


class Options:
    """The words behind the fixed ones, taken from the front."""

    def __init__(self, words: Words) -> None:
        self._words = list(words)

    def __bool__(self) -> bool:
        return bool(self._words)

    def name(self) -> bytes:
        """The next word, in capitals."""
        return self.word().upper()

    def word(self) -> bytes:
        if not self._words:
            raise Refused(SYNTAX)
        return self._words.pop(0)

    def whole(self) -> int:
        return whole(self.word())

    def rest(self) -> list[bytes]:
        return self._words


def slice_of(size: int, first: int, last: int) -> slice:
    """The positions from `first` to `last`, both included; negative ones count from the end."""
    begin = max(0, first + size if first < 0 else first)
    end = last + size if last < 0 else last
    return slice(begin, max(begin, min(end, size - 1) + 1))
