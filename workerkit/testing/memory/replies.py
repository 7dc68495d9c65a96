"""What commands answer, and the two ways to write it: as RESP3 to a client, as RESP2 to a script."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import redis
import redis.connection

Reply = Any  # Status, Scored, bytes, int, float, None, or a list or dict of them


class Refused(Exception):
    """An error reply; its text begins with the code, as in "WRONGTYPE ..."."""


class Status(bytes):
    """A simple string, such as OK."""

    __slots__ = ()


class Scored(list[tuple[bytes, float]]):
    """Members with scores: pairs in RESP3, one flat list in RESP2."""

    __slots__ = ()


OK = Status(b"OK")
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
NOT_AN_INTEGER = "ERR value is not an integer or out of range"
NOT_A_FLOAT = "ERR value is not a valid float"
SYNTAX = "ERR syntax error"


_PLAIN = 2.0**62  # whole numbers up to here are written as such


def written(number: float) -> bytes:
    """A double in the server's layout, by the shortest digits that mean it; a server now and then finds one more."""
    if math.isinf(number) or math.isnan(number):
        return b"nan" if math.isnan(number) else b"inf" if number > 0 else b"-inf"
    if number.is_integer() and abs(number) <= _PLAIN:
        return b"%d" % number
    sign, found, exponent = Decimal(repr(float(number))).normalize().as_tuple()
    digits, minus = "".join(map(str, found)), "-" if sign else ""
    power, size = int(exponent), abs(int(exponent) + len(digits) - 1)
    if power >= 0 and size < len(digits) + 7:
        return f"{minus}{digits}{'0' * power}".encode()
    if power < 0 and (power > -7 or size < 4):
        whole = len(digits) + power
        text = f"{digits[:whole]}.{digits[whole:]}" if whole > 0 else f"0.{'0' * -whole}{digits}"
        return f"{minus}{text}".encode()
    fraction = f".{digits[1:]}" if len(digits) > 1 else ""
    way = "-" if power + len(digits) - 1 < 0 else "+"
    return f"{minus}{digits[0]}{fraction}e{way}{size}".encode()


def for_client(reply: Reply) -> Any:
    """As our connections read RESP3: errors are redis-py's exceptions, as values."""
    if isinstance(reply, Refused):
        return redis.connection.DefaultParser.parse_error(str(reply))  # type: ignore[no-untyped-call]  # redis-py's
    if isinstance(reply, Status):
        return bytes(reply)
    if isinstance(reply, Scored):
        return [[member, score] for member, score in reply]
    if isinstance(reply, list):
        return [for_client(each) for each in reply]
    if isinstance(reply, dict):
        return {name: for_client(each) for name, each in reply.items()}
    return reply


def for_script(reply: Reply) -> Any:
    """As RESP2 has it: doubles are text, maps and pairs are flat."""
    if isinstance(reply, float):
        # ZINCRBY answers the -0 that it was given for a new member, and keeps 0.
        return b"-0" if reply == 0 and math.copysign(1, reply) < 0 else written(reply)
    if isinstance(reply, Scored):
        return [each for member, score in reply for each in (member, written(score))]
    if isinstance(reply, dict):
        return [for_script(each) for pair in reply.items() for each in pair]
    if isinstance(reply, list):
        return [for_script(each) for each in reply]
    return reply
