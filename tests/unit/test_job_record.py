"""A job's record and its fields, with no server."""

from __future__ import annotations

import enum
import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, RootModel, SecretStr, model_validator

from workerkit.api.job import Job
from workerkit.api.jobs import Jobs
from workerkit.errors import (
    CodecError,
    DefinitionError,
    OutcomeUnknown,
)
from workerkit.jobs.record import Shape, dump_cursor

if TYPE_CHECKING:
    from collections.abc import Callable


from tests.unit.job_rig import Import, engine, jobs, record

__all__ = ["engine", "jobs"]  # fixtures


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
