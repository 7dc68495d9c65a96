"""The bytes of a cached value: what must be known about it, the body, and a checksum over both and the key.

    magic 2 | version 1 | codec 1 | flags 2 | wire 1 | entry id 8 | created, soft, hard, cost 8 each | tags 2
    then per tag: length 2, name, version 8 | body (zstd when `wire` says so) | checksum 8, or MAC 16 with a secret
    (the checksum is the CRC-32 of ISO 3309 and the length; the MAC is keyed BLAKE2b, RFC 7693)

Integers are big-endian. Whether there is a MAC is the reader's configuration, never the data's word.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from hmac import compare_digest
from typing import NamedTuple
from zlib import crc32

from workerkit.core.encoding import hash_for
from workerkit.errors import CodecError

MAX_BYTES = 64 << 20
COMPRESS_FROM = 1024

_HEAD = struct.Struct(">2sBBHB8sQQQQH")
_SUM = struct.Struct(">II")
_MAC_SIZE = 16
_LENGTH = struct.Struct(">H")
_TAG_VERSION = struct.Struct(">Q")
_MAGIC, _FORMAT = b"wk", 1
_RAW, _ZSTD = 0, 1
_PERSON = b"workerkit-entry"


class Envelope(NamedTuple):
    """One entry. Times are the server's, in microseconds since 1970: created, stale from `soft_us`, gone at `hard_us`.

    `entry_id` is 8 bytes, `cost_us` the time the computation took, `tags` the (name, version) pairs it was made under,
    `codec` (8 bits) and `flags` (16) belong to the caller; all other integers are unsigned 64 bits. A tuple and not a
    frozen dataclass, because that takes 0.7 us longer to build, a third of reading an entry.
    """

    entry_id: bytes
    created_us: int
    soft_us: int
    hard_us: int
    cost_us: int
    tags: tuple[tuple[str, int], ...]
    codec: int
    flags: int
    body: bytes


def pack(
    envelope: Envelope, *, key: str, secret: bytes | None = None, level: int = 3, max_bytes: int = MAX_BYTES
) -> bytes:
    """The bytes to store under `key`, signed when there is a `secret`; zstd above 1 KB when that is smaller.

    `CodecError` for a body above `max_bytes` and for a field that does not fit its place.
    """
    body = envelope.body
    if len(body) > max_bytes:
        raise CodecError(f"the value is {len(body)} bytes, more than max_bytes={max_bytes}; store less or raise it")
    wire = _RAW
    if len(body) > COMPRESS_FROM:
        smaller = _deflate(body, level)
        if len(smaller) < len(body):
            body, wire = smaller, _ZSTD
    data = b"".join((*_head(envelope, wire), body))
    return data + _checksum(data, key, secret)


def unpack(data: bytes, *, key: str, secret: bytes | None = None, max_bytes: int = MAX_BYTES) -> Envelope | None:
    """What was packed under this key and secret, or None for any other bytes: corrupt, cut, moved, foreign, too big."""
    return unpacker(key, secret=secret, max_bytes=max_bytes)(data)


def unpacker(
    key: str, *, secret: bytes | None = None, max_bytes: int = MAX_BYTES
) -> Callable[[bytes], Envelope | None]:
    """`unpack` for one key: what depends on that alone is worked out once."""
    check = _checker(key, secret)
    size = _SUM.size if secret is None else _MAC_SIZE

    def unpack_one(data: bytes) -> Envelope | None:
        end = len(data) - size
        if end < _HEAD.size or not compare_digest(data[end:], check(data[:end])):
            return None
        magic, version, codec, flags, wire, entry_id, created, soft, hard, cost, count = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != _FORMAT or wire > _ZSTD:
            return None
        tags: tuple[tuple[str, int], ...] = ()
        at = _HEAD.size
        if count:
            # Without a secret anyone can make a valid checksum, so the tag block is still read with care.
            try:
                tags, at = _read_tags(data, at, count)
            except (struct.error, UnicodeDecodeError):
                return None
            if at > end:
                return None
        body = _inflate(data[at:end], max_bytes) if wire else data[at:end]
        if body is None or len(body) > max_bytes:
            return None
        # As Envelope(...) does it, without the frame of the __new__ that a NamedTuple has.
        return tuple.__new__(Envelope, (entry_id, created, soft, hard, cost, tags, codec, flags, body))

    return unpack_one


def _head(envelope: Envelope, wire: int) -> list[bytes]:
    e = envelope
    if len(e.entry_id) != 8:  # struct would pad or cut it
        raise CodecError(f"an entry id is 8 bytes, not {len(e.entry_id)}")
    try:
        times = e.created_us, e.soft_us, e.hard_us, e.cost_us
        parts = [_HEAD.pack(_MAGIC, _FORMAT, e.codec, e.flags, wire, e.entry_id, *times, len(e.tags))]
        for tag, version in e.tags:
            name = tag.encode("utf-8", "surrogatepass")
            parts += _LENGTH.pack(len(name)), name, _TAG_VERSION.pack(version)
    except struct.error as error:
        raise CodecError(f"the entry does not fit its envelope: {error}") from None
    return parts


def _read_tags(data: bytes, at: int, count: int) -> tuple[tuple[tuple[str, int], ...], int]:
    tags = []
    for _ in range(count):
        (length,) = _LENGTH.unpack_from(data, at)
        name = data[at + 2 : at + 2 + length].decode("utf-8", "surrogatepass")
        at += 2 + length
        (version,) = _TAG_VERSION.unpack_from(data, at)
        at += 8
        tags.append((name, version))
    return tuple(tags), at


def _checksum(data: bytes, key: str, secret: bytes | None) -> bytes:
    return _checker(key, secret)(data)


def _checker(key: str, secret: bytes | None) -> Callable[[bytes], bytes]:
    name = f"{len(key)}:{key}".encode("utf-8", "surrogatepass")
    if secret is None:
        seed = crc32(name)
        # Against accidents only, so what finds these will do: a hash costs as much as the rest of `unpack`.
        return lambda data: _SUM.pack(crc32(data, seed), len(data))
    begun = hash_for(_PERSON, _MAC_SIZE, secret).copy()
    begun.update(name)

    def mac(data: bytes) -> bytes:
        state = begun.copy()
        state.update(data)
        return state.digest()

    return mac


def _deflate(body: bytes, level: int) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(level=level).compress(body)


def _inflate(frame: bytes, max_bytes: int) -> bytes | None:
    import zstandard

    try:
        # Our frames declare their size, and a declared size bounds what the decoder allocates and writes.
        if not 0 <= zstandard.frame_content_size(frame) <= max_bytes:
            return None
        return zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError:
        return None
