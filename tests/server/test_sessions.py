"""Sessions on real servers: the points of OWASP's Session Management Cheat Sheet, and many requests at once."""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.rig import until
from tests.server.limit_rig import make_engine
from workerkit import WorkerKit
from workerkit.api.sessions import Session, Sessions
from workerkit.errors import CodecError, DefinitionError, SessionGone, StoreRefused, StoreUnavailable
from workerkit.jobs.sessions import MAX_DATA

if TYPE_CHECKING:
    from workerkit.testing.servers import RunningServer

HALF_HOUR, HALF_DAY = 1_800_000, 43_200_000  # ms: idle and absolute, as they are by default


@pytest.fixture
def sessions(redis_url: str) -> Iterator[Sessions]:
    engine = make_engine(redis_url)
    yield Sessions(engine)
    engine.close()


def key_of(session: Session) -> str:
    return f"wk:s:{{session:{session.ref}}}:r"


def forged(session_id: str) -> str:
    """An id that has the same reference and another secret."""
    return session_id[:16] + secrets.token_urlsafe(18)


def everything(server: RunningServer) -> dict[str, object]:
    """All keys, with what they hold and when they expire."""
    keys: Any = server.cli("KEYS", "*")
    return {key: (server.cli("DUMP", key), server.cli("PEXPIRETIME", key)) for key in keys}


def left_ms(server: RunningServer, key: str) -> int:
    left = server.cli("PTTL", key)
    assert isinstance(left, int)
    return left


def test_one_life_on_every_server(other_server: RunningServer) -> None:
    with WorkerKit(url=other_server.url, hooks=[]) as kit:
        first = kit.sessions.create({"theme": "dark", "n": [1, {"é\x00": None}]}, owner="a:b {c}\n")
        assert first.data == {"theme": "dark", "n": [1, {"é\x00": None}]}
        first.update({"a b": 1.5}, theme="\udcff")
        first.delete("n", "n", "nothing")
        session = kit.sessions.load(first.id)
        assert session is not None
        assert session.data == first.data == {"theme": "\udcff", "a b": 1.5}
        assert (session.id, session.ref, session.owner) == (first.id, first.ref, "a:b {c}\n")
        assert session.created == first.created
        assert 1790 < session.expires_in <= 1800
        (listed,) = kit.sessions.list("a:b {c}\n")
        assert (listed.ref, listed.data, listed.created) == (session.ref, session.data, session.created)
        new = kit.sessions.rotate(session.id)
        assert kit.sessions.touch(new) is True
        assert kit.sessions.load(session.id) is None
        assert kit.sessions.revoke_all("a:b {c}\n") == 1
        assert kit.sessions.load(new) is None
        assert everything(other_server) == {}


def test_one_life_from_coroutines(sessions: Sessions, redis_server: RunningServer) -> None:
    async def main() -> None:
        aio = sessions.aio
        first = await aio.create({"a": 1}, owner="ada")
        await first.aio.update(b=2)
        await first.aio.delete("a")
        new = await aio.rotate(first.id, owner="ada")
        assert await aio.load(first.id) is None
        session = await aio.load(new)
        assert session is not None
        assert session.data == {"b": 2}
        assert await aio.touch(new) is True
        assert [each.ref for each in await aio.list("ada")] == [session.ref]
        assert (await aio.peek(new)) is not None
        assert await aio.revoke_one("ada", session.ref) is True
        assert await aio.revoke((await aio.create()).id) is True
        await asyncio.gather(*(aio.create(owner="ada") for _ in range(10)))
        assert await aio.revoke_all("ada") == 10
        await sessions._engine.aclose()

    asyncio.run(main())
    assert everything(redis_server) == {}


# Ids that are no session's


USES: dict[str, Callable[[Sessions, str], object]] = {
    "load": lambda sessions, session_id: sessions.load(session_id),
    "peek": lambda sessions, session_id: sessions.peek(session_id),
    "touch": lambda sessions, session_id: sessions.touch(session_id),
    "revoke": lambda sessions, session_id: sessions.revoke(session_id),
    "rotate": lambda sessions, session_id: sessions.rotate(session_id),
    "rotate, owner": lambda sessions, session_id: sessions.rotate(session_id, owner="eve"),
}


def refused(sessions: Sessions, use: str, session_id: str) -> None:
    if use.startswith("rotate"):
        with pytest.raises(SessionGone):
            USES[use](sessions, session_id)
    else:
        assert not USES[use](sessions, session_id)


@pytest.mark.parametrize("use", USES)
def test_an_unknown_or_forged_id_is_refused_and_never_adopted(
    sessions: Sessions, redis_server: RunningServer, use: str
) -> None:
    session = sessions.create({"a": 1}, owner="ada")
    other = sessions.create(owner="bob")
    before = everything(redis_server)
    unknown = secrets.token_urlsafe(30)
    swapped = session.ref + other.id[16:]
    digest = str(redis_server.cli("HGET", key_of(session), "digest"))  # of a dump: it opens nothing
    for bad in (unknown, forged(session.id), swapped, session.ref + digest[:24], session.id.swapcase()):
        refused(sessions, use, bad)
        assert everything(redis_server) == before


def test_a_record_that_is_there_is_not_adopted_by_a_creation(
    sessions: Sessions, redis_server: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = sessions.create({"a": 1}, owner="ada")
    before = everything(redis_server)
    drawn = iter([session.ref, "x" * 24, "y" * 16, "z" * 24])
    monkeypatch.setattr("workerkit.jobs.sessions.secrets", SimpleNamespace(token_urlsafe=lambda _: next(drawn)))
    assert sessions.create().id == "y" * 16 + "z" * 24
    assert before.items() <= everything(redis_server).items()


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("end", ["revoked", "rotated", "expired", "of old age"])
def test_what_has_ended_stays_so(sessions: Sessions, redis_server: RunningServer, use: str, end: str) -> None:
    session = sessions.create({"a": 1})
    if end == "revoked":
        sessions.revoke(session.id)
    elif end == "rotated":
        sessions.rotate(session.id)
    elif end == "expired":
        redis_server.cli("PEXPIRE", key_of(session), 1)
        until(lambda: redis_server.cli("DBSIZE") == 0)
    else:
        # A clock that was set forward: Redis has not dropped it yet.
        redis_server.cli("HSET", key_of(session), "expires", int(time.time() * 1e6) - 1)
    before = everything(redis_server)
    if end != "of old age" or use != "revoke":
        refused(sessions, use, session.id)
        assert everything(redis_server) == before
    else:
        assert sessions.revoke(session.id) is True  # ended it may be at any time
        before = {}
    for change in (lambda: session.update(a=2), lambda: session.delete("a"), session.update):
        with pytest.raises(SessionGone) as caught:
            change()
        assert caught.value.ref == session.ref
    assert session.data == {"a": 1}
    assert everything(redis_server) == before


# Rotation


def test_a_rotation_keeps_the_data_and_kills_the_old_id(sessions: Sessions, redis_server: RunningServer) -> None:
    old = sessions.create({"cart": [1, 2]}, owner="ada")
    absolute = redis_server.cli("HGET", key_of(old), "expires")
    new = sessions.rotate(old.id)
    assert new != old.id
    assert sessions.load(old.id) is None
    session = sessions.load(new)
    assert session is not None
    assert (session.data, session.owner, session.ref) == ({"cart": [1, 2]}, "ada", old.ref)
    assert session.created == old.created
    assert redis_server.cli("HGET", key_of(old), "expires") == absolute
    assert [each.ref for each in sessions.list("ada")] == [old.ref]
    assert sessions.revoke_all("ada") == 1
    assert sessions.load(new) is None


def test_a_login_makes_the_session_its_users(sessions: Sessions, redis_server: RunningServer) -> None:
    before = sessions.create({"cart": [1]})
    session_id = sessions.rotate(before.id, owner="ada")
    session = sessions.load(session_id)
    assert session is not None
    assert (session.owner, session.data) == ("ada", {"cart": [1]})
    assert [each.ref for each in sessions.list("ada")] == [session.ref]
    again = sessions.rotate(session_id, owner="ada")
    state = everything(redis_server)
    with pytest.raises(DefinitionError, match="another owner's") as caught:  # another user's data are none of hers
        sessions.rotate(again, owner="eve")
    assert again[16:] not in str(caught.value)
    assert everything(redis_server) == state
    assert sessions.revoke_all("ada") == 1
    assert sessions.load(again) is None


# Time


USERS: dict[str, Callable[[Sessions, Session], object]] = {
    "load": lambda sessions, session: sessions.load(session.id),
    "touch": lambda sessions, session: sessions.touch(session.id),
    "update": lambda sessions, session: session.update(a=1),
    "delete": lambda sessions, session: session.delete("a"),
    "rotate": lambda sessions, session: sessions.rotate(session.id),
}


@pytest.mark.parametrize("use", USERS)
def test_a_use_begins_the_idle_time_anew(sessions: Sessions, redis_server: RunningServer, use: str) -> None:
    session = sessions.create({"a": 0})
    assert HALF_HOUR - 30_000 < left_ms(redis_server, key_of(session)) <= HALF_HOUR
    redis_server.cli("PEXPIRE", key_of(session), 60_000)
    USERS[use](sessions, session)
    assert HALF_HOUR - 30_000 < left_ms(redis_server, key_of(session)) <= HALF_HOUR


def test_to_look_is_no_use(sessions: Sessions, redis_server: RunningServer) -> None:
    session = sessions.create(owner="ada")
    redis_server.cli("PEXPIRE", key_of(session), 60_000)
    seen = sessions.peek(session.id)
    assert seen is not None
    assert 30 < seen.expires_in <= 60
    assert 30 < sessions.list("ada")[0].expires_in <= 60
    sessions.touch(forged(session.id))
    sessions.load(forged(session.id))
    assert left_ms(redis_server, key_of(session)) <= 60_000


@pytest.mark.parametrize("use", USERS)
def test_no_use_moves_the_absolute_end(sessions: Sessions, redis_server: RunningServer, use: str) -> None:
    session = sessions.create({"a": 0}, owner="ada")
    born = int(str(redis_server.cli("HGET", key_of(session), "created")))
    assert int(str(redis_server.cli("HGET", key_of(session), "expires"))) == born + HALF_DAY * 1000
    end = int(time.time() * 1e6) + 60_000_000
    redis_server.cli("HSET", key_of(session), "expires", end)  # as if it were nearly half a day old
    USERS[use](sessions, session)
    assert 0 < left_ms(redis_server, key_of(session)) <= 60_000
    assert int(str(redis_server.cli("HGET", key_of(session), "expires"))) == end


def test_what_is_left_is_told(sessions: Sessions, redis_server: RunningServer) -> None:
    session = sessions.create(idle="10m", absolute="1h")
    assert session.expires_in == 600
    redis_server.cli("HSET", key_of(session), "expires", int(time.time() * 1e6) + 60_000_000)
    session.update(a=1)
    assert 0 < session.expires_in <= 60
    found = sessions.load(session.id)
    assert found is not None
    assert 0 < found.expires_in <= 60


@pytest.mark.parametrize(("idle", "absolute"), [("1us", "1us"), ("1ms", "1h"), ("20ms", "20ms")])
def test_a_short_time_is_never_none(sessions: Sessions, redis_server: RunningServer, idle: str, absolute: str) -> None:
    session = sessions.create(idle=idle, absolute=absolute)
    until(lambda: redis_server.cli("DBSIZE") == 0)
    assert sessions.load(session.id) is None


def test_nothing_is_without_ttl(sessions: Sessions, redis_server: RunningServer) -> None:
    ids = [sessions.create({"a": 1}, owner=owner).id for owner in ("ada", "ada", "bob")]
    anonymous = sessions.create(absolute="30d")
    ids.append(sessions.rotate(anonymous.id, owner="bob"))
    for session_id in ids:
        session = sessions.load(session_id)
        assert session is not None
        session.update(b=1)
        session.delete("a")
        sessions.touch(session_id)
    sessions.list("ada")
    sessions.revoke(ids[0])
    keys: Any = redis_server.cli("KEYS", "*")
    assert len(keys) == 5
    assert all(left_ms(redis_server, key) > 0 for key in keys)


def test_a_list_lives_as_long_as_its_longest_session(sessions: Sessions, redis_server: RunningServer) -> None:
    owners = "wk:s:{owner:ada}:s"
    sessions.create(owner="ada", idle="1m", absolute="1h")
    assert 3_500_000 < left_ms(redis_server, owners) <= 3_600_001
    sessions.create(owner="ada", idle="1m", absolute="10h")
    sessions.create(owner="ada", idle="1m", absolute="1h")
    assert 35_900_000 < left_ms(redis_server, owners) <= 36_000_001
    redis_server.cli("ZADD", owners, 1, "x" * 16)  # one whose end has come
    sessions.create(owner="ada", idle="1m", absolute="1h")
    assert redis_server.cli("ZCARD", owners) == 4
    assert redis_server.cli("ZSCORE", owners, "x" * 16) is None


# An owner's sessions


def test_a_list_is_of_the_living_and_is_repaired(sessions: Sessions, redis_server: RunningServer) -> None:
    made = [sessions.create({"n": n}, owner="ada") for n in range(5)]
    sessions.create(owner="adam")
    redis_server.cli("DEL", key_of(made[1]))  # as if it had expired
    assert redis_server.cli("ZCARD", "wk:s:{owner:ada}:s") == 5
    listed = sessions.list("ada")
    assert [each.data["n"] for each in listed] == [4, 3, 2, 0]
    assert {each.owner for each in listed} == {"ada"}
    assert redis_server.cli("ZCARD", "wk:s:{owner:ada}:s") == 4
    assert sessions.revoke(made[2].id) is True
    assert sessions.revoke(made[2].id) is False
    assert redis_server.cli("ZCARD", "wk:s:{owner:ada}:s") == 3
    assert sessions.list("nobody") == []


def test_all_of_an_owner_are_revoked_and_no_others(sessions: Sessions, redis_server: RunningServer) -> None:
    made = [sessions.create(owner="ada") for _ in range(5)]
    others = [sessions.create(owner="adam"), sessions.create()]
    redis_server.cli("DEL", key_of(made[4]))
    assert sessions.revoke_all("ada", keep=made[0].ref) == 3
    assert [sessions.load(each.id) is not None for each in made] == [True, False, False, False, False]
    assert sessions.revoke_all("ada") == 1
    assert sessions.revoke_all("ada") == 0
    assert all(sessions.touch(each.id) for each in others)
    assert redis_server.cli("EXISTS", "wk:s:{owner:ada}:s") == 0


def test_one_is_revoked_by_its_owner_alone(sessions: Sessions) -> None:
    mine, hers = sessions.create(owner="ada"), sessions.create(owner="eve")
    anonymous = sessions.create()
    assert sessions.revoke_one("eve", mine.ref) is False
    assert sessions.revoke_one("eve", anonymous.ref) is False
    assert sessions.touch(mine.id) is True
    assert sessions.touch(anonymous.id) is True
    assert sessions.revoke_one("ada", mine.ref) is True
    assert sessions.revoke_one("ada", mine.ref) is False
    assert sessions.touch(mine.id) is False
    assert sessions.touch(hers.id) is True
    assert sessions.list("ada") == []


@pytest.mark.parametrize("owner", ["a", "a:b", "{a}", "}:s", "a\nb", "a\x00", "*", "é", "\udcff", "%", "~", "x" * 200])
def test_any_text_is_an_owner(sessions: Sessions, redis_server: RunningServer, owner: str) -> None:
    session = sessions.create(owner=owner)
    for other in ((owner.swapcase() + "y")[-200:], "other"):
        sessions.create(owner=other)
    assert [(each.ref, each.owner) for each in sessions.list(owner)] == [(session.ref, owner)]
    assert sessions.revoke_all(owner) == 1
    keys: Any = redis_server.cli("KEYS", "wk:s:{*}:[rs]")
    assert len(keys) == redis_server.cli("DBSIZE") == 4
    assert all(len(key) < 120 for key in keys)


# Data


def test_too_much_data_is_refused_as_a_whole(sessions: Sessions, redis_server: RunningServer) -> None:
    session = sessions.create({"a": "x" * 60_000})
    before = everything(redis_server)
    with pytest.raises(CodecError, match="bytes of data are above 65536"):
        session.update(first=1, b="y" * 6_000, last=2)
    assert everything(redis_server) == before
    assert "b" not in session.data
    session.update(b="y" * 6_000, a=1)  # what it takes the place of counts no more
    assert sorted(session.data) == ["a", "b"]


def test_what_is_counted_is_what_there_is(sessions: Sessions, redis_server: RunningServer) -> None:
    def size() -> int:
        flat: Any = redis_server.cli("HGETALL", key_of(session))
        found = dict(zip(flat[::2], flat[1::2], strict=True))
        counted = sum(len(name) + len(value) for name, value in found.items() if name.startswith(":"))
        assert int(found["size"]) == counted
        return counted

    session = sessions.create({"a": "x" * 100})
    full = MAX_DATA - size()
    session.update(b="y" * (full - len(':b""')))
    assert size() == MAX_DATA
    with pytest.raises(CodecError):
        session.update(c=1)
    session.update(a="x" * 10)
    session.delete("b", "nothing")
    assert size() == len(':a""') + 10
    session.delete("a")
    assert size() == 0
    session.update({f"f{number}": 1 for number in range(6000)})  # more than Lua's stack takes at once
    session.delete(*(f"f{number}" for number in range(6000)))
    assert size() == 0


def test_a_record_that_is_no_hash_is_an_error_and_stays(sessions: Sessions, redis_server: RunningServer) -> None:
    session = sessions.create()
    redis_server.cli("DEL", key_of(session))
    redis_server.cli("SET", key_of(session), "x")
    for verb in (sessions.load, sessions.peek, sessions.touch, sessions.rotate, sessions.revoke):
        with pytest.raises(StoreRefused) as caught:
            verb(session.id)
        assert session.id[16:] not in f"{caught.value!r}{vars(caught.value)}"
    redis_server.cli("DEL", key_of(session))
    session = sessions.create()
    redis_server.cli("HSET", key_of(session), ":a", "{hush")
    with pytest.raises(CodecError, match="no JSON") as told:
        sessions.load(session.id)
    assert "hush" not in str(told.value)


# Secrets


def test_no_id_is_anywhere(fresh_server: RunningServer, caplog: pytest.LogCaptureFixture) -> None:
    fresh_server.cli("CONFIG", "SET", "slowlog-log-slower-than", 0)
    fresh_server.cli("CONFIG", "SET", "slowlog-max-len", 1000)
    seen: list[object] = []
    with caplog.at_level(logging.DEBUG), WorkerKit(url=fresh_server.url, hooks=[seen.append]) as kit:
        first = kit.sessions.create({"a": 1}, owner="ada")
        first.update(b=2)
        ids = [first.id, kit.sessions.rotate(first.id, owner="ada")]
        kit.sessions.load(ids[1])
        kit.sessions.touch(ids[0])
        kit.sessions.list("ada")
        kit.sessions.peek(ids[1])
        dumped = f"{everything(fresh_server)}{fresh_server.cli('HGETALL', key_of(first))}"
        kit.sessions.revoke(ids[1])
        heard = f"{fresh_server.cli('SLOWLOG', 'GET', 1000)}"
        fresh_server.stop()
        with pytest.raises(StoreUnavailable) as caught:
            kit.sessions.load(ids[1])
    error = f"{caught.value!r}{vars(caught.value)}{getattr(caught.value, '__notes__', '')}"
    assert all(first.ref in told for told in (dumped, heard))
    for told in (dumped, heard, caplog.text, f"{seen}", error):
        assert not any(session_id[16:] in told for session_id in ids)


def test_a_secret_of_the_kit_keys_the_digests(redis_url: str) -> None:
    one, other = (Sessions(make_engine(redis_url, secret=secret)) for secret in ("one", "other"))
    session = one.create()
    assert one.load(session.id) is not None
    assert other.load(session.id) is None


# Many at once


def weave(runner: Any, flows: list[Any], order: tuple[int, ...]) -> list[Any]:
    """Drive the flows step by step in this order of turns; their results."""
    results, sent = [None] * len(flows), [None] * len(flows)
    alive = set(range(len(flows)))
    turns = itertools.chain(order, itertools.cycle(range(len(flows))))
    while alive:
        turn = next(turns)
        if turn in alive:
            try:
                sent[turn] = runner._step(flows[turn].send(sent[turn]))
            except StopIteration as done:
                results[turn] = done.value
                alive.remove(turn)
    return results


ORDERS = list(itertools.product((0, 1), repeat=6))


@pytest.mark.parametrize("kind", ["create", "login"])
def test_every_order_of_a_creation_and_revoke_all(sessions: Sessions, redis_server: RunningServer, kind: str) -> None:
    store, runner = sessions.store, sessions._engine.runner
    outcomes = set()
    for order in ORDERS:
        older = sessions.create(owner="ada")
        anonymous = sessions.create()
        flow: Any = sessions.creating(None, "ada", 60, 60) if kind == "create" else store.rotating(anonymous.id, "ada")
        made, count = weave(runner, [flow, store.revoking_all("ada", None)], order)
        session_id = made if isinstance(made, str) else made.id
        assert sessions.load(older.id) is None
        alive = sessions.load(session_id) is not None
        outcomes.add((count, alive))
        assert count == 1 + (not alive)
        assert [each.ref for each in sessions.list("ada")] == [session_id[:16]] * alive  # never alive and unlisted
        assert sessions.revoke_all("ada") == alive
        assert sessions.load(session_id) is None
        redis_server.cli("DEL", key_of(anonymous))
    assert outcomes == {(1, True), (2, False)}
    assert everything(redis_server) == {}


def test_every_order_of_a_creation_and_a_list(sessions: Sessions) -> None:
    for order in ORDERS:
        made, _ = weave(
            sessions._engine.runner,
            [sessions.creating(None, "ada", 60, 60), sessions.store.listing("ada")],
            order,
        )
        assert [each.ref for each in sessions.list("ada")] == [made.ref]  # a repair has not unlisted it
        sessions.revoke_all("ada")


@pytest.mark.parametrize("repeated", ["create", "login", "update", "delete", "touch"])
def test_a_call_that_is_sent_twice_is_one(sessions: Sessions, repeated: str) -> None:
    """As a runner does when a connection broke before the answer."""
    runner, session = sessions._engine.runner, sessions.create({"a": 1, "b": 2})
    flows: dict[str, Callable[[], Any]] = {
        "create": lambda: sessions.creating({"a": 1}, "ada", 60, 60),
        "login": lambda: sessions.store.rotating(session.id, "ada"),
        "update": lambda: session.updating({"a": 3}, {}),
        "delete": lambda: session.deleting(("a",)),
        "touch": lambda: sessions.store.touching(session.id),
    }

    class Twice:
        def _step(self, step: Any) -> Any:
            runner._step(step)
            return runner._step(step)

    (found,) = weave(Twice(), [flows[repeated]()], ())
    session_id = {"create": getattr(found, "id", ""), "login": found}.get(repeated, session.id)
    opened = sessions.load(session_id)
    assert opened is not None
    assert opened.data == {"create": {"a": 1}, "update": {"a": 3, "b": 2}, "delete": {"b": 2}}.get(
        repeated, {"a": 1, "b": 2}
    )
    if opened.owner:
        assert sessions.revoke_all("ada") == 1


def test_requests_that_change_different_fields_lose_nothing(sessions: Sessions) -> None:
    first = sessions.create({"common": 0})

    def request(who: int) -> None:
        for number in range(40):
            session = sessions.load(first.id)
            assert session is not None
            session.update({f"f{who}": number, f"gone{who}": 1})
            session.delete(f"gone{who}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(request, range(8)))
    session = sessions.load(first.id)
    assert session is not None
    assert session.data == {"common": 0} | {f"f{who}": 39 for who in range(8)}


def test_a_rotation_amid_uses(sessions: Sessions, redis_server: RunningServer) -> None:
    """Whatever other requests do with the old id, after the rotation it is dead, and what they wrote before is kept."""
    for _ in range(10):
        old = sessions.create(owner="ada")
        rotated = threading.Event()
        written: list[int] = []

        def use(who: int, old: Session = old, rotated: threading.Event = rotated, written: list[int] = written) -> None:
            while True:
                after = rotated.is_set()
                session, touched = sessions.load(old.id), sessions.touch(old.id)
                assert not (after and (session or touched))
                if session is None:
                    return
                try:
                    session.update({f"f{who}": 1})
                except SessionGone:
                    return
                written.append(who)

        with ThreadPoolExecutor(4) as pool:
            uses = [pool.submit(use, who) for who in range(4)]
            until(lambda written=written: len(written) >= 4)
            new = sessions.rotate(old.id)
            rotated.set()
            for each in uses:
                each.result()
        session = sessions.load(new)
        assert session is not None
        assert set(session.data) == {f"f{who}" for who in written}
        assert left_ms(redis_server, key_of(old)) > HALF_HOUR - 30_000
        assert sessions.revoke_all("ada") == 1
    assert redis_server.cli("DBSIZE") == 0


def test_of_rotations_at_once_one_wins(sessions: Sessions) -> None:
    old = sessions.create()

    def rotate(_: int) -> str | None:
        try:
            return sessions.rotate(old.id)
        except SessionGone:
            return None

    with ThreadPoolExecutor(8) as pool:
        new = [session_id for session_id in pool.map(rotate, range(40)) if session_id]
    assert len(new) == 1
    assert sessions.load(new[0]) is not None


def test_revoke_all_amid_creations(sessions: Sessions, redis_server: RunningServer) -> None:
    done = threading.Event()

    def create(_: int) -> list[str]:
        ids = [sessions.create(owner="ada").id for _ in range(60)]
        return [*ids, sessions.rotate(sessions.create().id, owner="ada")]

    def revoke() -> int:
        count = 0
        while not done.is_set():
            count += sessions.revoke_all("ada")
        return count

    with ThreadPoolExecutor(8) as pool:
        revokers = [pool.submit(revoke) for _ in range(2)]
        ids = [session_id for made in pool.map(create, range(6)) for session_id in made]
        done.set()
        count = sum(each.result() for each in revokers)
    alive = {session_id[:16] for session_id in ids if sessions.peek(session_id)}
    assert {each.ref for each in sessions.list("ada")} == alive
    assert count + len(alive) == len(ids) == 366
    assert sessions.revoke_all("ada") == len(alive)
    assert everything(redis_server) == {}


# Any order of anything, against a model


_which, _value = st.integers(0, 3), st.one_of(st.none(), st.integers(), st.text(max_size=3), st.lists(st.booleans()))
_name, _who = st.sampled_from(["a", "b", "digest", "owner", ""]), st.sampled_from(["ada", "bob"])
STEPS = st.one_of(
    st.tuples(st.just("create"), st.dictionaries(_name, _value, max_size=2), st.one_of(st.none(), _who)),
    st.tuples(st.just("update"), _which, st.dictionaries(_name, _value, max_size=2)),
    st.tuples(st.just("delete"), _which, _name),
    st.tuples(st.just("rotate"), _which, st.one_of(st.none(), _who)),
    st.tuples(st.just("revoke"), _which),
    st.tuples(st.just("revoke_one"), _which, _who),
    st.tuples(st.just("revoke_all"), _who),
    st.tuples(st.just("expire"), _which),
    st.tuples(st.just("list"), _who),
)


class Model:
    """What is promised: sessions by id, and the ids that were ever given out."""

    def __init__(self) -> None:
        self.living: dict[str, tuple[str | None, dict[str, Any]]] = {}
        self.ids: list[str] = []

    def born(self, session_id: str, owner: str | None, data: dict[str, Any]) -> None:
        assert session_id not in self.ids
        self.living[session_id] = owner, data
        self.ids.append(session_id)

    def of(self, owner: str) -> set[str]:
        return {session_id for session_id, (whose, _) in self.living.items() if whose == owner}


def step(sessions: Sessions, server: RunningServer, model: Model, what: str, rest: list[Any]) -> None:
    if what == "create":
        model.born(sessions.create(rest[0], owner=rest[1]).id, rest[1], dict(rest[0]))
    elif what == "revoke_all":
        gone = model.of(rest[0])
        assert sessions.revoke_all(rest[0]) == len(gone)
        for session_id in gone:
            del model.living[session_id]
    elif what == "list":
        assert {each.ref for each in sessions.list(rest[0])} == {each[:16] for each in model.of(rest[0])}
    elif len(model.ids) > rest[0]:
        one(sessions, server, model, what, model.ids[-1 - rest[0]], *rest[1:])


def one(sessions: Sessions, server: RunningServer, model: Model, what: str, session_id: str, *rest: Any) -> None:
    """A step with one id that was given out, whether it lives or not."""
    found = model.living.get(session_id)
    session = sessions.load(session_id)
    assert (session and (session.owner, session.data)) == found
    if what in {"update", "delete"} and session and found:
        session.update(rest[0]) if what == "update" else session.delete(rest[0])
        found[1].update(rest[0]) if what == "update" else found[1].pop(rest[0], None)
        assert session.data == found[1]
    elif what == "rotate" and (not found or (rest[0] and found[0] not in (None, rest[0]))):
        with pytest.raises((SessionGone, DefinitionError)):
            sessions.rotate(session_id, owner=rest[0])
    elif what == "rotate" and found:
        del model.living[session_id]
        model.born(sessions.rotate(session_id, owner=rest[0]), rest[0] or found[0], found[1])
    elif what == "revoke":
        assert sessions.revoke(session_id) == (model.living.pop(session_id, None) is not None)
    elif what == "revoke_one":
        same = {each for each in model.of(rest[0]) if each[:16] == session_id[:16]}  # perhaps by its new id
        assert sessions.revoke_one(rest[0], session_id[:16]) == bool(same)
        for each in same:
            del model.living[each]
    elif what == "expire" and session:
        server.cli("DEL", key_of(session))
        del model.living[session_id]


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=20))
def test_the_scripts_do_what_the_model_does(
    redis_server: RunningServer, sessions: Sessions, steps: list[tuple[Any, ...]]
) -> None:
    redis_server.cli("FLUSHALL")
    model = Model()
    for what, *rest in steps:
        step(sessions, redis_server, model, what, rest)
        for session_id in model.ids:
            session = sessions.peek(session_id)
            assert (session and (session.owner, session.data)) == model.living.get(session_id)
        keys: Any = redis_server.cli("KEYS", "*")
        assert all(left_ms(redis_server, key) > 0 for key in keys)
