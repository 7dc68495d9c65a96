"""Job state with no server: a model of the record answers the Calls."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import inspect
import json
import typing
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
from celery.utils.functional import head_from_fun
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, SecretStr, model_validator

from workerkit.api import layers
from workerkit.api.host import Running
from workerkit.api.job import AioJob, Job
from workerkit.api.jobs import AioJobs, Jobs
from workerkit.api.recording import job
from workerkit.core.call import Call
from workerkit.core.events import Hooks
from workerkit.core.flow import Batch
from workerkit.core.keys import Keys
from workerkit.errors import (
    CodecError,
    DefinitionError,
    JobCancelled,
    JobFenced,
    JobFinished,
    JobMissing,
    OutcomeUnknown,
    StoreUnavailable,
)
from workerkit.jobs.index import NUMBERS
from workerkit.jobs.record import Shape, dump_cursor

if TYPE_CHECKING:
    from collections.abc import Callable

ENDS = {"SUCCESS", "FAILURE", "CANCELLED"}


INDEX = {"job.index": [b"", [], []], "job.head": [None]}


class Import(BaseModel):
    rows: int = 0
    ratio: float = 0.0
    name: str = ""
    small: int = Field(0, ge=0, le=10)


class Store:
    """What the scripts do, over dicts; `trouble` is what happens to the next Calls: a lost answer, or no connection."""

    def __init__(self) -> None:
        self.records: dict[str, dict[str, str]] = {}
        self.trouble: list[str] = []
        self.sent: list[str] = []
        self.listed: list[tuple[Any, Any]] = []  # ids and numbers of statuses that the index was told
        self.now = 1_700_000_000_000_000

    def call(self, call: Call[Any], timeout: float | None = None) -> Any:
        if call.name in INDEX:  # told afterwards, and no trouble of the job's: it has tests of its own
            if call.name == "job.index":
                self.listed.append((call.args[0], call.args[2]))
            return call.parse(INDEX[call.name])
        self.sent.append(call.name)
        trouble = self.trouble.pop(0) if self.trouble else ""
        if trouble == "down":
            raise StoreUnavailable
        if trouble == "lost before":
            raise OutcomeUnknown
        reply = self._reply(call)
        if trouble == "lost after":
            raise OutcomeUnknown
        return call.parse(reply)

    def run(self, flow: Any) -> Any:
        try:
            step = next(flow)
            while True:
                try:
                    value = [self.call(each) for each in step.calls] if isinstance(step, Batch) else self.call(step)
                except Exception as error:  # noqa: BLE001 - as a runner does
                    step = flow.throw(error)
                else:
                    step = flow.send(value)
        except StopIteration as done:
            return done.value

    def _reply(self, call: Call[Any]) -> Any:
        self.now += 1
        words = [word.decode("utf-8", "surrogatepass") if isinstance(word, bytes) else str(word) for word in call.args]
        if call.name == "job.check":
            found = self.records.get(words[1], {})
            return [found[name].encode() if name in found else None for name in words[2:]]
        act = {
            "job.begin": self._begin,
            "job.close_cached": self._begin,
            "job.read": self._read,
            "job.cancel": self._cancel,
        }
        return act.get(call.name, self._write)(call.keys[0], words)

    def _flat(self, record: dict[str, str]) -> list[bytes]:
        return [word.encode("utf-8", "surrogatepass") for pair in record.items() for word in pair]

    def _begin(self, key: str, words: list[str]) -> Any:
        token, _, max_age, model, again, status, _, about, *pairs = words
        record = self.records.get(key)
        if record is not None:
            if record["model"] != model:
                return [b"MODEL", record["model"].encode()]
            tokens = record["tokens"].split()
            if token in tokens[1:]:
                return [b"FENCED"]
            if tokens[0] == token:
                return [b"OK", self.now, self._flat(record)]
            if "ended" in record and not (record["status"] == "FAILURE" and again == "1"):
                return [b"FINISHED", record["status"].encode()]
            record["fence"] = str(int(record["fence"]) + 1)
            record.pop("ended", None)
        else:
            record = self.records[key] = {
                "fence": str(self.now),
                "created": str(self.now),
                "expires": str(self.now + int(max_age) * 1000),
                "batch": "0",
                "attempt": "0",
                "version": "0",
                "tokens": "",
            }
        record |= {
            "attempt": str(int(record["attempt"]) + 1),
            "version": str(int(record["version"]) + 1),
            "tokens": f"{token} {record['tokens']}",
            "status": status,
            "model": model,
            "heartbeat": str(self.now),
            "started": str(self.now),
        }
        if status != "RUNNING":
            record |= {"ended": str(self.now), "cached": "1"}
        named = list(zip(pairs[::2], pairs[1::2], strict=True))
        record |= dict(named[: int(about)])
        for name, value in named[int(about) :]:
            record.setdefault(name, value)
        return [b"OK", self.now, self._flat(record)]

    def _write(self, key: str, words: list[str]) -> Any:
        fence, _, status, batch, version, count, *rest = words
        record = self.records.get(key, {})
        if refusal := self._refusal(record, fence, version, status):
            return refusal
        if record["status"] == status:
            return 0
        new = batch == "0" or int(batch) > int(record["batch"])
        changes = self._changes(record, int(count), rest) if new else {}
        if new and batch != "0":
            changes["batch"] = batch
        if status:
            changes["status"] = status
        if status in ENDS:
            changes["ended"] = str(self.now)
        if status == "SUCCESS":
            for name in ("error", "reason", "trace"):
                record.pop(name, None)
        if changes:
            changes["version"] = str(int(record["version"]) + 1)
        record |= {**changes, "heartbeat": str(self.now)}
        return int("cancel" in record)

    @staticmethod
    def _refusal(record: dict[str, str], fence: str, version: str, status: str) -> bytes:
        if not record:
            return b"MISSING"
        if record["fence"] != fence:
            return b"FENCED"
        if "ended" in record:
            return b"" if record["status"] == status else b"FINISHED"
        return b"" if version in ("", record["version"]) else b"VERSION"

    @staticmethod
    def _changes(record: dict[str, str], count: int, rest: list[str]) -> dict[str, str]:
        split = 2 * count
        changes = dict(zip(rest[:split:2], rest[1:split:2], strict=True))
        for name, kind, amount in zip(rest[split::3], rest[split + 1 :: 3], rest[split + 2 :: 3], strict=True):
            old = json.loads(record.get(name, "0"))
            changes[name] = str(old + (int if kind == "i" else float)(amount))
        return changes

    def _read(self, key: str, words: list[str]) -> Any:
        record = self.records.get(key)
        return None if record is None else [self.now, self._flat(record)]

    def _cancel(self, key: str, words: list[str]) -> int:
        record = self.records.get(key)
        if record is None or "ended" in record:
            return 0
        if "cancel" not in record:
            record |= {"cancel": "1", "version": str(int(record["version"]) + 1)}
        return 1


class AioStore:
    """The same, awaited."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def call(self, call: Call[Any]) -> Any:
        await asyncio.sleep(0)
        return self.store.call(call)

    async def run(self, flow: Any) -> Any:
        await asyncio.sleep(0)
        return self.store.run(flow)


class Ticker:
    """Beats when told to."""

    def __init__(self) -> None:
        self.acts: list[Callable[[], Any]] = []

    def every(self, interval: float, what: str, act: Callable[[], Any]) -> Any:
        self.acts.append(act)
        return SimpleNamespace(stop=lambda: self.acts.remove(act))


class Ended(Exception):
    """What the host ends an execution with."""


class Retry(Exception):
    """What the host's tasks raise to come back."""


class SoftTimeLimitExceeded(Exception):
    """As billiard's: personal, but it ends the task."""


class Host:
    """A host with one task, `name`, and every wrapper is its own."""

    def __init__(self, running: Running | None = None) -> None:
        self.now = running
        self.told: list[tuple[str, bool]] = []

    def running(self) -> Running | None:
        return self.now

    def runs(self, wrapper: Any) -> bool:
        return self.now is not None

    def comes_back(self, error: Exception) -> bool:
        return isinstance(error, Retry)

    def stopped(self, reason: BaseException, *, cancelled: bool) -> BaseException:
        self.told.append((type(reason).__name__, cancelled))
        return Ended() if self.now else reason


def make_engine(running: Running | None = None) -> Any:
    store, events = Store(), []
    return SimpleNamespace(
        store=store,
        runner=store,
        aio_runner=AioStore(store),
        ticker=Ticker(),
        aio_ticker=Ticker(),
        host=Host(running),
        hooks=Hooks(events.append),
        events=events,
        personal=(asyncio.CancelledError, Retry, SoftTimeLimitExceeded),
        settings=SimpleNamespace(heartbeat=5.0),
        keys=lambda kind: Keys("wk", kind),
    )


@pytest.fixture
def engine() -> Any:
    return make_engine()


@pytest.fixture
def jobs(engine: Any) -> Jobs:
    return Jobs(engine)


def record(engine: Any) -> dict[str, str]:
    (only,) = engine.store.records.values()
    return only


# The record


def test_a_job_shows_what_was_written(jobs: Jobs) -> None:
    with jobs.begin("j", Import, owner="me", tags=["a", "b"], task="t") as job:
        job.update(name="x")
        job.add(rows=2, ratio=0.5)
        job.progress(3, 10, "going")
        running = jobs.get("j", Import)
        assert (job.id, job.task, job.attempt, job.data) == ("j", "t", 1, Import(name="x", rows=2, ratio=0.5))
    ended = jobs.get("j", Import)
    assert running is not None
    assert ended is not None
    assert (running.status, ended.status) == ("RUNNING", "SUCCESS")
    assert (ended.data, ended.progress[:3], ended.owner, ended.tags) == (job.data, (3, 10, "going"), "me", ("a", "b"))
    assert ended.fence == job.fence
    assert ended.version > running.version
    assert ended.ended is not None
    assert running.ended is None


def test_there_is_nothing_to_get_or_cancel(jobs: Jobs) -> None:
    assert jobs.get("none", Import) is None
    assert jobs.cancel("none") is False


def test_a_begin_whose_answer_was_lost_is_one_begin(engine: Any, jobs: Jobs) -> None:
    for trouble in ("lost after", "lost before"):
        engine.store.records.clear()
        engine.store.trouble = [trouble]
        assert jobs.begin("j", Import).attempt == 1
        assert record(engine)["attempt"] == "1"


def test_what_may_have_been_executed_is_not_called_unavailable(engine: Any, jobs: Jobs) -> None:
    engine.store.trouble = ["lost after", "down"]
    with pytest.raises(OutcomeUnknown):
        jobs.begin("j", Import)


def test_an_end_whose_answer_was_lost_is_one_end(engine: Any, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    engine.store.trouble = ["lost after"]
    job.finish()
    assert record(engine)["status"] == "SUCCESS"


def test_a_count_whose_answer_was_lost_is_not_repeated(engine: Any, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    engine.store.trouble = ["lost after"]
    with pytest.raises(OutcomeUnknown):
        job.add(rows=1)
    assert record(engine)[":rows"] == "1"


@pytest.mark.parametrize(
    ("act", "error", "says"),
    [
        (lambda job: job.update(nope=1), DefinitionError, "no field 'nope'"),
        (lambda job: job.update(rows="many"), DefinitionError, "rows"),
        (lambda job: job.update(small=11), DefinitionError, "small"),
        (lambda job: job.update(name="x" * 70_000), CodecError, "name"),
        (lambda job: job.update(ratio=float("nan")), CodecError, "ratio"),
        (lambda job: job.add(nope=1), DefinitionError, "no field 'nope'"),
        (lambda job: job.add(name=1), DefinitionError, "name"),
        (lambda job: job.add(rows=1.5), DefinitionError, "rows"),
        (lambda job: job.add(rows=True), DefinitionError, "rows"),
        (lambda job: job.add(rows=2**53), DefinitionError, "rows"),
        (lambda job: job.add(ratio=float("inf")), DefinitionError, "ratio"),
        (lambda job: job.add(small=11), DefinitionError, "small"),
        (lambda job: job.progress(done=-1), DefinitionError, "done"),
        (lambda job: job.progress(total=1.5), DefinitionError, "total"),
        (lambda job: job.progress(message=b"x"), DefinitionError, "message"),
        (lambda job: job.each(lambda cursor: [], cursor=int, total=-1), DefinitionError, "total"),
        (lambda job: job.each(lambda cursor: [], cursor=int, every="x"), DefinitionError, "every"),
        (lambda job: job.each(lambda cursor: [], cursor=int, within="soon"), DefinitionError, "within"),
        (lambda job: list(job.each(lambda cursor: [1], cursor=lambda item: {1})), CodecError, "cursor"),
        (lambda job: list(job.each(lambda cursor: [1], cursor=lambda item: None)), CodecError, "cursor"),
        (lambda job: list(job.each(lambda cursor: [1], cursor=lambda item: "x" * 5000)), CodecError, "cursor"),
    ],
)
def test_bad_input_is_one_error_and_no_write(
    engine: Any, jobs: Jobs, act: Callable[[Job[Import]], object], error: type[Exception], says: str
) -> None:
    job = jobs.begin("j", Import)
    before = dict(record(engine))
    with pytest.raises(error, match=says):
        act(job)
    assert record(engine) == before
    assert job.data == Import()


def test_errors_quote_no_value(jobs: Jobs) -> None:
    with pytest.raises(DefinitionError) as caught:
        jobs.begin("j", Import).update(rows="hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"job_id": ""}, "id"),
        ({"job_id": 5}, "id"),
        ({"job_id": "x" * 1001}, "id"),
        ({"ttl": "2d", "max_age": "1d"}, "max_age"),
        ({"ttl": 0}, "ttl"),
        ({"keep": "soon"}, "keep"),
        ({"owner": ""}, "owner"),
        ({"owner": "x" * 201}, "owner"),
        ({"tags": [5]}, "tags"),
        ({"tags": map(str, range(17))}, "tags"),
        ({"model": dict}, "pydantic"),
    ],
)
def test_a_job_that_cannot_begin(engine: Any, jobs: Jobs, arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):
        jobs.begin(**{"job_id": "j", "model": Import, **arguments})
    assert engine.store.sent == []


def test_a_with_block_needs_a_ttl_of_two_heartbeats(jobs: Jobs) -> None:
    job = jobs.begin("j", Import, ttl=9)
    with pytest.raises(DefinitionError, match="heartbeat"):
        job.__enter__()


# The model's fields


class Colour(enum.Enum):
    RED = "r"


class Rich(BaseModel):
    at: datetime = datetime(2024, 1, 1, tzinfo=UTC)
    colour: Colour = Colour.RED
    inner: Import = Import()
    many: dict[str, list[int]] = {}
    blob: bytes = b"x"
    named: int = Field(0, alias="other")
    größe: str = "ö"  # noqa: PLC2401 - it is cut out of JSON by its name


def test_rich_fields_come_back_as_they_were(jobs: Jobs) -> None:
    job = jobs.begin("j", Rich)
    now = datetime(2025, 1, 2, tzinfo=UTC)
    job.update(at=now, inner=Import(rows=1), many={"a": [1]}, blob=b"y", named=3, größe="\x00é")
    found = jobs.get("j", Rich)
    assert found is not None
    assert found.data == job.data
    assert (found.data.at, found.data.inner.rows, found.data.named, found.data.größe) == (now, 1, 3, "\x00é")


def test_fields_of_a_newer_deploy_survive(engine: Any, jobs: Jobs) -> None:
    class Newer(Import):
        extra: int = 0
        level: int = 7

    Newer.__name__ = "Import"
    jobs.begin("j", Newer).update(extra=5)
    old = jobs.begin("j", Import)
    old.update(name="old")
    new = jobs.begin("j", Newer)
    assert (new.data.extra, new.data.level, new.data.name) == (5, 7, "old")


def test_a_strict_model_leaves_fields_of_a_newer_deploy_alone(engine: Any, jobs: Jobs) -> None:
    class Strict(BaseModel, extra="forbid"):
        rows: int = 0

    jobs.begin("j", Strict)
    record(engine)[":newer"] = "5"
    jobs.begin("j", Strict).add(rows=1)
    found = jobs.get("j", Strict)
    assert found is not None
    assert (found.data.rows, record(engine)[":newer"]) == (1, "5")


def test_a_new_field_begins_with_its_default(jobs: Jobs) -> None:
    class Newer(Import):
        level: int = 7

    Newer.__name__ = "Import"
    jobs.begin("j", Import)
    job = jobs.begin("j", Newer)
    job.add(level=1)
    found = jobs.get("j", Newer)
    assert found is not None
    assert found.data.level == 8


def test_a_record_of_another_model_is_refused(engine: Any, jobs: Jobs) -> None:
    jobs.begin("j", Import)
    before = dict(record(engine))
    for act in (jobs.begin, jobs.get):
        with pytest.raises(DefinitionError, match="Import, not Rich"):
            act("j", Rich)
    assert record(engine) == before


def test_state_that_does_not_fit_names_the_field(engine: Any, jobs: Jobs) -> None:
    jobs.begin("j", Import)
    record(engine)[":rows"] = '"hunter2"'
    with pytest.raises(CodecError, match="rows") as caught:
        jobs.get("j", Import)
    assert "hunter2" not in str(caught.value)


class Needs(BaseModel):
    path: str


class Hidden(BaseModel):
    passwords: list[SecretStr] = [SecretStr("x")]


class Pair(BaseModel):
    low: int = 0
    high: int = 0

    @model_validator(mode="after")
    def _ordered(self) -> Pair:
        if self.low > self.high:
            raise ValueError("low above high")
        return self


def test_models_that_cannot_be_a_state() -> None:
    with pytest.raises(DefinitionError, match="path"):
        Shape(Needs)
    with pytest.raises(CodecError, match="password"):
        Shape(Hidden)
    with pytest.raises(DefinitionError, match="pydantic model"):
        Shape(RootModel[int])


def test_fields_are_validated_together(jobs: Jobs) -> None:
    job = jobs.begin("j", Pair)
    job.update(low=5, high=9)
    with pytest.raises(DefinitionError, match="low above high"):
        job.update(high=4)
    with pytest.raises(DefinitionError, match="low above high"):
        job.add(low=5)
    assert job.data == Pair(low=5, high=9)


_JSON = st.recursive(
    st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(_JSON)
def test_every_json_value_is_a_cursor(value: Any) -> None:
    assert json.loads(dump_cursor(value)) == value


@pytest.mark.parametrize(
    "value", [None, (1,), {1: 2}, {1}, b"x", float("nan"), datetime(2024, 1, 1, tzinfo=UTC), object()]
)
def test_a_cursor_that_would_change_is_refused(value: Any) -> None:
    with pytest.raises(CodecError, match="cursor"):
        dump_cursor(value)


# The loop


def numbers(upto: int) -> Callable[[int | None], range]:
    return lambda cursor: range(0 if cursor is None else cursor + 1, upto)


@pytest.mark.parametrize("every", [1, 3, 100])
@pytest.mark.parametrize("crash", range(9))
def test_a_resumed_loop_loses_nothing_and_counts_once(jobs: Jobs, crash: int, every: int) -> None:
    handled: list[int] = []
    job = jobs.begin("j", Import)
    dead = job.each(numbers(8), cursor=lambda item: item, every=every, within=3600)
    for _ in range(crash):
        item = next(dead, None)
        if item is not None:
            handled.append(item)
            job.add(rows=1, ratio=0.5)
    # Killed here: the generator never hears of it.
    again = jobs.begin("j", Import)
    for item in again.each(numbers(8), cursor=lambda item: item, every=every, within=3600):
        handled.append(item)
        again.add(rows=1, ratio=0.5)
    again.finish()
    found = jobs.get("j", Import)
    assert found is not None
    assert set(handled) == set(range(8))
    assert len(handled) - 8 <= min(every, crash)
    assert (found.data.rows, found.data.ratio, found.progress.done) == (8, 4.0, 8)
    dead.close()
    assert jobs.get("j", Import) == replace(found, heartbeat=ANY)


@given(
    st.lists(st.sampled_from(["", "", "lost after", "lost before", "down"]), max_size=12),
    st.integers(1, 4),
    st.lists(st.integers(0, 9), max_size=4),
)
def test_counters_are_exact_whatever_is_lost(troubles: list[str], every: int, failures: list[int]) -> None:
    engine = make_engine()
    jobs = Jobs(engine)
    handled: list[int] = []

    def attempt() -> None:
        with jobs.begin("j", Import, retry=True) as job:
            fail_at = failures.pop() if failures else None
            engine.store.trouble = troubles[:]
            troubles.clear()
            for item in job.each(numbers(10), cursor=lambda item: item, every=every, within=3600):
                job.add(rows=1)
                handled.append(item)
                if item == fail_at:
                    raise KeyError(item)

    for _ in range(8):
        try:
            attempt()
            break
        except (KeyError, OutcomeUnknown, StoreUnavailable):
            engine.store.trouble.clear()
        except JobFinished:  # the attempt before has ended it, and only the answer was lost
            break
    engine.store.trouble.clear()
    found = jobs.get("j", Import)
    assert found is not None
    assert found.status == "SUCCESS"
    assert set(handled) == set(range(10))
    assert (found.data.rows, found.progress.done) == (10, 10)


def test_an_item_that_fails_is_not_counted_and_comes_again(jobs: Jobs) -> None:
    def work() -> None:
        with jobs.begin("j", Import) as job:
            for item in job.each(numbers(5), cursor=lambda item: item):
                job.add(rows=1)
                if item == 3:
                    raise KeyError(item)

    with pytest.raises(KeyError):
        work()
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.status, found.error, found.data.rows) == ("FAILURE", ("KeyError", "3"), 3)
    again = jobs.begin("j", Import, retry=True)
    assert list(again.each(numbers(5), cursor=lambda item: item)) == [3, 4]


def test_an_error_of_the_source_is_kept_and_the_rest_saved(jobs: Jobs) -> None:
    def source(cursor: int | None) -> Any:
        yield from range(3)
        raise LookupError("gone")

    job = jobs.begin("j", Import)

    def work() -> None:
        for _ in job.each(source, cursor=lambda item: item):
            job.add(rows=1)

    with pytest.raises(LookupError):
        work()
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.data.rows, found.progress.done) == (3, 3)


def test_an_async_loop_saves_the_rest_too(engine: Any, jobs: Jobs) -> None:
    async def source(cursor: int | None) -> Any:
        for item in range(3):
            yield item
        raise LookupError("gone")

    async def main() -> None:
        job = await jobs.aio.begin("j", Import)
        async for _ in job.aio.each(source, cursor=lambda item: item):
            await job.aio.add(rows=1)

    with pytest.raises(LookupError):
        asyncio.run(main())
    assert (record(engine)[":rows"], record(engine)["cursor"]) == ("3", "2")


def test_a_loop_left_by_break_keeps_what_was_counted(jobs: Jobs) -> None:
    with jobs.begin("j", Import) as job:
        for item in job.each(numbers(9), cursor=lambda item: item):
            job.add(rows=1)
            if item == 4:
                break
        job.add(ratio=1.0)
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.data.rows, found.data.ratio) == (5, 1.0)


def test_what_could_not_be_saved_on_leaving_the_loop_goes_with_the_end(engine: Any, jobs: Jobs) -> None:
    with jobs.begin("j", Import) as job:
        for item in job.each(numbers(9), cursor=lambda item: item):
            job.add(rows=1)
            if item == 4:
                engine.store.trouble = ["down"]
                break
    assert (record(engine)[":rows"], record(engine)["cursor"], record(engine)["batch"]) == ("5", "3", "2")


def test_a_second_loop_goes_on_where_the_first_was_left(engine: Any, jobs: Jobs) -> None:
    with jobs.begin("j", Import) as job:
        for item in job.each(numbers(9), cursor=lambda item: item):
            job.add(rows=1)
            if item == 4:
                engine.store.trouble = ["down"]
                break
        seen = []
        for item in job.each(numbers(9), cursor=lambda item: item):
            job.add(rows=1)
            seen.append(item)
    assert seen == [4, 5, 6, 7, 8]
    assert record(engine)[":rows"] == "9"


def test_a_loop_that_outlives_its_attempt_writes_nothing(engine: Any, jobs: Jobs) -> None:
    loops = []

    def work() -> None:
        with jobs.begin("j", Import) as job:
            loops.append(job.each(numbers(9), cursor=lambda item: item))
            next(loops[0])
            next(loops[0])
            raise KeyError

    with pytest.raises(KeyError):
        work()
    engine.store.sent.clear()
    loops[0].close()
    assert engine.store.sent == []
    assert record(engine)["cursor"] == "0"


def test_counting_in_a_loop_costs_no_round_trip(engine: Any, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    engine.store.sent.clear()
    for _ in job.each(numbers(1000), cursor=lambda item: item, every=100, within=3600):
        job.add(rows=1)
    assert engine.store.sent == ["job.write"] * 10


def test_a_batch_is_saved_when_its_time_has_come(engine: Any, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("workerkit.jobs.attempt.time", SimpleNamespace(monotonic=lambda: now))
    job = jobs.begin("j", Import)
    cursors = []
    for _ in job.each(numbers(6), cursor=lambda item: item, within=1.0):
        cursors.append(record(engine).get("cursor"))
        now += 0.5
    assert cursors == [None, None, "1", "1", "3", "3"]
    assert record(engine)["cursor"] == "5"


def test_a_sum_past_what_can_be_counted_ends_the_job(engine: Any, jobs: Jobs) -> None:
    store = engine.store
    refuse = store._write
    store._write = lambda key, words: b"COUNTER:rows" if words[3] != "0" else refuse(key, words)

    def work() -> None:
        with jobs.begin("j", Import) as job:
            for _ in job.each(numbers(2), cursor=lambda item: item):
                job.add(rows=1)

    with pytest.raises(CodecError, match="rows"):
        work()
    assert record(engine)["status"] == "FAILURE"


# Fences, ends and cancels


def test_an_older_attempt_is_fenced(engine: Any, jobs: Jobs) -> None:
    old, new = jobs.begin("j", Import), jobs.begin("j", Import)
    assert new.fence == old.fence + 1
    before = dict(record(engine))
    for act in (lambda: old.update(name="x"), lambda: old.add(rows=1), old.heartbeat, old.check, old.finish):
        with pytest.raises(JobFenced):
            act()
    assert record(engine) == before


def test_an_end_is_final(engine: Any, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    job.fail(ValueError("no"))
    for act in (lambda: job.update(name="x"), job.check, job.finish):
        with pytest.raises(JobFinished):
            act()
    with pytest.raises(JobFinished, match="FAILURE"):
        jobs.begin("j", Import)
    assert jobs.begin("j", Import, retry=True).attempt == 2


def test_success_and_cancellation_are_final_for_retries_too(jobs: Jobs) -> None:
    jobs.begin("s", Import).finish()
    with pytest.raises(JobFinished, match="SUCCESS"):
        jobs.begin("s", Import, retry=True)

    def work() -> None:
        with jobs.begin("c", Import) as job:
            jobs.cancel("c")
            job.check()

    with pytest.raises(JobCancelled):
        work()
    with pytest.raises(JobFinished, match="CANCELLED"):
        jobs.begin("c", Import, retry=True)


def test_an_expired_record_stays_away(engine: Any, jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    engine.store.records.clear()
    for act in (lambda: job.add(rows=1), job.check, job.finish):
        with pytest.raises(JobMissing):
            act()
    assert engine.store.records == {}


def test_a_cancelled_job_is_told_by_its_next_write(jobs: Jobs) -> None:
    job = jobs.begin("j", Import)
    assert jobs.cancel("j") is True
    with pytest.raises(JobCancelled):
        job.add(rows=1)
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.data.rows, found.status, found.cancelling) == (1, "RUNNING", True)
    assert job.data.rows == 1


def test_the_heartbeat_tells_a_loop_to_stop(engine: Any, jobs: Jobs) -> None:
    seen = []

    def work() -> None:
        with jobs.begin("j", Import) as job:
            for item in job.each(numbers(9), cursor=lambda item: item):
                seen.append(item)
                job.add(rows=1)
                if item == 3:
                    jobs.cancel("j")
                    (beat,) = engine.ticker.acts
                    beat()

    with pytest.raises(JobCancelled):
        work()
    found = jobs.get("j", Import)
    assert found is not None
    assert seen == [0, 1, 2, 3]
    assert (found.status, found.data.rows) == ("CANCELLED", 4)
    assert engine.ticker.acts == []


def test_a_cancel_that_is_met_in_a_loop_keeps_what_was_handled(engine: Any, jobs: Jobs) -> None:
    @job(engine, Import)
    def work(job: Job[Import]) -> None:
        items = job.each(numbers(9), cursor=lambda item: item)
        for item in items:
            job.add(rows=1)
            if item == 3:
                jobs.cancel(job.id)
            job.check()

    with pytest.raises(JobCancelled):  # the traceback keeps `items`, so it is still open when the job ends
        work()
    kept = record(engine)
    assert (kept["status"], kept[":rows"], kept["done"], kept["cursor"]) == ("CANCELLED", "3", "3", "2")


def test_a_refused_loop_asks_only_once(engine: Any, jobs: Jobs) -> None:
    old = jobs.begin("j", Import)
    jobs.begin("j", Import)
    engine.store.sent.clear()
    with pytest.raises(JobFenced):
        list(old.each(numbers(9), cursor=lambda item: item, every=3, within=3600))
    assert engine.store.sent == ["job.write"]


def test_a_block_does_not_end_what_has_ended(jobs: Jobs) -> None:
    with jobs.begin("j", Import) as job:
        job.fail(ValueError("mine"))
    found = jobs.get("j", Import)
    assert found is not None
    assert (found.status, found.error) == ("FAILURE", ("ValueError", "mine"))


def test_an_error_is_not_replaced_when_redis_is_down(engine: Any, jobs: Jobs) -> None:
    def work() -> None:
        with jobs.begin("j", Import):
            engine.store.trouble = ["down"] * 9
            raise KeyError("mine")

    with pytest.raises(KeyError) as caught:
        work()
    assert "could not be closed" in caught.value.__notes__[0]


def test_a_long_or_unprintable_error_is_kept_short(jobs: Jobs) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    jobs.begin("a", Import).fail(ValueError("x" * 5000))
    jobs.begin("b", Import).fail(Odd())
    found = [jobs.get(name, Import) for name in "ab"]
    assert [len(each.error.message) for each in found if each and each.error] == [1000, 0]


# The decorator

TASK = Running("task-1", "shop.import", "root-1")


def test_outside_a_task_each_call_has_a_record_of_its_own(engine: Any) -> None:
    @job(engine, Import, owner="{account}", tags=["import"])
    def work(job: Job[Import], account: str, *, times: int = 1) -> str:
        job.add(rows=times)
        return job.id

    ids = {work("acct", times=3), work("acct")}
    assert len(ids) == 2
    assert all(len(each) == 32 for each in ids)
    assert {each["owner"] for each in engine.store.records.values()} == {"acct"}
    assert {each["status"] for each in engine.store.records.values()} == {"SUCCESS"}
    assert [event.what for event in engine.events] == ["began", "success"] * 2


def test_inside_a_task_the_record_is_the_tasks() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(job: Job[Import]) -> str:
        return job.id

    assert work() == "task-1"
    found = Jobs(engine).get("task-1", Import)
    assert found is not None
    assert (found.task, found.root_id, found.status) == ("shop.import", "root-1", "SUCCESS")


def test_a_retried_task_goes_on_where_it_failed() -> None:
    engine = make_engine(TASK)
    seen: list[int] = []

    @job(engine, Import)
    def work(job: Job[Import]) -> int:
        for item in job.each(numbers(5), cursor=lambda item: item):
            if item == 3 and job.attempt == 1:
                raise KeyError(item)
            seen.append(item)
            job.add(rows=1)
        return job.attempt

    with pytest.raises(KeyError):
        work()
    assert record(engine)["status"] == "FAILURE"
    assert work() == 2
    assert seen == [0, 1, 2, 3, 4]
    assert (record(engine)["status"], record(engine)[":rows"]) == ("SUCCESS", "5")
    assert "error" not in record(engine)
    with pytest.raises(Ended):  # delivered once more: what has succeeded is final
        work()
    assert engine.host.told == [("JobFinished", False)]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyError(), "FAILURE"),
        (Retry(), "RETRY"),
        (SoftTimeLimitExceeded(), "FAILURE"),
        (KeyboardInterrupt(), "RETRY"),
        (SystemExit(), "RETRY"),
    ],
)
def test_how_an_error_leaves_the_record(error: BaseException, status: str) -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(job: Job[Import]) -> None:
        raise error

    with pytest.raises(type(error)):
        work()
    assert record(engine)["status"] == status


def test_the_host_may_say_which_errors_come_back() -> None:
    engine = make_engine(TASK)
    engine.host.comes_back = lambda error: isinstance(error, KeyError)

    @job(engine, Import)
    def work(job: Job[Import], error: Exception) -> None:
        raise error

    for error, status in ((KeyError(), "RETRY"), (Retry(), "FAILURE")):
        with pytest.raises(type(error)):
            work(error)
        assert record(engine)["status"] == status


def test_a_fenced_attempt_ends_in_silence() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(mine: Job[Import]) -> None:
        Jobs(engine).begin("task-1", Import)
        mine.add(rows=1)

    with pytest.raises(Ended):
        work()
    assert engine.host.told == [("JobFenced", False)]
    assert record(engine)["status"] == "RUNNING"


def test_a_zombies_own_error_is_not_heard_either() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(mine: Job[Import]) -> None:
        Jobs(engine).begin("task-1", Import)
        raise KeyError("woke up too late")

    with pytest.raises(Ended):
        work()
    assert (record(engine)["status"], "error" in record(engine)) == ("RUNNING", False)


@pytest.mark.parametrize("when", ["before", "within"])
def test_a_cancelled_task_is_recorded_and_stopped(when: str) -> None:
    engine = make_engine(TASK)
    ran: list[int] = []

    @job(engine, Import)
    def work(mine: Job[Import]) -> None:
        ran.append(1)
        Jobs(engine).cancel("task-1")
        mine.check()

    if when == "before":
        Jobs(engine).begin("task-1", Import)
        Jobs(engine).cancel("task-1")
    with pytest.raises(Ended):
        work()
    assert engine.host.told == [("JobCancelled", True)]
    assert record(engine)["status"] == "CANCELLED"
    assert len(ran) == (when == "within")


def test_a_zombie_that_swallows_its_error_is_stopped_all_the_same() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(mine: Job[Import], *, raises: bool) -> None:
        Jobs(engine).begin("task-1", Import)
        with contextlib.suppress(JobFenced):
            mine.add(rows=1)
        if raises:
            raise KeyError

    for raises in (False, True):
        with pytest.raises(Ended):
            work(raises=raises)
    assert record(engine)["status"] == "RUNNING"


def test_another_jobs_error_is_an_ordinary_error() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    def work(mine: Job[Import]) -> None:
        raise JobFenced(job_id="other")

    with pytest.raises(JobFenced):
        work()
    assert record(engine)["status"] == "FAILURE"


def test_a_hit_closes_the_record() -> None:
    engine = make_engine(TASK)

    @job(engine, Import, owner="{account}")
    def work(job: Job[Import], account: str) -> None: ...

    def close() -> bool:
        return bool(engine.store.run(getattr(work, layers.CLOSING)(("acct",), {})))

    assert close() is True
    found = Jobs(engine).get("task-1", Import)
    assert found is not None
    assert (found.status, found.cached, found.owner) == ("SUCCESS", True, "acct")
    assert close() is False
    assert engine.store.listed == [(b"task-1", NUMBERS["SUCCESS"])]
    engine.host.now = None
    assert getattr(work, layers.CLOSING)(("acct",), {}) is None


def test_a_hit_fences_an_attempt_that_still_runs() -> None:
    engine = make_engine(TASK)
    zombie = Jobs(engine).begin("task-1", Import)

    @job(engine, Import)
    def work(job: Job[Import]) -> None: ...

    engine.store.run(getattr(work, layers.CLOSING)((), {}))
    with pytest.raises(JobFenced):
        zombie.add(rows=1)


def test_a_coroutine_function_stays_one() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    async def work(job: Job[Import], times: int) -> int:
        async def source(cursor: int | None) -> Any:
            for item in numbers(times)(cursor):
                yield item

        async for _ in job.aio.each(source, cursor=lambda item: item):
            await job.aio.add(rows=1)
        await job.aio.update(name="x")
        await job.aio.progress(message="m")
        await job.aio.check()
        await job.aio.heartbeat()
        return job.data.rows

    assert inspect.iscoroutinefunction(work)
    assert asyncio.run(work(5)) == 5
    assert (record(engine)[":rows"], record(engine)["status"]) == ("5", "SUCCESS")


def test_a_cancelled_coroutine_may_come_back() -> None:
    engine = make_engine(TASK)

    @job(engine, Import)
    async def work(job: Job[Import]) -> None:
        async for _ in job.aio.each(numbers(5), cursor=lambda item: item):
            await job.aio.add(rows=1)
            if job.data.rows == 3:
                raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(work())
    assert (record(engine)["status"], record(engine)[":rows"]) == ("RETRY", "2")


def test_jobs_begin_awaited_and_entered(engine: Any) -> None:
    async def main() -> None:
        jobs = Jobs(engine).aio
        first = await jobs.begin("j", Import)
        async with jobs.begin("j", Import) as second:
            assert second.attempt == 2
            with pytest.raises(JobFenced):
                await first.aio.fail(ValueError())
            await second.aio.add(rows=1)
        found = await jobs.get("j", Import)
        assert found is not None
        assert (found.status, found.data.rows) == ("SUCCESS", 1)
        assert await jobs.cancel("j") is False

    asyncio.run(main())


def test_the_job_is_absent_from_the_signature(engine: Any) -> None:
    @job(engine, Import)
    def work(job: Job[Import], account: str, path: str = "p") -> int:
        return 1

    assert str(inspect.signature(work)) == "(account: 'str', path: 'str' = 'p') -> 'int'"
    assert typing.get_type_hints(work) == {"account": str, "path": str, "return": int}
    assert work.__name__ == "work"
    check = head_from_fun(work)
    check("a", path="b")
    for wrong in ((), ("a", "b", "c")):
        with pytest.raises(TypeError):
            check(*wrong)


def test_a_wrong_call_leaves_no_record(engine: Any) -> None:
    @job(engine, Import)
    def work(job: Job[Import], account: str) -> None: ...

    for args, kwargs in (((), {}), (("a", "b"), {}), (("a",), {"job": 1})):
        with pytest.raises(TypeError):
            work(*args, **kwargs)
    assert engine.store.records == {}


def test_a_bound_task_gets_itself_first(engine: Any) -> None:
    class Self:
        pass

    @job(engine, Import, owner="{account}")
    def work(self: Self, job: Job[Import], account: str) -> tuple[object, str]:
        return self, account + job.task[-4:]

    me = Self()
    assert work(me, "acct") == (me, "acctwork")
    assert list(inspect.signature(work).parameters) == ["self", "account"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ttl": "no"}, "ttl"),
        ({"owner": "{nobody}"}, "nobody"),
        ({"tags": "import"}, r"tags=\[\"import\"\]"),
        ({"heartbeat": 0}, "heartbeat"),
    ],
)
def test_wrong_options_are_told_at_definition(engine: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DefinitionError, match=says):

        @job(engine, Import, **options)
        def work(job: Job[Import], account: str) -> None: ...


def test_functions_that_cannot_be_jobs(engine: Any) -> None:
    def none() -> None: ...
    def keyword(*, job: Job[Import]) -> None: ...
    def lone(self: object) -> None: ...
    def items(job: Job[Import]) -> Any:
        yield 1

    for fn in (none, keyword, lone, items):
        with pytest.raises(DefinitionError, match=fn.__name__):
            job(engine, Import)(fn)  # type: ignore[arg-type]  # that is the point
    done = job(engine, Import)(lambda job: None)
    with pytest.raises(DefinitionError, match="twice"):
        job(engine, Import)(done)


@pytest.mark.parametrize(("sync", "aio"), [(Job, AioJob), (Jobs, AioJobs)])
def test_both_sides_have_the_same_verbs(sync: type, aio: type) -> None:
    internal = {"getting", "cancelling", "beginning", "listing", "growing"}

    def verbs(side: type) -> dict[str, Any]:
        return {
            name: [(each.name, each.kind, each.default) for each in inspect.signature(verb).parameters.values()]
            for name, verb in vars(side).items()
            if inspect.isfunction(verb) and not name.startswith("_") and name not in internal
        }

    assert verbs(sync) == verbs(aio)
    assert len(verbs(sync)) >= 3


TYPED = """
from collections.abc import AsyncIterator, Coroutine
from typing import Any, assert_type
from pydantic import BaseModel
from workerkit.api.engine import Engine
from workerkit.api.job import Job
from workerkit.api.recording import job
from workerkit.api.jobs import Jobs
from workerkit.jobs.record import JobView

class Import(BaseModel):
    rows: int = 0

class Export(BaseModel):
    rows: int = 0

class Task: ...

def source(cursor: int | None) -> list[str]: return []
async def stream(cursor: int | None) -> AsyncIterator[str]:
    yield ""

def check(engine: Engine, jobs: Jobs) -> None:
    @job(engine, Import)
    def plain(job: Job[Import], account: str, *, times: int = 1) -> int:
        assert_type(job.data, Import)
        for row in job.each(source, cursor=lambda row: row):
            assert_type(row, str)
        return job.data.rows

    @job(engine, Import)
    async def coroutine(job: Job[Import], account: str) -> int:
        async for row in job.aio.each(source, cursor=lambda row: row):
            assert_type(row, str)
        async for row in job.aio.each(stream, cursor=lambda row: len(row)):
            assert_type(row, str)
        return 1

    @job(engine, Import)
    def bound(self: Task, job: Job[Import], account: str) -> int:
        return 1

    assert_type(plain("a", times=2), int)
    awaited: Coroutine[Any, Any, int] = coroutine("a")
    assert_type(bound(Task(), "a"), int)
    plain(1)  # refused
    plain("a", job=1)  # refused
    job(engine, Export)(lambda job: plain(job))  # refused
    with jobs.begin("j", Import) as mine:
        assert_type(mine, Job[Import])
        mine.add(rows="many")  # refused
    assert_type(jobs.get("j", Import), JobView[Import] | None)

async def aio(jobs: Jobs) -> None:
    assert_type(await jobs.aio.begin("j", Import), Job[Import])
    async with jobs.aio.begin("j", Import) as mine:
        assert_type(mine, Job[Import])
    assert_type(await jobs.aio.get("j", Import), JobView[Import] | None)
"""


def test_types_as_users_see_them() -> None:
    from mypy import api

    out, _, _ = api.run(["--strict", "--follow-imports=silent", "-c", TYPED])
    told = {int(line.split(":")[1]) for line in out.splitlines() if ": error:" in line}
    refused = {number for number, line in enumerate(TYPED.splitlines(), 1) if line.endswith("# refused")}
    assert told == refused, out
