"""The envelope: round trips, and None, never an exception and never much memory, for any other bytes."""

from __future__ import annotations

import random
import subprocess
import sys
import tracemalloc
from typing import Any

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from workerkit.core import envelope as module
from workerkit.core.envelope import Envelope, pack, unpack
from workerkit.errors import CodecError

U64 = 2**64 - 1
KEY = "wk:c:{profile}:00ff"
ENTRY = Envelope(b"entry-id", 1, 2, 3, 4, (("user:7", 5), ("", U64)), 1, 6, b'{"id":7}')

numbers = st.integers(0, U64)
repeated = st.builds(lambda unit, n: unit * n, st.binary(min_size=1, max_size=9), st.integers(0, 900))
bodies = st.binary(max_size=300) | repeated
envelopes = st.builds(
    Envelope,
    st.binary(min_size=8, max_size=8),
    numbers,
    numbers,
    numbers,
    numbers,
    st.lists(st.tuples(st.text(st.characters(codec=None), max_size=9), numbers), max_size=4).map(tuple),
    st.integers(0, 255),
    st.integers(0, 65535),
    bodies,
)
secrets = st.none() | st.binary(min_size=1, max_size=80)


@given(envelopes, st.text(st.characters(codec=None)), secrets)
def test_round_trip(envelope: Envelope, key: str, secret: bytes | None) -> None:
    assert unpack(pack(envelope, key=key, secret=secret), key=key, secret=secret) == envelope


@given(envelopes, secrets, st.data())
def test_any_change_is_a_miss(envelope: Envelope, secret: bytes | None, data: Any) -> None:
    packed = pack(envelope, key=KEY, secret=secret)
    at = data.draw(st.integers(0, len(packed) - 1))
    some = data.draw(st.binary(min_size=1, max_size=4))
    changed = {
        "flip": packed[:at] + bytes([packed[at] ^ data.draw(st.integers(1, 255))]) + packed[at + 1 :],
        "cut": packed[:at],
        "behead": packed[at + 1 :],
        "remove": packed[:at] + packed[at + 1 :],
        "insert": packed[:at] + some + packed[at:],
        "append": packed + some,
        "twice": packed + packed,
    }
    for how, bytes_ in changed.items():
        if bytes_ != packed:
            assert unpack(bytes_, key=KEY, secret=secret) is None, how


def test_every_single_bit_counts() -> None:
    for secret in (None, b"s"):
        packed = pack(ENTRY, key=KEY, secret=secret)
        for bit in range(len(packed) * 8):
            changed = bytearray(packed)
            changed[bit // 8] ^= 1 << bit % 8
            assert unpack(bytes(changed), key=KEY, secret=secret) is None


@given(st.text(), st.text())
@example("a", "a1")
@example("", "1:")
def test_another_key_is_a_miss(key: str, other: str) -> None:
    packed = pack(ENTRY, key=key)
    assert (unpack(packed, key=other) == ENTRY) == (key == other)


def test_key_and_bytes_cannot_trade_places() -> None:
    """Without its length in the checksum, the end of a key could be taken for the beginning of the bytes."""
    packed = pack(ENTRY, key="ab")
    digest = module._checksum(packed[:-8], "ab", None)
    assert digest == packed[-8:]
    assert module._checksum(b"b" + packed[:-8], "a", None) != digest


@pytest.mark.parametrize(("written", "read"), [(None, b"s"), (b"s", None), (b"s", b"t"), (b"s" * 65, b"s" * 66)])
def test_another_secret_or_none_is_a_miss(written: bytes | None, read: bytes | None) -> None:
    packed = pack(ENTRY, key=KEY, secret=written)
    assert unpack(packed, key=KEY, secret=written) == ENTRY
    assert unpack(packed, key=KEY, secret=read) is None


@given(st.binary(max_size=200) | st.binary(max_size=50).map((b"wk\1\1\0\0\0" + bytes(42)).__add__))
def test_foreign_bytes_are_a_miss(data: bytes) -> None:
    assert unpack(data, key=KEY) is None
    assert unpack(data, key=KEY, secret=b"s") is None


@given(st.binary(max_size=120), st.integers(0, 2), st.integers(0, 3))
def test_a_forged_checksum_never_raises(rest: bytes, version: int, wire: int) -> None:
    """Without a secret anyone can make the checksum right, so everything behind it is hostile too."""
    head = b"wk" + bytes([version, 1, 0, 0, wire]) + bytes(40)
    forged = head + rest
    result = unpack(forged + module._checksum(forged, KEY, None), key=KEY)
    assert result is None or (version == 1 and wire <= 1)


def forge(wire: int = 0, tags: int = 0, rest: bytes = b"", version: int = 1, magic: bytes = b"wk") -> bytes:
    data = module._HEAD.pack(magic, version, 1, 0, wire, b"entry-id", 1, 2, 3, 4, tags) + rest
    return data + module._checksum(data, KEY, None)


def test_a_forged_entry_is_read_when_nothing_is_wrong_with_it() -> None:
    assert unpack(forge(rest=b"x"), key=KEY) is not None


@pytest.mark.parametrize(
    "data",
    [
        forge(version=2, rest=b"x"),
        forge(version=0, rest=b"x"),
        forge(magic=b"WK", rest=b"x"),
        forge(wire=2, rest=zstandard.compress(b"x" * 99)),
        b"wk" + module._checksum(b"wk", KEY, None),
        b"" + module._checksum(b"", KEY, None),
        forge(tags=1),
        forge(tags=65535, rest=bytes(20)),
        forge(tags=1, rest=b"\xff\xff" + bytes(20)),
        forge(tags=1, rest=b"\0\1\xff" + bytes(8)),
        forge(tags=1, rest=b"\0\0" + bytes(7)),  # its last byte would be read out of the checksum
        forge(wire=1, rest=b"no frame"),
        forge(wire=1),
        forge(wire=1, rest=zstandard.compress(b"x" * 99)[:-3]),
        forge(wire=1, rest=zstandard.compress(b"x" * 99) + b"more"),
    ],
)
def test_forged_and_broken_is_a_miss(data: bytes) -> None:
    assert unpack(data, key=KEY) is None


@pytest.mark.parametrize("size", [0, 1, 1024])
def test_small_bodies_stand_as_they_are(size: int) -> None:
    assert b"x" * size in pack(ENTRY._replace(body=b"x" * size), key=KEY)


def test_large_bodies_are_compressed_when_that_is_smaller() -> None:
    assert len(pack(ENTRY._replace(body=b"x" * 1025), key=KEY)) < 200
    noise = random.Random(1).randbytes(5000)
    assert len(pack(ENTRY._replace(body=noise), key=KEY)) == len(pack(ENTRY._replace(body=b""), key=KEY)) + 5000


def bomb(size: int, *, declare: bool) -> bytes:
    compressor = zstandard.ZstdCompressor(level=1, write_content_size=declare)
    stream = compressor.compressobj(size=size) if declare else compressor.compressobj()
    chunk = bytes(1 << 20)
    return b"".join(stream.compress(chunk) for _ in range(size >> 20)) + stream.flush()


def liar(size: int, claim: int) -> bytes:
    """A frame whose header claims `claim` bytes and whose blocks make `size`."""
    frame = bytearray(bomb(size, declare=True))
    assert frame[4] >> 6 == 2, "the content size is a 4-byte field"
    at = 5 if frame[4] & 0x20 else 6
    assert int.from_bytes(frame[at : at + 4], "little") == size
    frame[at : at + 4] = claim.to_bytes(4, "little")
    return bytes(frame)


SIZE, CAP = 128 << 20, 1 << 20


@pytest.mark.parametrize(
    "frame",
    [bomb(SIZE, declare=True), bomb(SIZE, declare=False), liar(SIZE, 1000), liar(SIZE, CAP), liar(1 << 20, 2**32 - 1)],
    ids=["declared", "undeclared", "claims-1000", "claims-the-cap", "claims-4-GiB"],
)
def test_bombs_are_a_miss_and_cost_no_memory(frame: bytes) -> None:
    data = forge(wire=1, rest=frame)
    tracemalloc.start()
    try:
        assert unpack(data, key=KEY, max_bytes=CAP) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < CAP + 4 * len(data) + 100_000


def test_a_bomb_leaves_resident_memory_alone() -> None:
    """What a C library allocates tracemalloc may not see; the kernel does."""
    code = f"""
import resource, sys
sys.path[:0] = {sys.path!r}
import zstandard
from workerkit.core import envelope as module
c = zstandard.ZstdCompressor(level=1).compressobj(size={SIZE})
frame = b"".join(c.compress(bytes(1 << 20)) for _ in range({SIZE} >> 20)) + c.flush()
data = module._HEAD.pack(b"wk", 1, 1, 0, 1, b"entry-id", 1, 2, 3, 4, 0) + frame
data += module._checksum(data, "k", None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert module.unpack(data, key="k", max_bytes={CAP}) is None
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 16 * 1024


def test_max_bytes_at_both_ends() -> None:
    for body in (b"x" * 2000, random.Random(1).randbytes(2000)):
        entry = ENTRY._replace(body=body)
        packed = pack(entry, key=KEY, max_bytes=2000)
        assert unpack(packed, key=KEY, max_bytes=2000) == entry
        assert unpack(packed, key=KEY, max_bytes=1999) is None
        with pytest.raises(CodecError, match="max_bytes=1999"):
            pack(entry, key=KEY, max_bytes=1999)


@pytest.mark.parametrize(
    "change",
    [
        *({"entry_id": b"short"}, {"entry_id": b"too-long-id"}, {"soft_us": -1}, {"hard_us": U64 + 1}, {"codec": 256}),
        *({"flags": 65536}, {"tags": (("a", -1),)}, {"tags": (("x" * 65536, 1),)}, {"tags": (("a", 1),) * 65536}),
    ],
)
def test_what_does_not_fit_is_refused_before_sending(change: dict[str, Any]) -> None:
    with pytest.raises(CodecError):
        pack(ENTRY._replace(**change), key=KEY)


def test_the_format_is_what_it_was() -> None:
    """A changed layout under the same version number would make older workers read nonsense."""
    packed = pack(ENTRY._replace(tags=(("t", 9),)), key=KEY)
    assert packed[:-8].hex() == (
        "776b" "01" "01" "0006" "00" + b"entry-id".hex() + "".join(f"{n:016x}" for n in (1, 2, 3, 4))
        + "0001" "0001" + "74" + f"{9:016x}" + b'{"id":7}'.hex()
    )  # fmt: skip
    assert len(pack(ENTRY, key=KEY, secret=b"s")) == len(pack(ENTRY, key=KEY)) + 8
