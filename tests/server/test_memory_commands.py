"""The memory against a real Valkey: the same commands, in any order, have the same replies and leave the same keys."""

from __future__ import annotations

import math
import os
import re
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from workerkit.io.address import parse_address
from workerkit.io.link import Link, pack
from workerkit.testing.memory.store import Store
from workerkit.testing.memory.wire import answers

HEAVY = os.environ.get("WORKERKIT_HEAVY") == "1"
DAY = 86_400_000
TIMES = {"PTTL", "TTL", "PEXPIRETIME"}
DOUBLE = re.compile(rb"-?\d+(\.\d+)?(e[+-]\d+)?")
EXAMPLES = settings(max_examples=2000 if HEAVY else 150, deadline=None, suppress_health_check=list(HealthCheck))

pytestmark = pytest.mark.timeless

keys = st.sampled_from([b"a", b"b", b"c"])
members = st.sampled_from([b"", b"m", b"n", b"\xff\x00", b"10", b"9"])
integers = st.sampled_from([0, 1, 2, 3, -1, -2, -100, 7, 2**62, 2**63 - 1, -(2**63)])
words = st.sampled_from(
    [b"", b"x", b"0", b"7", b"-3", b"007", b"+1", b" 1", b"1.5", b"1e3", b"inf", b"-inf", b"nan", b"9" * 19, b"9" * 30]
)
scores = st.one_of(
    st.floats(allow_nan=False, width=64).map(lambda score: repr(score).encode()),
    st.sampled_from(
        [b"0", b"-0", b"1", b"2", b"1700000000000000", b"1e15", b"1e22", b"0.1", b"-1.5e-7", b"+inf", b"x"]
    ),
)
bounds = st.one_of(scores, scores.map(b"(".__add__), st.sampled_from([b"-inf", b"+inf", b"(1", b"", b"("]))
ranks = st.integers(-4, 4)
ms = st.sampled_from([DAY, 2 * DAY, 0, -1, 2**62, 2**63 - 1, b"x"])  # none that is over within a test


def command(*parts: Any) -> st.SearchStrategy[tuple[Any, ...]]:
    """One command; a list of parts may follow in any number, None leaves its part out."""
    made = [part if isinstance(part, st.SearchStrategy) else st.just(part) for part in parts]

    def flat(drawn: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(
            each for part in drawn if part is not None for each in (part if isinstance(part, list) else [part])
        )

    return st.tuples(*made).map(flat)


def some(*parts: Any, least: int = 0, most: int = 3) -> st.SearchStrategy[list[Any]]:
    return st.lists(command(*parts), min_size=least, max_size=most).map(lambda each: [x for part in each for x in part])


def options(*names: bytes) -> st.SearchStrategy[list[bytes]]:
    return st.lists(st.sampled_from(names), max_size=2)


limit = st.one_of(st.none(), command(b"LIMIT", ranks, ranks).map(list))
scored = st.sampled_from([None, b"WITHSCORES", b"withscores"])
COMMANDS = st.one_of(
    command("GET", keys),
    command("STRLEN", keys),
    command("MGET", some(keys, least=1)),
    command("MSET", some(keys, members, least=1)),
    command("SET", keys, words, options(b"NX", b"XX", b"GET", b"KEEPTTL", b"?"), some(b"PX", ms, most=2)),
    command("SET", keys, words, st.sampled_from([b"EX", b"PXAT", b"EXAT"]), ms),
    command(st.sampled_from(["INCR", "DECR"]), keys),
    command("INCRBY", keys, st.one_of(integers, words)),
    command(st.sampled_from(["DEL", "UNLINK", "EXISTS"]), some(keys, least=1)),
    command(st.sampled_from(["TYPE", "PERSIST", "PTTL", "PEXPIRETIME", "TTL"]), keys),
    command(st.sampled_from(["PEXPIRE", "EXPIRE", "PEXPIREAT"]), keys, ms),
    command("KEYS", st.sampled_from(["*", "a", "[ab]", "[^a]", "?", "??", "\\a", "a*"])),
    command("DBSIZE"),
    command("ECHO", words),
    command("HSET", keys, some(members, words, least=1)),
    command("HSET", keys, members),
    command("HSETNX", keys, members, words),
    command("HDEL", keys, some(members, least=1)),
    command("HMGET", keys, some(members, least=1)),
    command(st.sampled_from(["HGET", "HEXISTS", "HSTRLEN"]), keys, members),
    command(st.sampled_from(["HGETALL", "HLEN", "HKEYS", "HVALS"]), keys),
    command("HINCRBY", keys, members, st.one_of(integers, words)),
    command(st.sampled_from(["LPUSH", "RPUSH"]), keys, some(members, least=1)),
    command(st.sampled_from(["LRANGE", "LTRIM"]), keys, ranks, ranks),
    command("LLEN", keys),
    command("ZADD", keys, options(b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"), some(scores, members, least=1)),
    command("ZADD", keys, b"LT", scores, members),
    command("ZINCRBY", keys, scores, members),
    command("ZREM", keys, some(members, least=1)),
    command("ZCARD", keys),
    command(st.sampled_from(["ZSCORE", "ZRANK"]), keys, members),
    command("ZMSCORE", keys, some(members, least=1)),
    command(st.sampled_from(["ZCOUNT", "ZREMRANGEBYSCORE"]), keys, bounds, bounds),
    command("ZREMRANGEBYRANK", keys, ranks, ranks),
    command(st.sampled_from(["ZRANGE", "ZREVRANGE"]), keys, ranks, ranks, scored),
    command(st.sampled_from(["ZRANGEBYSCORE", "ZREVRANGEBYSCORE"]), keys, bounds, bounds, scored, limit),
    command("ZUNION", ranks, some(keys, least=1), scored),
    command("XADD", keys, st.sampled_from([b"1-1", b"1-2", b"2", b"3-0", b"0-0", b"x", b"1-"]), some(members, words)),
    command("XLEN", keys),
    command(
        st.sampled_from(["XRANGE", "XREVRANGE"]),
        keys,
        *[st.sampled_from([b"-", b"+", b"1", b"(1-1", b"2-0", b"x"])] * 2,
        some(b"COUNT", ranks, most=1),
    ),
    command(st.sampled_from(["GET", "HSET", "ZADD", "SET", "ZRANGE", "XADD", "EVAL"]), some(keys, most=2)),
)


@pytest.fixture(scope="module")
def link(redis_server):
    link = Link(parse_address(redis_server.url, what="url"))
    link.open([("HELLO", 3)], time.monotonic() + 60)
    yield link
    link.close()


def said(link: Link, *words: Any) -> Any:
    return link.ask(pack(words), time.monotonic() + 60)


def same(real: Any, mine: Any, *, times: bool = False) -> bool:
    """Errors by their class and code; `times` to the ms that passed between the two."""
    if isinstance(real, Exception) or isinstance(mine, Exception):
        return type(real) is type(mine) and str(real).split(" ")[0] == str(mine).split(" ")[0]
    if isinstance(real, list) and isinstance(mine, list):
        return len(real) == len(mine) and all(same(*pair, times=times) for pair in zip(real, mine, strict=True))
    if times and isinstance(real, int) and isinstance(mine, int) and real > 0:
        return abs(real - mine) < 60_000
    if isinstance(real, float) and isinstance(mine, float) and real == 0:
        return math.copysign(1, real) == math.copysign(1, mine) and mine == 0
    return type(real) is type(mine) and (bool(real == mine) or one_double(real, mine))


def one_double(real: Any, mine: Any) -> bool:
    """Whether both mean it: the server's way of writing one (Grisu2) now and then has 17 digits where 16 would do."""
    return (
        isinstance(real, bytes)
        and isinstance(mine, bytes)
        and all(DOUBLE.fullmatch(each) for each in (real, mine))
        and len(real) >= 16
        and float(real) == float(mine)
    )


def sorted_reply(words: tuple[Any, ...], reply: Any) -> Any:
    return sorted(reply) if words[0] in {"KEYS", "HKEYS", "HVALS"} and isinstance(reply, list) else reply


@EXAMPLES
@given(commands=st.lists(COMMANDS, min_size=1, max_size=30))
def test_the_same_commands_have_the_same_replies(link, commands):
    said(link, "FLUSHALL")
    store = Store()
    for each in [*commands, ("KEYS", "*"), *(("PTTL", key) for key in (b"a", b"b", b"c"))]:
        real, mine = said(link, *each), answers(store, pack(each))[0]
        alike = same(sorted_reply(each, real), sorted_reply(each, mine), times=each[0] in TIMES)
        assert alike, (each, real, mine, str(real), str(mine))


# Scripts

SCRIPTS = [
    "return redis.call(unpack(ARGV))",
    "return redis.pcall(unpack(ARGV))",
    "local reply = redis.pcall(unpack(ARGV)) return {type(reply), type(reply) == 'table' and #reply, reply}",
    "local reply = redis.call(unpack(ARGV)) return type(reply) == 'table' and {reply.ok, reply} or {reply, 1}",
]
NUMBERS = st.one_of(
    st.floats(allow_nan=False, width=64),
    st.sampled_from([0.1, 1e15, 1e17, 2.0**53, 2.0**63, -(2.0**63), 123456789012.5, 1e-7, 1e22, 1e21, 5e-324]),
    st.integers(-(2**53), 2**53).map(float),
)
LAYOUTS = st.lists(
    st.sampled_from(["b", "B", "h", "H", "i", "I", "l", "L", "I3", "I7", "i5", "d", "f", "<", ">", "c0", "s", "x"]),
    max_size=6,
).map(lambda parts: "".join(f"I2{part}" if part == "c0" else part for part in parts))
PACKED = """
local packed = struct.pack(ARGV[1], %s)
local out = {packed}
for _, each in ipairs({struct.unpack(ARGV[1], packed)}) do
  out[#out + 1] = type(each) == 'number' and string.format('%%.17g', each) or each
end
return out"""


@EXAMPLES
@given(commands=st.lists(st.tuples(st.sampled_from(SCRIPTS), COMMANDS), min_size=1, max_size=20))
def test_the_same_commands_have_the_same_replies_in_a_script(link, commands):
    said(link, "FLUSHALL")
    store = Store()
    for source, each in commands:
        if each[0] in {"HGETALL", "HKEYS", "HVALS", "KEYS", "EVAL"}:
            continue  # their order is open; and no script calls another
        real, mine = said(link, "EVAL", source, 0, *each), answers(store, pack(("EVAL", source, 0, *each)))[0]
        assert same(real, mine, times=each[0] in TIMES), (source, each, real, mine, str(real), str(mine))


@EXAMPLES
@given(numbers=st.lists(NUMBERS, min_size=1, max_size=5))
def test_numbers_of_scripts_are_written_and_returned_alike(link, numbers):
    listed = ", ".join(repr(each).replace("inf", "math.huge") for each in numbers)
    source = f"""
local out = {{}}
for _, number in ipairs({{{listed}}}) do
  out[#out + 1] = {{number, tostring(number), string.format('%.0f', number), number .. '', redis.call('ECHO', number),
    redis.call('ZADD', 'z', number, 'm'), redis.call('ZSCORE', 'z', 'm'), redis.call('ZINCRBY', 'z', 1, 'm')}}
end
return out"""
    said(link, "FLUSHALL")
    real, mine = said(link, "EVAL", source, 0), answers(Store(), pack(("EVAL", source, 0)))[0]
    for theirs, ours in zip(real, mine, strict=True):
        assert all(a == b or one_double(a, b) for a, b in zip(theirs, ours, strict=True)), (source, theirs, ours)


@EXAMPLES
@given(layout=LAYOUTS, data=st.data())
def test_struct_packs_and_unpacks_alike(link, layout, data):
    items = [
        "'text'" if each == "s" else "3, 'abc'" if each == "c" else str(data.draw(st.integers(0, 100)))
        for each in layout.replace("I2c0", "c")
        if each.isalpha() and each != "x"
    ]
    source = PACKED % ", ".join(items or ["nil"])
    real, mine = said(link, "EVAL", source, 0, layout), answers(Store(), pack(("EVAL", source, 0, layout)))[0]
    assert same(real, mine), (source, layout, real, mine, str(real), str(mine))


@pytest.mark.parametrize(
    "source",
    [
        "return cjson.decode(ARGV[1]).rates[2].name .. tostring(cjson.decode(ARGV[1]).none == cjson.null)",
        "return {cjson.decode(ARGV[1]).rates[1].n * 2, tostring(cjson.decode(ARGV[1]).yes)}",
        "local no = cjson.decode('{') return no",
        "return redis.error_reply('LATE 12')",
        "return redis.status_reply('FINE')",
        "return {ok = 'FINE'}",
        "return {err = 'SOME error'}",
        "return {1.9, -1.9, '1.9', true, false, 4}",
        "return {1, 2, nil, 4}",
        "return 3, 4",
        "return nil",
        "return {{}, {{{1}}}, {a = 1}}",
        "return redis.call('GET')",
        "return redis.call('GET', {})",
        "return {redis.pcall('GET').err ~= nil, redis.call('SET', 'a', 'b').ok}",
        "x = 1",
        "return x",
        "return nil + 1",
        "error('mine')",
        "return redis.sha1hex('a')",
        "return #KEYS .. KEYS[1] .. ARGV[2]",
        "return {pcall(redis.call, 'GET')}",
        "return {pcall(error, 'x')}",
        "return string.format('%.17g %d %s', 0.1, 3.0, 'x') .. math.floor(-1.5)",
        "return {string.match('ab 12', '(%a+) (%d+)')}",
        "return redis.call('TIME')[1] == redis.call('TIME')[1]",
        "return",
        "return ((",
    ],
)
def test_what_scripts_are_made_of(link, source):
    said(link, "FLUSHALL")
    words = ("EVAL", source, 1, "k", '{"rates": [{"n": 1.25}, {"name": "\\u00e9"}], "none": null, "yes": true}', "v")
    real, mine = said(link, *words), answers(Store(), pack(words))[0]
    assert same(real, mine), (real, mine, str(real), str(mine))


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("return cjson.encode({})", "cjson.encode"),
        ("return cmsgpack.pack(1)", "cmsgpack.pack"),
        ("return bit.band(1, 1)", "bit.band"),
        ("redis.setresp(3)", "redis.setresp"),
        ("return struct.pack('T', 1)", "struct format 'T'"),
        ("return redis.call('GEOADD', 'k', 1, 1, 'm')", "unknown command 'GEOADD'"),
    ],
)
def test_what_the_memory_does_not_have_is_named(source, named):
    error = answers(Store(), pack(("EVAL", source, 0)))[0]
    assert named in str(error)
    assert "workerkit's memory has no" in str(error)
