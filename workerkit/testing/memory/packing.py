"""Redis's `struct` library for scripts: `pack`, `unpack` and `size`, for the formats b B h H i I l L f d c s x."""

from __future__ import annotations

import struct
from functools import lru_cache
from itertools import takewhile
from typing import NamedTuple

from workerkit.testing.memory.replies import Refused

_SIZES = {"b": 1, "h": 2, "i": 4, "l": 8, "f": 4, "d": 8, "x": 1, "c": 1, "s": 0}
Item = int | float | bytes


class Field(NamedTuple):
    """One item of a format; a string of size 0 is as long as the number before it says."""

    kind: str
    size: int
    little: bool
    signed: bool


@lru_cache(256)
def fields(layout: bytes) -> list[Field]:
    """A format, read."""
    found, little, text, at = [], True, layout.decode("latin-1"), 0
    while at < len(text):
        letter = text[at]
        digits = "".join(takewhile(str.isdecimal, text[at + 1 :]))
        at += 1
        if letter in "<>=":
            little = letter != ">"
        elif letter != " ":
            found.append(_field(letter, digits if letter in "iIc" else "", little))
            at += len(digits) if letter in "iIc" else 0
    return found


def _field(letter: str, digits: str, little: bool) -> Field:
    kind = letter if letter in "cdfsx" else letter.lower()
    if kind not in _SIZES:
        raise Refused(f"workerkit's memory has no struct format '{letter}'")
    size = int(digits) if digits else _SIZES[kind]
    if kind == "i" and not 1 <= size <= 8:
        raise Refused(f"integral size {size} is larger than limit of 8")
    return Field(kind, size, little, letter.islower())


def pack(layout: bytes, *items: Item) -> bytes:
    """`struct.pack`."""
    left, out = list(items), bytearray()
    for field in fields(layout):
        if field.kind == "x":
            out += b"\0"
        elif not left:
            raise Refused("struct.pack: a value is missing")
        else:
            out += _packed(field, left.pop(0))
    return bytes(out)


def _packed(field: Field, item: Item) -> bytes:
    if field.kind in "cs":
        data = item if isinstance(item, bytes) else str(item).encode()
        if len(data) < field.size:
            raise Refused("struct.pack: string too short")
        return data + b"\0" if field.kind == "s" else data[: field.size or len(data)]
    if field.kind in "df":
        return struct.pack(("<" if field.little else ">") + field.kind, float(item))
    # As C does it: what is behind the point, or too much, is cut off.
    return (int(float(item)) % (1 << 8 * field.size)).to_bytes(field.size, "little" if field.little else "big")


def unpack(layout: bytes, data: bytes, start: Item = 1) -> tuple[Item, ...]:
    """`struct.unpack`: the items, and the position behind them."""
    found: list[Item] = []
    at = int(start) - 1
    for field in fields(layout):
        size = field.size
        if field.kind == "s":
            size = data.find(b"\0", at) - at
        elif field.kind == "c" and not size:
            size = int(found.pop())
        if size < 0 or at + size > len(data):
            raise Refused("struct.unpack: data string too short")
        if field.kind != "x":
            found.append(_unpacked(field, data[at : at + size]))
        at += size + (field.kind == "s")
    return (*found, at + 1)


def _unpacked(field: Field, data: bytes) -> Item:
    if field.kind in "cs":
        return data
    if field.kind in "df":
        value: float = struct.unpack(("<" if field.little else ">") + field.kind, data)[0]
        return value
    return float(int.from_bytes(data, "little" if field.little else "big", signed=field.signed))


def size(layout: bytes) -> int:
    """`struct.size`; what has no size of its own has none."""
    if any(field.kind == "s" or (field.kind == "c" and not field.size) for field in fields(layout)):
        raise Refused("struct.size: variable-size format")
    return sum(field.size for field in fields(layout))
