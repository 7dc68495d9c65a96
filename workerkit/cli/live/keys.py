"""What a terminal sends for keys, as their names."""

from __future__ import annotations

_NAMED = {
    "\t": "tab", "\r": "enter", "\n": "enter", "\x03": "ctrl-c", "\x0c": "r",
    "\x1b[Z": "backtab", "\x1b[5~": "pgup", "\x1b[6~": "pgdn",
    "\x1b[1~": "home", "\x1b[7~": "home", "\x1b[4~": "end", "\x1b[8~": "end",
}  # fmt: skip
_LETTERS = {"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"}


class Keys:
    """Names what was typed, in pieces as they come: a sequence may be cut anywhere."""

    def __init__(self) -> None:
        self._rest = ""

    @property
    def waiting(self) -> bool:
        """Whether more has to come, or `end` to be called, to know which key it was."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are known now. Text that is no key is one key a character."""
        self._rest += data.decode("utf-8", "replace")
        found = []
        while self._rest and (size := _size(self._rest)):
            word, self._rest = self._rest[:size], self._rest[size:]
            found.append(_name(word))
        return [key for key in found if key]

    def end(self) -> list[str]:
        """Nothing has come for a while: an escape that stands alone was the key Esc."""
        alone, self._rest = self._rest, ""
        return ["esc"] if alone.startswith("\x1b") else []


def _size(text: str) -> int:
    """Characters of the first key; 0 where it is not whole."""
    if text[0] != "\x1b":
        return 1
    if len(text) == 1:
        return 0
    if text[1] == "O":
        return 3 if len(text) > 2 else 0
    if text[1] != "[":
        return 1
    for at, letter in enumerate(text[2:], 2):
        if "@" <= letter <= "~":
            return at + 1
    return 0


def _name(word: str) -> str:
    if word in _NAMED:
        return _NAMED[word]
    if word == "\x1b":
        return "esc"
    if word[:1] == "\x1b":
        return _LETTERS.get(word[-1], "")
    return word
