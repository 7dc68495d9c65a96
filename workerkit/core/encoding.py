"""A canonical, typed, prefix-free encoding of arguments: two arguments share their bytes only if no call could tell
them apart, and nothing inside a string can be read as structure, because every length stands before what it measures.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cached_property, lru_cache
from hashlib import blake2b
from itertools import pairwise
from math import isnan
from pathlib import PosixPath, PurePosixPath, PureWindowsPath, WindowsPath
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from workerkit.errors import DefinitionError, EncodingError

# Equal values of the same one of these types make the same call.
PLAIN = frozenset({str, int, bool, bytes, type(None)})
MAX_BYTES = 1 << 20
MAX_DEPTH = 64
_SHORT = 1024


class _Out(bytearray):
    """The bytes so far, how many they may become, and how many levels are left."""

    __slots__ = ("cap", "levels")
    cap: int
    levels: int


_Encoder = Callable[[Any, _Out], None]


class _Refused(Exception):
    """What is wrong, and the way to it, innermost step first."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self.path: list[str] = []


NOT_SHORT = (KeyError, _Refused)


def encode(value: object, *, where: str = "argument", max_bytes: int = MAX_BYTES) -> bytes:
    """Encode one value to canonical bytes.

    Types count: 1, True, 1.0, "1", [1] and (1,) all differ, as do aware datetimes of one instant in two zones. Dicts
    and sets do not depend on order. Enums, dataclasses, pydantic models and subclasses of builtins carry their class's
    qualified name; a subclass's content is that of its base, and one with further state is refused. A dataclass or
    model is its fields (what pydantic's `==` ignores, such as which fields were set, is ignored here too).

    Raises `EncodingError` (its `argument` is `where`) for anything else, for more than `max_bytes`, and below 64
    levels, which is also where a cycle ends. The message holds types and positions, never contents.
    """
    return encode_arguments(((where, value),), named=False, max_bytes=max_bytes)


def encode_arguments(
    arguments: Iterable[tuple[str, object]], *, named: bool = True, max_bytes: int = MAX_BYTES
) -> bytes:
    """Encode a call's (name, value) pairs one after the other, under one cap; `named=False` leaves the names out.

    The encoding is prefix-free, so the concatenation is as injective as its parts. Raises like `encode`.
    """
    out = _Out()
    out.cap, out.levels = max_bytes, MAX_DEPTH
    name = "argument"
    try:
        for name, value in arguments:
            if named:
                out += encode_name(name)
            _put(value, out)
    except _Refused as refused:
        raise _error(refused, name) from None
    return bytes(out)


def encode_short(value: object) -> bytes:
    """What `encode` answers to a scalar of no great length; one of NOT_SHORT is raised for anything else."""
    return _SCALARS[type(value)](value, _SHORT)


def digest(data: bytes, secret: bytes | None = None) -> str:
    """BLAKE2b (RFC 7693) of `data` as 32 hex digits; keyed when there is a `secret`."""
    state = hash_for(b"workerkit-key", 16, secret).copy()
    state.update(data)
    return state.hexdigest()


@lru_cache(32)
def hash_for(person: bytes, size: int, secret: bytes | None) -> blake2b:
    """BLAKE2b with its parameters and key taken in, to be copied: that costs half of a new one."""
    return blake2b(digest_size=size, key=mac_key(secret), person=person)


def mac_key(secret: bytes | None) -> bytes:
    """The BLAKE2b key for a secret of any length (b"" for none); longer ones than its 64 bytes are hashed first."""
    if secret is None:
        return b""
    if not secret:
        raise DefinitionError("the secret is empty, which would sign nothing; set some bytes, or None for no secret")
    return secret if len(secret) <= 64 else blake2b(secret).digest()


def _error(refused: _Refused, where: str) -> EncodingError:
    steps = refused.path[::-1]
    path = where + "".join(steps[:8]) + ("..." if len(steps) > 8 else "")
    return EncodingError(
        f"argument {where!r}: {path} {refused.reason}, so no key can be made from it; "
        f'leave it out with ignore=("{where}",), or say with key= what identifies the call',
        argument=where,
    )


@lru_cache(1024)
def encode_name(name: str) -> bytes:
    """What stands before the value of the argument `name`."""
    return _text(name, b"a")


def _text(text: str, tag: bytes) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return b"%b%x:%b" % (tag, len(data), data)


def _put(value: object, out: _Out) -> None:
    kind: Any = type(value)
    scalar = _SCALARS.get(kind)
    if scalar is not None:
        out += scalar(value, out.cap)
    else:
        (_ENCODERS.get(kind) or _encoder(kind))(value, out)
    if len(out) > out.cap:
        raise _too_long(out.cap)


def _too_long(cap: int) -> _Refused:
    return _Refused(f"takes the encoding past {cap} bytes")


def _none(_: None, cap: int) -> bytes:
    return b"N"


def _bool(value: bool, cap: int) -> bytes:
    return b"T" if value else b"F"


def _int(value: int, cap: int) -> bytes:
    if value.bit_length() > 4 * cap:  # before the digits are made
        raise _too_long(cap)
    return b"i%x;" % value


def _float(value: float, cap: int) -> bytes:
    # One NaN for all: its sign and payload are noise, and f(nan) twice should be one key.
    return b"f" + (struct.pack(">d", value) if not isnan(value) else b"\x7f\xf8\0\0\0\0\0\0")


def _str(value: str, cap: int) -> bytes:
    if len(value) > cap:
        raise _too_long(cap)
    data = value.encode("utf-8", "surrogatepass")
    return b"s%x:%b" % (len(data), data)


def _bytes(value: bytes | bytearray, cap: int) -> bytes:
    if len(value) > cap:
        raise _too_long(cap)
    return b"b%x:" % len(value) + value


def _bytearray(value: bytearray, cap: int) -> bytes:
    return b"B" + _bytes(value, cap)


def _list(value: list[object], out: _Out) -> None:
    out += b"l%x:" % len(value)
    _items(value, out)


def _tuple(value: tuple[object, ...], out: _Out) -> None:
    out += b"t%x:" % len(value)
    _items(value, out)


def _items(values: Iterable[object], out: _Out, names: Sequence[str] = ()) -> None:
    if not out.levels:
        raise _Refused(f"is nested deeper than {MAX_DEPTH} levels, or contains itself")
    out.levels -= 1
    i = 0
    try:
        for value in values:
            _put(value, out)
            i += 1
    except _Refused as refused:
        refused.path.append(f".{names[i]}" if names else f"[{i}]")
        raise
    out.levels += 1


def _dict(value: dict[object, object], out: _Out) -> None:
    out += b"d%x:" % len(value)
    # A key may be a secret, so a refusal names its place in the dict instead.
    _unordered(value.items(), ("{key %d}", "{value %d}"), out)


def _set(value: set[object], out: _Out) -> None:
    out += b"S%x:" % len(value)
    _unordered(((item,) for item in value), ("{item %d}",), out)


def _frozenset(value: frozenset[object], out: _Out) -> None:
    out += b"Z%x:" % len(value)
    _unordered(((item,) for item in value), ("{item %d}",), out)


def _unordered(groups: Iterable[tuple[object, ...]], steps: tuple[str, ...], out: _Out) -> None:
    marks = [len(out)]
    try:
        for group in groups:
            _items(group, out, steps)
            marks.append(len(out))
    except _Refused as refused:
        if refused.path:
            refused.path[-1] = refused.path[-1].removeprefix(".") % (len(marks) - 1)
        raise
    parts = [bytes(out[start:end]) for start, end in pairwise(marks)]
    parts.sort()
    out[marks[0] :] = b"".join(parts)


def _datetime(value: datetime, out: _Out) -> None:
    out += _text(value.replace(tzinfo=None).isoformat(), b"W%d" % value.fold)
    _items((value.tzinfo,), out, ("tzinfo",))


def _time(value: time, out: _Out) -> None:
    out += _text(value.replace(tzinfo=None).isoformat(), b"C%d" % value.fold)
    _items((value.tzinfo,), out, ("tzinfo",))


def _date(value: date, out: _Out) -> None:
    out += _text(value.isoformat(), b"Y")


def _timedelta(value: timedelta, out: _Out) -> None:
    out += b"L%d,%d,%d;" % (value.days, value.seconds, value.microseconds)


def _timezone(value: timezone, out: _Out) -> None:
    out += b"z"
    _timedelta(value.utcoffset(None), out)
    _put(value.tzname(None), out)


def _zone(value: ZoneInfo, out: _Out) -> None:
    if value.key is None:
        raise _Refused("is a ZoneInfo without a name")
    out += _text(value.key, b"I")


def _decimal(value: Decimal, out: _Out) -> None:
    _put(str(value), _tagged(out, b"D"))


def _uuid(value: UUID, out: _Out) -> None:
    out += b"U"
    out += value.bytes


def _path(value: object, out: _Out) -> None:
    _put(str(value), _tagged(out, _text(type(value).__name__, b"P")))


def _tagged(out: _Out, tag: bytes) -> _Out:
    out += tag
    return out


_SCALARS: dict[type, Callable[[Any, int], bytes]] = {
    type(None): _none,
    bool: _bool,
    int: _int,
    float: _float,
    str: _str,
    bytes: _bytes,
    bytearray: _bytearray,
}

_ENCODERS: dict[type, _Encoder] = {
    list: _list,
    tuple: _tuple,
    dict: _dict,
    set: _set,
    frozenset: _frozenset,
    datetime: _datetime,
    date: _date,
    time: _time,
    timedelta: _timedelta,
    timezone: _timezone,
    ZoneInfo: _zone,
    Decimal: _decimal,
    UUID: _uuid,
    PurePosixPath: _path,
    PureWindowsPath: _path,
    PosixPath: _path,
    WindowsPath: _path,
}

_ALL = slice(None)
# How to get an instance of the base out of an instance of a subclass, whatever methods that overrides.
_BASES: dict[type, Callable[[Any], Any]] = {
    int: int.__int__,
    float: float.__float__,
    str: lambda value: str.__getitem__(value, _ALL),
    bytes: lambda value: bytes.__getitem__(value, _ALL),
    list: lambda value: list.__getitem__(value, _ALL),
    tuple: lambda value: tuple.__getitem__(value, _ALL),
    dict: dict.copy,
    set: lambda value: set(set.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}
_HEAP_TYPE = 1 << 9  # Py_TPFLAGS_HEAPTYPE: a class made by a class statement


@lru_cache(1024)
def _encoder(cls: Any) -> _Encoder:
    """The encoder of a class that is not in the table, worked out once."""
    if issubclass(cls, enum.Enum):
        return _enum(cls)
    base = next((each for each in cls.__mro__ if each in _BASES), object)
    # A class written in C may hide state from us (pandas' Timestamp has nanoseconds), so it is never guessed at.
    if not all(each.__flags__ & _HEAP_TYPE for each in cls.__mro__[: cls.__mro__.index(base)]):
        return _refuse
    if base is not object:
        return _subclass(cls, base)
    if "__dataclass_fields__" in vars(cls):
        from dataclasses import fields

        return _object(cls, b"O", tuple(field.name for field in fields(cls)))
    if any(each.__name__ == "BaseModel" and each.__module__ == "pydantic.main" for each in cls.__mro__):
        return _object(cls, b"M", (*cls.__pydantic_fields__, "__pydantic_extra__", "__pydantic_private__"))
    return _refuse


def _refuse(value: object, _: _Out) -> None:
    raise _Refused(f"is a {type(value).__module__}.{type(value).__qualname__}, which has no canonical encoding")


def _class(cls: type, tag: bytes) -> bytes:
    return _text(f"{cls.__module__}.{cls.__qualname__}", tag)


def _enum(cls: type[enum.Enum]) -> _Encoder:
    head = _class(cls, b"E")

    def encode_member(value: enum.Enum, out: _Out) -> None:
        # A combination of flags need not have a name of its own; its bits say the same.
        part = value.value if isinstance(value, enum.Flag) else value.name
        _items((part,), _tagged(out, head), ("value",))

    return encode_member


def _subclass(cls: type, base: type) -> _Encoder:
    head, plain = _class(cls, b"X"), _BASES[base]

    def encode_subclass(value: object, out: _Out) -> None:
        if object.__getstate__(value):
            raise _Refused(f"is a {cls.__qualname__}, a {base.__name__} with further attributes")
        _put(plain(value), _tagged(out, head))

    return encode_subclass


def _object(cls: type, tag: bytes, names: tuple[str, ...]) -> _Encoder:
    head = _class(cls, tag) + b"%x:" % len(names) + b"".join(_text(name, b"a") for name in names)
    derived = {name for each in cls.__mro__ for name, it in vars(each).items() if isinstance(it, cached_property)}
    known = derived.union(names)

    def encode_object(value: object, out: _Out) -> None:
        if not getattr(value, "__dict__", {}).keys() <= known:
            raise _Refused(f"is a {cls.__qualname__} with attributes beside its fields")
        try:
            values = [getattr(value, name) for name in names]
        except AttributeError:
            raise _Refused(f"is a {cls.__qualname__} with a field that was never set") from None
        _items(values, _tagged(out, head), names)

    return encode_object
