"""Sessions with no server: what an id is, what data may be, and what is sent, or is not."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import random
from collections.abc import Callable
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, Field, SecretStr

from workerkit.api.sessions import AioSession, AioSessions, Session, Sessions
from workerkit.core.call import Call
from workerkit.core.encoding import digest
from workerkit.core.flow import Batch
from workerkit.core.keys import Keys
from workerkit.errors import CodecError, DefinitionError, SessionGone, StoreUnavailable
from workerkit.jobs.sessions import MAX_DATA, SessionInfo, dumped

Answer = Callable[[Call[Any]], Any]
NOW = 1_700_000_000_000_000


def created(call: Call[Any]) -> Any:
    return NOW if call.name == "session.create" else 1


class Store:
    """Answers each Call as `answer` does, and remembers them; a Flow is driven as a runner does."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.sent: list[Call[Any]] = []

    def call(self, step: Call[Any] | Batch) -> Any:
        if isinstance(step, Batch):
            return [self.call(each) for each in step.calls]
        self.sent.append(step)
        return step.parse(self.answer(step))

    def run(self, flow: Any) -> Any:
        try:
            step = next(flow)
            while True:
                try:
                    value = self.call(step)
                except Exception as error:  # noqa: BLE001 - as a runner does
                    step = flow.throw(error)
                else:
                    step = flow.send(value)
        except StopIteration as done:
            return done.value

    @property
    def names(self) -> list[str]:
        return [call.name for call in self.sent]


def make(answer: Answer = created) -> tuple[Store, Sessions]:
    store = Store(answer)

    async def run(flow: Any) -> Any:
        return store.run(flow)

    engine: Any = SimpleNamespace(
        runner=store,
        aio_runner=SimpleNamespace(run=run),
        keys=lambda kind: Keys("wk", kind),
        digest=lambda text: digest(text.encode()),
    )
    return store, Sessions(engine)


BAD_IDS: list[Any] = [
    None,
    "",
    "x",
    "a" * 39,
    "a" * 41,
    "a" * 40 + "\n",
    "\n" + "a" * 39,
    "a" * 39 + "=",
    "a" * 39 + "é",
    "a" * 39 + " ",
    "a" * 39 + "}",
    "a" * 39 + ":",
    "a" * 39 + "\x00",
    "*" * 40,
    "../" + "a" * 37,
    "\udcff" * 40,
    b"a" * 40,
    7,
    ["a" * 40],
]  # fmt: skip - one a line would hide what they are


@pytest.mark.parametrize("bad", BAD_IDS, ids=ascii)
def test_what_is_no_id_is_refused_before_redis_hears_of_it(bad: Any) -> None:
    store, sessions = make()
    assert sessions.load(bad) is None
    assert sessions.peek(bad) is None
    assert sessions.touch(bad) is False
    assert sessions.revoke(bad) is False
    with pytest.raises(SessionGone) as caught:
        sessions.rotate(bad)
    assert caught.value.ref == ""
    assert store.sent == []


@pytest.mark.parametrize("bad", ["", "x", "a" * 17, "a" * 15 + "*", "a" * 40, None, "a" * 16 + "\n"], ids=ascii)
def test_what_is_no_reference_ends_nothing(bad: Any) -> None:
    store, sessions = make()
    assert sessions.revoke_one("ada", bad) is False
    assert store.sent == []


def test_an_id_is_random_and_never_twice() -> None:
    _, sessions = make()
    random.seed(0)
    first = sessions.create().id
    random.seed(0)
    ids = [first, *(sessions.create().id for _ in range(3000))]
    assert len({each[:16] for each in ids}) == len({each[16:] for each in ids}) == len(ids)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    secret = [each[16:] for each in ids]
    for place in range(24):  # 24 x 6 bits: each of the 144 comes up as often as a coin
        for bit in range(6):
            share = sum(alphabet.index(each[place]) >> bit & 1 for each in secret) / len(ids)
            assert 0.4 < share < 0.6, (place, bit)


def test_a_rotation_makes_a_new_secret() -> None:
    _, sessions = make(lambda call: NOW)
    old = sessions.create().id
    new = {sessions.rotate(old) for _ in range(100)}
    assert len(new) == 100
    assert {each[:16] for each in new} == {old[:16]}
    assert len({each[16:] for each in new} | {old[16:]}) == 101


def test_redis_gets_no_secret() -> None:
    store, sessions = make(lambda call: NOW)
    session = sessions.create({"a": 1}, owner="ada")
    new = sessions.rotate(session.id, owner="ada")
    sessions.revoke_one("ada", session.ref)
    for verb in (sessions.touch, sessions.revoke):
        store.answer = lambda call: None
        verb(new)
    assert len(store.names) >= 6
    for call in store.sent:
        told = f"{call!r} {call.keys} {call.args}"
        for secret in (session.id, session.id[16:], new, new[16:]):
            assert secret not in told


def test_nothing_that_is_shown_has_the_id() -> None:
    _, sessions = make()
    session = sessions.create({"card": "4711"}, owner="ada")
    assert session.id.startswith(session.ref)
    assert (len(session.ref), len(session.id)) == (16, 40)
    for told in (repr(session), str(session), f"{session.aio}", repr(sessions)):
        assert session.id[16:] not in told
        assert "4711" not in told
    info = SessionInfo(session.ref, "ada", 0.0, 0.0, session.data)
    assert session.ref in repr(info)
    assert "4711" not in repr(info)
    _, gone = make(lambda call: None)
    with pytest.raises(SessionGone) as caught:
        gone.rotate(session.id)
    told = f"{caught.value!r} {caught.value} {vars(caught.value)}"
    assert session.id[16:] not in told
    assert caught.value.ref == session.ref
    back = pickle.loads(pickle.dumps(caught.value))
    assert (back.ref, str(back)) == (session.ref, str(caught.value))


def test_a_reference_that_is_taken_is_not_adopted() -> None:
    replies = iter([None, None, NOW])
    store, sessions = make(lambda call: next(replies))
    session = sessions.create()
    keys = [call.keys[0] for call in store.sent]
    assert len(set(keys)) == 3
    assert keys[-1] == f"wk:s:{{session:{session.ref}}}:r"


def test_the_record_comes_before_its_owner_hears_of_it() -> None:
    store, sessions = make()
    sessions.create(owner="ada")
    assert store.names == ["session.create", "session.note"]
    assert store.sent[1].args == (store.sent[0].keys[0][14:30], (NOW // 1000) + 12 * 3_600_000)


def test_who_cannot_be_noted_is_not_created() -> None:
    def answer(call: Call[Any]) -> Any:
        if call.name == "session.note":
            raise StoreUnavailable
        return NOW

    store, sessions = make(answer)
    with pytest.raises(StoreUnavailable):
        sessions.create(owner="ada")
    with pytest.raises(StoreUnavailable):
        sessions.rotate("a" * 40, owner="ada")
    assert store.names == ["session.create", "session.note", "session.rotate", "session.note"]


def test_a_list_that_cannot_be_repaired_does_not_undo_an_end() -> None:
    def answer(call: Call[Any]) -> Any:
        if call.name == "session.forget":
            raise StoreUnavailable
        return b"ada"

    store, sessions = make(answer)
    assert sessions.revoke("a" * 40) is True
    assert sessions.revoke_one("ada", "a" * 16) is True
    assert store.names == ["session.revoke", "session.forget"] * 2


def test_all_are_ended_before_they_are_forgotten_in_lots() -> None:
    refs = [f"{number:016}" for number in range(450)]

    def answer(call: Call[Any]) -> Any:
        if call.name == "session.refs":
            return [ref.encode() for ref in refs]
        return b"ada" if call.name == "session.revoke" else 1

    store, sessions = make(answer)
    assert sessions.revoke_all("ada", keep=refs[7]) == 449
    lots = [200, 200, 49]
    assert store.names == [
        "session.refs",
        *(name for lot in lots for name in [*["session.revoke"] * lot, "session.forget"]),
    ]
    assert not any(refs[7] in f"{call.keys} {call.args}" for call in store.sent)


@pytest.mark.parametrize("owner", ["", "x" * 201, 7, b"ada", object()], ids=lambda owner: repr(owner)[:20])
def test_an_owner_that_will_not_do(owner: Any) -> None:
    store, sessions = make()
    verbs: list[Callable[[], object]] = [
        lambda: sessions.create(owner=owner),
        lambda: sessions.rotate("a" * 40, owner=owner),
        lambda: sessions.list(owner),
        lambda: sessions.revoke_all(owner),
        lambda: sessions.revoke_one(owner, "a" * 16),
    ]
    for verb in verbs:
        with pytest.raises(DefinitionError, match="owner must be text of 1 to 200 characters"):
            verb()
    assert store.sent == []


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"idle": 0}, "session: idle"),
        ({"absolute": 0}, "session: absolute"),
        ({"idle": "soon"}, "session: idle"),
        ({"absolute": float("inf")}, "session: absolute"),
        ({"idle": "2h", "absolute": "1h"}, "idle .7200 s. is longer than absolute .3600 s."),
        ({"idle": -1}, "session: idle"),
        ({"idle": None}, "session: idle"),
    ],
)
def test_times_that_will_not_do(terms: dict[str, Any], says: str) -> None:
    store, sessions = make()
    with pytest.raises(DefinitionError, match=says):
        sessions.create(**terms)
    assert store.sent == []


class Colour(Enum):
    RED = "hush"


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        float("inf"),
        (1, "hush"),
        {"hush"},
        b"hush",
        object(),
        Colour.RED,
        {1: "hush"},
        [("hush",)],
        SecretStr("hush"),
    ],
    ids=ascii,
)  # fmt: skip - one a line would hide what they are
def test_a_value_that_json_would_change(value: Any) -> None:
    store, sessions = make()
    session = sessions.create()
    verbs: list[Callable[[], object]] = [
        lambda: sessions.create({"field": value}),
        lambda: session.update(field=value),
        lambda: session.update({"field": value}),
    ]
    for verb in verbs:
        with pytest.raises(CodecError, match="'field' is no plain JSON value") as caught:
            verb()
        assert "hush" not in str(caught.value)
    assert len(store.sent) == 1
    assert session.data == {}


def test_a_value_that_is_too_deep() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    _, sessions = make()
    with pytest.raises(CodecError):
        sessions.create({"deep": deep})


@pytest.mark.parametrize("data", [[("a", 1)], "ab", 7, {1: 2}, {None: 1}, {b"a": 1}], ids=ascii)
def test_data_that_has_no_names(data: Any) -> None:
    store, sessions = make()
    session = sessions.create()
    for verb in (sessions.create, session.update):
        with pytest.raises(DefinitionError, match="session: "):
            verb(data)
    with pytest.raises(DefinitionError, match="the name of a field is text"):
        session.delete(7)  # type: ignore[arg-type]  # that is the point
    assert len(store.sent) == 1


def test_more_data_than_may_be() -> None:
    store, sessions = make()
    room = MAX_DATA - len(':a""')
    sessions.create({"a": "x" * room})
    with pytest.raises(CodecError, match=f"{MAX_DATA + 1} bytes of data are above {MAX_DATA}"):
        sessions.create({"a": "x" * (room + 1)})
    with pytest.raises(CodecError, match="above"):  # names count too
        sessions.create({"a" * MAX_DATA: 1})
    assert len(store.sent) == 1


class Cart(BaseModel):
    items: list[int] = []
    coupon: str | None = Field(None, alias="code")


def test_a_model_gives_its_fields() -> None:
    assert dumped(Cart(items=[1], code="x")) == {"items": b"[1]", "coupon": b'"x"'}
    _, sessions = make()
    session = sessions.create(Cart(items=[1]))
    assert session.data == {"items": [1], "coupon": None}


def test_a_model_that_json_would_change() -> None:
    class Hidden(BaseModel):
        word: SecretStr = SecretStr("hush")

    class Kept(BaseModel):
        word: str = Field("hush", exclude=True)
        other: object = None

    class Odd(BaseModel):
        what: object = object()

    for model in (Hidden(), Kept(word="hush!"), Odd()):
        with pytest.raises(CodecError, match=type(model).__name__) as caught:
            dumped(model)
        assert "hush" not in str(caught.value)


def test_data_is_a_copy_as_it_will_be_read() -> None:
    _, sessions = make()
    own: dict[str, Any] = {"list": [1]}
    session = sessions.create(own)
    own["list"].append(2)
    assert session.data == {"list": [1]}


@pytest.mark.parametrize(("sync", "aio"), [(Sessions, AioSessions), (Session, AioSession)])
def test_both_sides_have_the_same_verbs(sync: type, aio: type) -> None:
    internal = {"creating", "loading", "peeking", "updating", "deleting"}

    def verbs(side: type) -> dict[str, Any]:
        return {
            name: inspect.signature(verb)
            for name, verb in vars(side).items()
            if inspect.isfunction(verb) and not name.startswith("_") and name not in internal
        }

    assert verbs(sync) == verbs(aio)
    assert len(verbs(sync)) >= 2


def test_down_is_told_by_every_verb(down: Sessions, session: Session) -> None:
    verbs: list[Callable[[Any], Any]] = [
        lambda side: side.create(),
        lambda side: side.load("a" * 40),
        lambda side: side.peek("a" * 40),
        lambda side: side.touch("a" * 40),
        lambda side: side.rotate("a" * 40),
        lambda side: side.revoke("a" * 40),
        lambda side: side.revoke_one("ada", "a" * 16),
        lambda side: side.revoke_all("ada"),
        lambda side: side.list("ada"),
    ]
    for verb in verbs:
        with pytest.raises(StoreUnavailable):
            verb(down)
        with pytest.raises(StoreUnavailable):
            asyncio.run(verb(down.aio))
    for change in (lambda side: side.update(a=1), lambda side: side.delete("a")):
        with pytest.raises(StoreUnavailable):
            change(session)
        with pytest.raises(StoreUnavailable):
            asyncio.run(change(session.aio))
    assert session.data == {"a": 0}


@pytest.fixture
def down() -> Sessions:
    def answer(call: Call[Any]) -> Any:
        raise StoreUnavailable

    return make(answer)[1]


@pytest.fixture
def session(down: Sessions) -> Session:
    """One that was opened before Redis went down."""
    _, sessions = make()
    session = sessions.create({"a": 0})
    session._engine = down._engine
    return session
