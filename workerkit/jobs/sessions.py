"""Sessions as Calls and Flows: a record under a reference that stays, opened by a secret that every rotation changes.

An id is both: 16 characters of reference, which stand in keys and listings, and 24 of secret, 144 random bits, of which
Redis gets a digest. So a rotation is one write to one key: no request can see a session between two ids, and the old
id is dead with it. Points of OWASP's Session Management Cheat Sheet are the measure.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hmac import compare_digest
from typing import Any, NamedTuple

from pydantic import BaseModel

from workerkit.core.call import Call, as_is
from workerkit.core.codec import FAILURES
from workerkit.core.durations import Duration, seconds
from workerkit.core.flow import Batch, Flow
from workerkit.core.keys import Keys, escape
from workerkit.core.lua import Script
from workerkit.errors import CodecError, DefinitionError, SessionGone, StoreError
from workerkit.jobs.policy import MAX_LABEL
from workerkit.jobs.record import FIELD, Record, text, utf8

MAX_DATA = 64 * 1024  # bytes of names and JSON, all fields together
_LOT = 200  # sessions of an owner that are looked at in one pipeline

_CREATE = Script("workerkit.jobs", "session_create")
_READ = Script("workerkit.jobs", "session_read")
_WRITE = Script("workerkit.jobs", "session_write")
_ROTATE = Script("workerkit.jobs", "session_rotate")
_REVOKE = Script("workerkit.jobs", "session_revoke")
_INDEX = Script("workerkit.jobs", "session_index")

_REF = re.compile(r"[A-Za-z0-9_-]{16}")
_ID = re.compile(r"[A-Za-z0-9_-]{40}")
_write_json = json.JSONEncoder(allow_nan=False).encode


@dataclass(frozen=True)
class SessionInfo:
    """A session as it was at one moment. `ref` names it and opens nothing: it may be shown, logged, and revoked by.

    `created` is in seconds since 1970, by the server's clock; `expires_in` are seconds, if nobody uses it until then.
    """

    ref: str
    owner: str | None
    created: float
    expires_in: float
    data: dict[str, Any] = field(repr=False)


class Opening(NamedTuple):
    """What an id comes down to: where the record is, and what it must hold to be opened."""

    ref: str
    digest: str


class Changes(NamedTuple):
    """Fields to set, as JSON, and names of those to delete."""

    sets: Mapping[str, bytes] = {}
    deletes: Sequence[str] = ()


class SessionStore:
    """Makes the Calls and Flows on sessions. `digest` is what stands for an id in Redis.

    Every Call may be sent twice: the second time it changes nothing more.
    """

    def __init__(self, keys: Keys, digest: Callable[[str], str]) -> None:
        self._keys = keys
        self._digest = digest

    def opening(self, session_id: object) -> Opening | None:
        """What opens the session of that id; None for what was never an id."""
        if not isinstance(session_id, str) or not _ID.fullmatch(session_id):
            return None
        return Opening(session_id[:16], self._digest(session_id))

    def creating(
        self, data: Mapping[str, object] | BaseModel | None, owner: str | None, idle: Duration, absolute: Duration
    ) -> Flow[tuple[str, SessionInfo]]:
        """A new session under a new id. Its record comes before its owner hears of it.

        So `revoking_all` finds either both, or a session whose creation is not over: that one will be noted, and not
        be lost to the next. An id that was never noted was never given out.
        """
        fields = dumped(data)
        idle_ms, absolute_ms = _terms(idle, absolute)
        said = b"" if owner is None else _owner(owner)
        while True:
            session_id = secrets.token_urlsafe(12) + secrets.token_urlsafe(18)
            ref = session_id[:16]
            args = (self._digest(session_id), idle_ms, absolute_ms, _checked_size(fields), said, *_flat(fields))
            now_us = yield from self._call("session.create", _CREATE, ref, args)
            if now_us is not None:
                break
        if owner is not None:
            yield from self._note(owner, ref, -(-now_us // 1000) + absolute_ms)
        return session_id, SessionInfo(ref, owner, now_us / 1e6, idle_ms / 1000, loaded(fields))

    def loading(self, session_id: object) -> Flow[SessionInfo | None]:
        """The session, used; None when there is none of that id."""
        opening = self.opening(session_id)
        found = (yield from self._write(opening, Changes(), whole=True)) if opening else None
        return _info(opening.ref, *found) if opening and found else None

    def peeking(self, session_id: object) -> Flow[SessionInfo | None]:
        """The same without using it."""
        opening = self.opening(session_id)
        found = (yield from self._read(opening.ref)) if opening else None
        if opening is None or found is None or not compare_digest(found[1].get("digest", text), opening.digest):
            return None
        return _info(opening.ref, *found)

    def touching(self, session_id: object) -> Flow[bool]:
        """Use the session; whether there is one of that id."""
        opening = self.opening(session_id)
        return opening is not None and (yield from self._write(opening, Changes())) is not None

    def changing(self, session_id: str, changes: Changes) -> Flow[float]:
        """Set and delete fields, others untouched; the seconds until the session expires.

        Raises SessionGone, and CodecError when there would be too much data; then nothing has changed.
        """
        opening = self.opening(session_id)
        found = (yield from self._write(opening, changes)) if opening else None
        if found is None:
            raise SessionGone(ref=opening.ref if opening else "")
        return found[0]

    def rotating(self, session_id: object, owner: str | None) -> Flow[str]:
        """The new id of a session, which then is `owner`'s. Raises SessionGone; DefinitionError for another owner."""
        opening, said = self.opening(session_id), b"" if owner is None else _owner(owner)
        if opening is None:
            raise SessionGone(ref="")
        new = opening.ref + secrets.token_urlsafe(18)
        args = (opening.digest, self._digest(new), said)
        found = yield from self._call("session.rotate", _ROTATE, opening.ref, args)
        if found is None:
            raise SessionGone(ref=opening.ref)
        if found == b"OWNER":
            raise DefinitionError(f"session {opening.ref} is another owner's: revoke it, and create one for this owner")
        if owner is not None:
            yield from self._note(owner, opening.ref, found)
        return new

    def revoking(self, session_id: object) -> Flow[bool]:
        """End the session; whether there was one of that id."""
        opening = self.opening(session_id)
        owner = (yield from self._revoke(opening.ref, "digest", opening.digest.encode())) if opening else None
        if opening and owner:
            with suppress(StoreError):  # it is dead; its owner's list is repaired when it is read
                yield from self._forget(text(owner), [opening.ref])
        return owner is not None

    def revoking_one(self, owner: str, ref: object) -> Flow[bool]:
        """End the session of that reference if it is `owner`'s; whether it was."""
        said = _owner(owner)
        if not isinstance(ref, str) or not _REF.fullmatch(ref):
            return False
        ended = yield from self._revoke(ref, "owner", said)
        if ended is not None:
            with suppress(StoreError):
                yield from self._forget(owner, [ref])
        return ended is not None

    def revoking_all(self, owner: str, keep: str | None) -> Flow[int]:
        """End the sessions of `owner` but the one whose reference is `keep`; how many."""
        said, count = _owner(owner), 0
        refs = yield from self._refs(owner)
        for lot in _lots([ref for ref in refs if ref != keep]):
            ended = yield from Batch(*(self._revoke(ref, "owner", said) for ref in lot))
            count += len(ended) - ended.count(None)
            # Not before they are dead: who fails here can go on with the next call.
            yield from self._forget(owner, lot)
        return count

    def listing(self, owner: str) -> Flow[list[SessionInfo]]:
        """The living sessions of `owner`, newest first; what is dead is forgotten."""
        _owner(owner)
        alive: list[SessionInfo] = []
        refs = yield from self._refs(owner)
        for lot in _lots(refs):
            found = dict(zip(lot, (yield from Batch(*map(self._read, lot))), strict=True))
            alive += [_info(ref, *each) for ref, each in found.items() if each]
            # Its record came before it was noted, and no reference comes twice: what is missing stays so.
            yield from self._forget(owner, [ref for ref, each in found.items() if not each])
        return sorted(alive, key=lambda info: info.created, reverse=True)

    def _call(self, name: str, script: Script, ref: str, args: tuple[Any, ...]) -> Call[Any]:
        return Call(name, "guard", as_is, script=script, keys=(self._keys.key("session", ref, "r"),), args=args)

    def _read(self, ref: str) -> Call[tuple[float, Record] | None]:
        key = self._keys.key("session", ref, "r")
        return Call("session.read", "guard", _found, script=_READ, keys=(key,))

    def _write(self, opening: Opening, changes: Changes, *, whole: bool = False) -> Call[tuple[float, Record] | None]:
        """Raises CodecError, having changed nothing, when there would be too much data."""
        words = (*_flat(changes.sets), *(_named(name) for name in changes.deletes))
        return Call(
            "session.write",
            "guard",
            _found,
            script=_WRITE,
            keys=(self._keys.key("session", opening.ref, "r"),),
            args=(opening.digest, MAX_DATA, int(whole), len(changes.sets), *words),
        )

    def _revoke(self, ref: str, name: str, value: bytes) -> Call[bytes | None]:
        return self._call("session.revoke", _REVOKE, ref, (name, value))

    def _note(self, owner: str, ref: str, until_ms: int) -> Call[Any]:
        return Call("session.note", "guard", as_is, script=_INDEX, keys=(self._index(owner),), args=(ref, until_ms))

    def _forget(self, owner: str, refs: Sequence[str]) -> Flow[None]:
        if refs:
            yield from Call("session.forget", "guard", as_is, args=("ZREM", self._index(owner), *refs))

    def _refs(self, owner: str) -> Call[list[str]]:
        args = ("ZRANGE", self._index(owner), 0, -1)
        return Call("session.refs", "guard", lambda reply: [ref.decode() for ref in reply], args=args)

    def _index(self, owner: str) -> str:
        return self._keys.key("owner", escape(owner), "s")


def dumped(data: Mapping[str, object] | BaseModel | None) -> dict[str, bytes]:
    """Fields as JSON, each of its own. Raises DefinitionError for what has no names, CodecError for what JSON would
    change; the message never quotes a value.
    """
    values = _plain(data) if isinstance(data, BaseModel) else {} if data is None else data
    if not isinstance(values, Mapping):
        raise DefinitionError(f"session: data is a mapping or a pydantic model, not {type(data).__qualname__}")
    return {checked_name(name): _dumped(name, value) for name, value in values.items()}


def checked_name(name: object) -> str:
    if not isinstance(name, str):
        raise DefinitionError(f"session: the name of a field is text, not {type(name).__qualname__}")
    return name


def loaded(fields: Mapping[str, bytes]) -> dict[str, Any]:
    """What `dumped` wrote."""
    try:
        return {name: json.loads(value) for name, value in fields.items()}
    except ValueError:
        raise CodecError("what is stored of a session is no JSON; revoke it") from None


def _plain(model: BaseModel) -> dict[str, Any]:
    name = type(model).__qualname__
    try:
        values = model.model_dump(mode="json", by_alias=False, round_trip=True)
        faithful = type(model).model_validate(values, by_alias=False, by_name=True) == model
    except FAILURES as error:
        raise CodecError(f"session: {name} cannot be written as JSON ({type(error).__name__})") from None
    if not faithful:
        raise CodecError(f"session: {name} would not come back from JSON as it is; use plainer types")
    return values


def _dumped(name: str, value: object) -> bytes:
    try:
        data = _write_json(value)
        if json.loads(data) == value:
            return data.encode()
    except FAILURES:
        pass
    raise CodecError(f"session: {name[:60]!r} is no plain JSON value; give numbers, text, lists and dicts of them")


def _checked_size(fields: Mapping[str, bytes]) -> int:
    size = sum(len(word) for word in _flat(fields))
    if size > MAX_DATA:
        raise _too_large(size)
    return size


def _too_large(size: int) -> CodecError:
    return CodecError(f"session: {size} bytes of data are above {MAX_DATA}; keep them elsewhere, and a reference here")


def _named(name: str) -> bytes:
    return utf8(FIELD + name)


def _flat(fields: Mapping[str, bytes]) -> list[bytes]:
    return [word for name, value in fields.items() for word in (_named(name), value)]


def _found(reply: Any) -> tuple[float, Record] | None:
    """Seconds left, and the record."""
    if isinstance(reply, int):
        raise _too_large(reply)
    return None if reply is None else (reply[0] / 1000, Record(0, reply[1]))


def _info(ref: str, left: float, record: Record) -> SessionInfo:
    return SessionInfo(ref, record.get("owner", text), record.get("created", int) / 1e6, left, loaded(record.fields))


def _owner(owner: object) -> bytes:
    if not isinstance(owner, str) or not 0 < len(owner) <= MAX_LABEL:
        raise DefinitionError(f"session: owner must be text of 1 to {MAX_LABEL} characters, not {owner!r:.60}")
    return utf8(owner)


def _terms(idle: Duration, absolute: Duration) -> tuple[int, int]:
    """Both in ms."""
    short, most = seconds(idle, what="session: idle"), seconds(absolute, what="session: absolute")
    if short > most:
        raise DefinitionError(f"session: idle ({short:g} s) is longer than absolute ({most:g} s); lower it")
    return max(1, int(short * 1000)), max(1, int(most * 1000))


def _lots(refs: Sequence[str]) -> Iterator[Sequence[str]]:
    return (refs[start : start + _LOT] for start in range(0, len(refs), _LOT))
