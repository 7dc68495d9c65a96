"""What should not be there: bad entries, arguments, results and definitions. Entries never fail a call; the rest is
one clear error where it is made."""

from __future__ import annotations

import asyncio
import json
import math
import os
import pickle
import random
import struct
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import zstandard
from pydantic import BaseModel

from workerkit import WorkerKit
from workerkit.core import envelope
from workerkit.core.envelope import Envelope, pack
from workerkit.core.events import CacheTrouble, Event
from workerkit.errors import CodecError, DefinitionError, EncodingError

if TYPE_CHECKING:
    from workerkit.testing.servers import RunningServer

GIGABYTE = 1 << 30
FOR_EVER = 2**53


class Profile(BaseModel):
    name: str


class Exploding:
    """Pickled, it fails the test of whoever loads it."""

    def __reduce__(self) -> Any:
        return pytest.fail, ("a pickle was loaded",)


@pytest.fixture
def events() -> list[Event]:
    return []


@pytest.fixture
def kit(redis_url: str, events: list[Event]) -> Iterator[WorkerKit]:
    with WorkerKit(url=redis_url, hooks=[events.append]) as kit:
        yield kit


class Function:
    """A memoized function whose entry a test spoils."""

    def __init__(self, kit: WorkerKit, server: RunningServer) -> None:
        self.calls: list[int] = []
        self.server = server

        @kit.memoize("1m", version="spoilt")
        def profile(user: int) -> Profile:
            self.calls.append(user)
            return Profile(name=f"name of {user}")

        self.call = profile
        self.key: str = profile.memo.key(1)

    def stored(self, user: int = 1) -> bytes:
        reply = self.server.cli("GET", self.call.memo.key(user))
        assert isinstance(reply, str)
        return reply.encode(errors="surrogateescape")

    def spoil(self, data: bytes) -> None:
        self.server.cli("SET", self.key, data, "PX", 60_000)

    def assert_a_miss_that_is_repaired(self) -> None:
        before = len(self.calls)
        errors = self.call.memo.stats().errors
        assert self.call(1) == Profile(name="name of 1")
        assert len(self.calls) == before + 1
        assert self.call.memo.stats().errors == errors + 1
        assert self.call(1) == Profile(name="name of 1")  # from the good entry that replaced it
        assert len(self.calls) == before + 1


@pytest.fixture
def function(kit: WorkerKit, redis_server: RunningServer) -> Function:
    function = Function(kit, redis_server)
    function.call(1)
    function.call(2)
    return function


def valid(
    key: str, body: bytes, *, codec: int = 1, secret: bytes | None = None, cost_us: int = 0, flags: int = 0
) -> bytes:
    """An entry that nothing is wrong with but what is said here."""
    made = Envelope(b"seenseen", 1, FOR_EVER, FOR_EVER, cost_us, (), codec, flags, body)
    return pack(made, key=key, secret=secret)


def resealed(data: bytes, key: str) -> bytes:
    """An entry changed by one who knows how its checksum is made."""
    return data + envelope._checksum(data, key, None)


def of_version(version: int) -> Callable[[Function], bytes]:
    def made(function: Function) -> bytes:
        good = function.stored()
        return resealed(good[:2] + bytes([version]) + good[3:-8], function.key)

    return made


def bomb(kind: str) -> bytes:
    """A gigabyte of zeros as a zstd frame that says so, says nothing, or lies."""
    writer = zstandard.ZstdCompressor().compressobj(size=-1 if kind == "undeclared" else GIGABYTE)
    frame = b"".join([*(writer.compress(bytes(1 << 20)) for _ in range(1024)), writer.flush()])
    return frame if kind != "lying" else frame.replace(struct.pack("<I", GIGABYTE), struct.pack("<I", 1000), 1)


def inflating(key: str, frame: bytes) -> bytes:
    head = valid(key, b"")[:-8]
    # `wire` says whether the body is compressed; its place follows the flags.
    return resealed(head[:6] + b"\x01" + head[7:] + frame, key)


BAD: dict[str, Callable[[Function], bytes]] = {
    "nothing": lambda _: b"",
    "noise": lambda _: random.Random(1).randbytes(500),
    "noise after the magic": lambda _: b"wk\x01" + random.Random(2).randbytes(500),
    "another key's entry": lambda function: function.stored(2),
    "an older format": of_version(0),
    "a newer format": of_version(2),
    "another codec": lambda function: valid(function.key, b'{"name": "hunter2"}', codec=2),
    "a codec of the future": lambda function: valid(function.key, b'{"name": "hunter2"}', codec=255),
    "signed where nothing is": lambda function: valid(function.key, b'{"name": "hunter2"}', secret=b"s"),
    "another shape": lambda function: valid(function.key, b'{"password": "hunter2"}'),
    "no JSON": lambda function: valid(function.key, b"hunter2"),
    "no body": lambda function: valid(function.key, b""),
    "deep JSON": lambda function: valid(function.key, b"[" * 100_000),
    "a pickle": lambda _: pickle.dumps(Exploding()),
    "a pickle as body": lambda function: valid(function.key, pickle.dumps(Exploding())),
    "a pickle as body of another codec": lambda function: valid(function.key, pickle.dumps(Exploding()), codec=2),
    "JSON": lambda _: b'{"name": "hunter2"}',
    "JSON that names a class": lambda function: valid(
        function.key, json.dumps({"__class__": "subprocess.Popen", "py/object": "os.system", "args": ["x"]}).encode()
    ),
    "a frame cut short": lambda function: inflating(function.key, zstandard.compress(b'{"name": "x"}')[:-3]),
    "two frames": lambda function: inflating(function.key, zstandard.compress(b'{"name": "x"}') * 2),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_entry_is_a_miss_and_is_replaced(function: Function, events: list[Event], kind: str) -> None:
    function.spoil(BAD[kind](function))
    function.assert_a_miss_that_is_repaired()
    troubles = [event for event in events if isinstance(event, CacheTrouble)]
    assert troubles
    assert "hunter2" not in repr(troubles)


def test_an_entry_cut_anywhere_is_a_miss(function: Function) -> None:
    good = function.stored()
    for length in range(0, len(good), 3):
        function.spoil(good[:length])
        function.assert_a_miss_that_is_repaired()


def test_an_entry_with_one_bit_flipped_is_a_miss(function: Function) -> None:
    good = function.stored()
    for bit in range(0, len(good) * 8, 5):
        flipped = bytearray(good)
        flipped[bit // 8] ^= 1 << bit % 8
        function.spoil(bytes(flipped))
        function.assert_a_miss_that_is_repaired()


@pytest.mark.parametrize("body", [None, b"hunter2"])
def test_of_all_who_meet_a_bad_entry_one_computes(redis_url: str, redis_server: RunningServer, body: Any) -> None:
    kits = [WorkerKit(url=redis_url, hooks=[]) for _ in range(2)]
    functions = [Function(kit, redis_server) for kit in kits]
    key = functions[0].key
    functions[0].spoil(b"noise" if body is None else valid(key, body))
    start = threading.Barrier(16)

    def call(n: int) -> Profile:
        start.wait(10)
        profile: Profile = functions[n % 2].call(1)
        return profile

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(call, range(16))) == [Profile(name="name of 1")] * 16
    assert sum(len(function.calls) for function in functions) == 1
    for kit in kits:
        kit.close()


def test_an_impossible_cost_does_not_break_the_counts(function: Function) -> None:
    for cost_us in (2**64 - 1, 2**63 - 1, 2**63 - 1):
        function.spoil(valid(function.key, b'{"name": "x"}', cost_us=cost_us))
        function.call(1)
        assert 0 <= function.call.memo.stats().saved < 1e12
    function.call(2)
    assert function.call.memo.stats().hits >= 1


class NotFound(Exception):
    pass


class Particular(Exception):
    def __new__(cls, *, code: int) -> Any:
        return super().__new__(cls, code)


@pytest.mark.parametrize("kind", [NotFound, Particular])
@pytest.mark.parametrize(
    "args", [b"5", b"null", b'"hunter2"', b'{"a": 1}', b"[1, 2, 3]", b"[]", b"no JSON", pickle.dumps(Exploding())]
)
def test_a_remembered_failure_that_cannot_be_made_is_a_miss(
    kit: WorkerKit, redis_server: RunningServer, kind: type[Exception], args: bytes
) -> None:
    @kit.memoize("1m", negative={kind: "1m"})
    def fn() -> int:
        return 7

    key = fn.memo.key()
    name = f"{kind.__module__}.{kind.__qualname__}".encode()
    for body in (b'["' + name + b'", ' + args + b"]", b'["builtins.SystemExit", ' + args + b"]", args):
        redis_server.cli("SET", key, valid(key, body, flags=1), "PX", 60_000)
        assert outcome(fn) in (7, kind)


def outcome(fn: Callable[[], Any]) -> Any:
    try:
        return fn()
    except Exception as error:  # noqa: BLE001 - which one it is, is what is asked
        return type(error)


def test_a_flag_of_the_future_is_a_miss(function: Function) -> None:
    for flags in (1, 2, 3, 2**16 - 1):
        function.spoil(valid(function.key, b'{"name": "hunter2"}', flags=flags))
        assert function.call(1) == Profile(name="name of 1")


def test_coroutines_meet_the_same(redis_url: str, redis_server: RunningServer) -> None:
    async def main() -> None:
        async with WorkerKit(url=redis_url, hooks=[]) as kit:
            calls = []

            @kit.memoize("1m")
            async def fn() -> int:
                calls.append(1)
                return 7

            key = fn.memo.key()
            for data in (b"", b"noise", valid(key, b"no int"), pickle.dumps(Exploding())):
                redis_server.cli("SET", key, data, "PX", 60_000)
                before = len(calls)
                assert [await fn(), await fn()] == [7, 7]
                assert len(calls) == before + 1

    asyncio.run(main())


def test_plain_values_meet_the_same(kit: WorkerKit, redis_server: RunningServer, events: list[Event]) -> None:
    kit.cache.set("k", 1, ttl="1m")
    keys = redis_server.cli("KEYS", "*")
    assert isinstance(keys, list)
    key = keys[0]
    for data in (b"", b"noise", valid(key, b"no json"), valid(key, b"1", codec=2), pickle.dumps(Exploding())):
        redis_server.cli("SET", key, data, "PX", 60_000)
        events.clear()
        assert kit.cache.get("k", "default") == "default"
        assert isinstance(events[0], CacheTrouble)
    assert kit.cache.set("k", 2, ttl="1m")
    assert kit.cache.get("k") == 2


def test_an_entry_is_refused_after_the_secret_has_changed(redis_url: str, redis_server: RunningServer) -> None:
    """The key changes with the secret, so the replayed entry is moved, and once more made for its new key."""
    old, new = WorkerKit(url=redis_url, hooks=[], secret="old"), WorkerKit(url=redis_url, hooks=[], secret="new")
    function, before = Function(new, redis_server), Function(old, redis_server)
    before.call(1)
    function.call(1)
    assert before.key != function.key
    body = b'{"name": "replayed"}'
    for data in (before.stored(), valid(function.key, body, secret=b"old"), valid(function.key, body)):
        function.spoil(data)
        function.assert_a_miss_that_is_repaired()
    for kit in (old, new):
        kit.close()


def test_an_entry_above_max_bytes_is_a_miss(redis_url: str, redis_server: RunningServer) -> None:
    small = WorkerKit(url=redis_url, hooks=[], max_bytes=1000)
    function = Function(small, redis_server)
    body = json.dumps({"name": "x" * 100_000}).encode()
    for data in (valid(function.key, body), resealed(valid(function.key, b"")[:-8] + body, function.key)):
        assert (len(data) > 1000) is (body in data)  # once compressed, once as it is
        function.spoil(data)
        function.assert_a_miss_that_is_repaired()
    small.close()


_MEASURED = """
import resource, sys
from workerkit import WorkerKit

kit = WorkerKit(url=sys.argv[1], hooks=[])
@kit.memoize("1m", version="bombed")
def fn(n: int) -> str:
    return f"computed {n}"

fn(2), fn.memo.stats()
print(fn.memo.key(1), flush=True)
sys.stdin.readline()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(fn(1), fn.memo.stats().errors, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.real
@pytest.mark.parametrize("kind", ["declared", "undeclared", "lying"])
def test_a_bomb_is_a_miss_in_bounded_memory(redis_url: str, redis_server: RunningServer, kind: str) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    frame = bomb(kind)
    assert len(frame) < 200_000
    with subprocess.Popen(
        [sys.executable, "-c", _MEASURED, redis_url], env=environment, stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        key = process.stdout.readline().strip()
        redis_server.cli("SET", key, inflating(key, frame), "PX", 60_000)
        process.stdin.write("go\n")
        process.stdin.flush()
        answer = process.stdout.readline().split()
    assert answer[:3] == ["computed", "1", "1"]
    assert int(answer[3]) < 100_000  # kilobytes


@pytest.mark.parametrize("command", [("RPUSH", "a", "b"), ("HSET", "a", "b"), ("SADD", "a")])
@pytest.mark.parametrize("which", ["value", "lease"])
def test_a_key_of_another_type_is_a_miss_and_is_overwritten(
    kit: WorkerKit, redis_server: RunningServer, events: list[Event], command: tuple[str, ...], which: str
) -> None:
    function = Function(kit, redis_server)
    key = function.key if which == "value" else function.key.removesuffix("v") + "l"
    redis_server.cli(command[0], key, *command[1:])
    assert function.call(1) == function.call(1) == Profile(name="name of 1")
    assert len(function.calls) == 1
    # Only who reads it is troubled: nobody reads a lease to tell what it says.
    troubles = [event for event in events if isinstance(event, CacheTrouble)]
    assert len(troubles) == function.call.memo.stats().errors == (1 if which == "value" else 0)


class Opaque:
    password = "hunter2"


def nested(depth: int) -> Any:
    value: Any = "hunter2"
    for _ in range(depth):
        value = [value]
    return value


def cyclic(kind: type[Any]) -> Any:
    value = kind()
    value.append(value) if kind is list else value.update(me=value)
    return value


BAD_ARGUMENTS: dict[str, Callable[[], Any]] = {
    "100 deep": lambda: nested(100),
    "100,000 deep": lambda: nested(100_000),
    "10 MB of text": lambda: "hunter2" * 1_500_000,
    "10 MB of wide text": lambda: "ü" * 10_000_000,
    "10 MB of bytes": lambda: b"hunter2" * 1_500_000,
    "10 million items": lambda: [0] * 10_000_000,
    "a million texts": lambda: {f"hunter2 {n}" for n in range(1_000_000)},
    "a huge int": lambda: 1 << 80_000_000,
    "no encoding": Opaque,
    "no encoding, inside": lambda: {"hunter2": [1, (Opaque(),)]},
    "a cyclic list": lambda: cyclic(list),
    "a cyclic dict": lambda: cyclic(dict),
    "a function": lambda: nested,
}


@pytest.mark.parametrize("kind", BAD_ARGUMENTS)
def test_a_bad_argument_is_one_error_with_both_ways_out(kit: WorkerKit, kind: str) -> None:
    calls = []

    @kit.memoize("1m")
    def fn(good: int, value: Any) -> int:
        calls.append(value)
        return good

    bad = BAD_ARGUMENTS[kind]()
    tracemalloc.start()
    try:
        with pytest.raises(EncodingError) as caught:
            fn(1, bad)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.argument == "value"
    text = str(caught.value)
    assert "argument 'value'" in text
    assert 'ignore=("value",)' in text
    assert "key=" in text
    assert "hunter2" not in text
    assert len(text) < 500
    assert not calls
    assert peak < 16 << 20


def test_odd_arguments_are_arguments_like_any_other(kit: WorkerKit) -> None:
    calls: list[Any] = []

    @kit.memoize("1m")
    def fn(value: Any) -> int:
        calls.append(value)
        return len(calls)

    @kit.memoize("1m", key="{value}")
    def templated(value: Any) -> int:
        calls.append(value)
        return len(calls)

    odd = ["\ud800", "\udc00", "\ufffd", "\x00", "{}", "a:b", "a\nb", "*", "", "nan", b"\xff", math.inf, -0.0, 0.0, 0]
    assert [fn(value) for value in odd] == list(range(1, len(odd) + 1))
    assert [fn(value) for value in odd] == list(range(1, len(odd) + 1))
    assert fn(math.nan) == fn(float("nan")) == len(odd) + 1
    assert templated("\ud800") == templated("\ud800") != templated("\udc00")


BAD_RESULTS: dict[str, Callable[[], Any]] = {
    "no JSON": Opaque,
    "no JSON, inside": lambda: {"hunter2": [Opaque()]},
    "a lone surrogate": lambda: "\ud800",
    "another type inside": lambda: [(1, 2)],
    "nested": lambda: nested(10_000),
    "cyclic": lambda: cyclic(list),
    "a generator": lambda: (each for each in "hunter2"),
    "above max_bytes": lambda: "hunter2" * 200_000,
}


@pytest.mark.parametrize("kind", BAD_RESULTS)
def test_a_bad_result_is_one_error_and_nobody_waits(redis_url: str, redis_server: RunningServer, kind: str) -> None:
    kit = WorkerKit(url=redis_url, hooks=[], max_bytes=1_000_000)

    @kit.memoize("1m")
    def fn(good: bool) -> Any:
        return 1 if good else BAD_RESULTS[kind]()

    for _ in range(2):
        with pytest.raises(CodecError, match=r"max_bytes=1000000; store less or raise it|annotat") as caught:
            fn(False)
        assert "hunter2" not in str(caught.value)
        assert redis_server.cli("KEYS", "*:[lv]") == []  # neither an entry nor a lease to wait for
    assert fn.memo.stats().waits == 0
    assert fn(True) == fn(True) == 1
    kit.close()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ttl": 0}, r"ttl: 0 .*at least 1us.*write seconds"),
        ({"ttl": -1}, r"ttl: -1 .*at least 1us.*write seconds"),
        ({"ttl": math.nan}, r"ttl: nan .*write seconds"),
        ({"ttl": math.inf}, r"ttl: inf .*at most 100 years"),
        ({"ttl": 2**63}, r"ttl: 9223372036854775808 .*at most 100 years"),
        ({"ttl": 10**5000}, r"ttl: an int of \d+ bits .*at most 100 years"),
        ({"ttl": "10 parsecs"}, r"ttl: '10 parsecs' is no duration; write seconds"),
        ({"ttl": ""}, r"ttl: '' is no duration"),
        ({"ttl": "-1s"}, r"ttl: '-1s' is no duration"),
        ({"ttl": None}, r"ttl=None .*write a duration"),
        ({"ttl": True}, r"ttl: True is no duration"),
        ({"ttl": 1, "stale": 0}, r"stale: 0 .*at least 1us"),
        ({"ttl": 1, "stale": math.nan}, r"stale: nan .*write seconds"),
        ({"ttl": 1, "stale": "a while"}, r"stale: 'a while' is no duration"),
        ({"ttl": 1, "lease": 0}, r"lease: 0 .*at least 1us"),
        ({"ttl": 1, "lease": "10 parsecs"}, r"lease: '10 parsecs' is no duration"),
        ({"ttl": 1, "wait": -1}, r"wait: -1 .*at least 1us"),
        ({"ttl": 1, "wait": math.inf}, r"wait: inf .*at most 100 years"),
        ({"ttl": 1, "key": "{b}"}, r"key: there is no argument 'b'; there are: a"),
        ({"ttl": 1, "key": "{}"}, r"key: \{\} is no field; write an argument"),
        ({"ttl": 1, "key": "{a"}, r"key: '\{a' is no template .*a literal brace is"),
        ({"ttl": 1, "key": "{a!r}"}, r"key: .*write a callable instead"),
        ({"ttl": 1, "key": "{a._secret}"}, r"key: .*public attributes"),
        ({"ttl": 1, "key": 5}, r"key must be text or a callable, not int"),
        ({"ttl": 1, "key": lambda other: other}, r"key: there is no argument 'other'; there are: a"),
        ({"ttl": 1, "key": "{a}", "ignore": ("a",)}, r"key= .*leave ignore= out"),
        ({"ttl": 1, "codec": "protobuf"}, r"codec: kombu has no serializer 'protobuf'; there are: .*register"),
        ({"ttl": 1, "codec": 5}, r"codec: kombu has no serializer 5; there are: .*register"),
        ({"ttl": 1, "tags": "user:{a}"}, r"tags is a list .*write tags=\['user:\{a\}'\]"),
        ({"ttl": 1, "tags": ["user:{b}"]}, r"tags: there is no argument 'b'; there are: a"),
        ({"ttl": 1, "negative": ValueError}, r"negative is a dict, such as"),
        ({"ttl": 1, "negative": {ValueError: 0}}, r"negative\[ValueError\]: 0 .*at least 1us"),
        ({"ttl": 1, "negative": {"ValueError": 1}}, r"negative maps exception classes to durations"),
        ({"ttl": 1, "negative": {KeyboardInterrupt: 1}}, r"negative maps exception classes to durations"),
        ({"ttl": 1, "stale_if_error": -1}, r"stale_if_error: -1 .*at least 1us"),
        ({"ttl": 1, "early": -1}, r"early is a number of at least 0"),
        ({"ttl": 1, "early": math.nan}, r"early is a number of at least 0"),
        ({"ttl": 1, "jitter": 1}, r"jitter is a number from 0 up to"),
        ({"ttl": 1, "max_bytes": 0}, r"max_bytes is a number of bytes, 1 at least"),
        ({"ttl": 1, "max_bytes": True}, r"max_bytes is a number of bytes, 1 at least"),
        ({"ttl": 1, "l1": 5}, r"l1 is True, or L1\("),
        ({"ttl": 1, "refresh": "later"}, r"refresh is 'inline' or 'queue'"),
        ({"ttl": 1, "refresh": "queue"}, r"refresh='queue' .*stale="),
        ({"ttl": 1, "ignore": "a"}, r"ignore must be a tuple of names: write ignore=\(\"a\",\)"),
        ({"ttl": 1, "ignore": ("b",)}, r"ignore: .*has no parameter 'b'; it has: a"),
    ],
)
def test_a_bad_definition_says_what_to_write(kit: WorkerKit, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):

        @kit.memoize(**options)
        def fn(a: int) -> int:
            return a


@pytest.mark.parametrize("codec", ["json", "msgpack", "yaml", "pickle"])
def test_a_codec_by_name(kit: WorkerKit, redis_server: RunningServer, codec: str) -> None:
    calls = []

    @kit.memoize("1m", codec=codec, version="code")
    def fn(a: int) -> Profile:
        calls.append(a)
        return Profile(name=str(a))

    assert fn(1) == fn(1) == fn.memo.peek(1) == Profile(name="1")
    key = fn.memo.key(1)
    for data in (b"noise", valid(key, pickle.dumps(Exploding()), codec=1), valid(key, b"hunter2 [", codec=2)):
        redis_server.cli("SET", key, data, "PX", 60_000)
        assert fn(1) == fn(1) == Profile(name="1")
    assert calls == [1] * 4


def test_another_codec_reads_other_keys(kit: WorkerKit) -> None:
    def fn() -> Profile:
        return Profile(name="x")

    names = ["json", "msgpack", "yaml", "pickle"]
    assert len({kit.memoize("1m", codec=name)(fn).memo.key() for name in names}) == 4
