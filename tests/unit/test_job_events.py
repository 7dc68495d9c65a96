"""Watching a job with no server: a model of its record and its stream answers the Calls."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workerkit.core.call import Call
from workerkit.core.flow import Sleep
from workerkit.errors import DefinitionError, JobMissing, StoreUnavailable
from workerkit.jobs import events
from workerkit.jobs.events import JobUpdate, Watcher
from workerkit.jobs.policy import Place
from workerkit.jobs.record import Failure, Progress

START = 1_700_000_000_000  # ms
ENDS = ("SUCCESS", "FAILURE", "CANCELLED", "POISONED")


class Story:
    """A job's record, the stream of its events, and all that has ever happened to it."""

    def __init__(self) -> None:
        self.head: dict[str, str] = {}
        self.kept: list[tuple[str, dict[str, str]]] = []
        self.past: list[JobUpdate] = []
        self.clock = 1000.0
        self.reads: list[float] = []
        self.act("began")

    def act(self, what: str, value: int = 0) -> None:
        """`what` happens, if it can happen to the job as it is."""
        status = self.head.get("status", "RETRY")
        ended, running = status in ENDS, status == "RUNNING"
        if what == "began" and (not ended or status == "FAILURE"):
            self._tell(what, status="RUNNING", attempt=str(int(self.head.get("attempt", 0)) + 1))
        elif what in {"done", "total", "message"} and running:
            self._tell("progress", **{what: str(value)})
        elif what == "changed" and running:
            self._tell(what, fields="a,b"[: 1 + 2 * (value % 2)])
        elif what == "again" and running:
            self._tell(what, status="RETRY", error="E", reason=str(value))
        elif what == "cancelling" and not ended and "cancel" not in self.head:
            self.head["cancel"] = "1"
            self._tell(what)
        elif what == "SUCCESS" and not ended:
            self._tell("ended", status=what)
        elif what in ENDS and running:
            self._tell("ended", status=what, error=what, reason=str(value))

    def _tell(self, kind: str, **pairs: str) -> None:
        number = len(self.past) + 1
        at = START + number // 3
        name = f"{at}-{number}"
        self.kept.append((name, {"kind": kind, **pairs}))
        self.head |= {key: value for key, value in pairs.items() if key != "fields"}
        self.head["version"] = str(number)
        if pairs.get("status") == "SUCCESS":
            self.head.pop("error", None)
            self.head.pop("reason", None)
        fields = tuple(pairs.get("fields", "").split(",")) if "fields" in pairs else ()
        self.past.append(self.state(name, at * 1000, kind, fields))

    def state(self, name: str, now_us: int, kind: Any, fields: tuple[str, ...] = ()) -> JobUpdate:
        """The update of someone who knows all."""
        head = self.head
        done, total = (int(head[key]) if key in head else None for key in ("done", "total"))
        error = Failure(head["error"], head["reason"]) if "error" in head else None
        progress = Progress(done, total, head.get("message"))
        status: Any = head["status"]
        return JobUpdate(name, now_us / 1e6, kind, status, progress, int(head["attempt"]), fields, error)

    def trim(self, most: int) -> None:
        del self.kept[: max(0, len(self.kept) - most)]

    def answer(self, call: Call[Any]) -> Any:
        self.reads.append(self.clock)
        start, *names = (str(word, "utf-8") if isinstance(word, bytes) else str(word) for word in call.args)
        if not self.head:
            return call.parse(None)
        entries = [entry for entry in self.kept if start == "-" or (start and after(entry[0], start[1:]))]
        raw = [[name.encode(), [w.encode() for pair in said.items() for w in pair]] for name, said in entries]
        values = [self.head[name].encode() if name in self.head else None for name in names]
        ids = [entry[0].encode() for entry in self.kept] or [b"0-0"]
        return call.parse([self.now_us, len(self.kept), ids[0], ids[-1], values, raw])

    @property
    def now_us(self) -> int:
        return (START + len(self.past)) * 1000

    def look(self, watcher: Watcher) -> list[JobUpdate]:
        """What the watcher gets without waiting."""
        flow, value = watcher.more(), None
        with patch.object(events, "monotonic", lambda: self.clock):
            try:
                while not isinstance(step := flow.send(value), Sleep):
                    value = self.answer(step)  # type: ignore[arg-type]  # it makes nothing but Calls and Sleeps
            except StopIteration:
                pass
        found = list(watcher.ready)
        watcher.ready.clear()
        self.clock += 1
        return found

    def naps(self, watcher: Watcher, most: int = 10) -> list[float]:
        """How long it sleeps, one after the other, until there is something."""
        flow, value, slept = watcher.more(), None, list[float]()
        with patch.object(events, "monotonic", lambda: self.clock):
            try:
                while len(slept) < most:
                    step = flow.send(value)
                    value = None
                    if isinstance(step, Sleep):
                        slept.append(step.seconds)
                        self.clock += step.seconds
                    else:
                        value = self.answer(step)  # type: ignore[arg-type]  # as above
            except StopIteration:
                pass
        return slept

    def watcher(self, **given: Any) -> Watcher:
        with patch.object(events, "monotonic", lambda: self.clock):
            return Watcher(Place("j", "r", "e"), **{"after": "", "poll": 1, "wait": 0, "timeout": None, **given})


def after(one: str, other: str) -> bool:
    return [*map(int, one.split("-"))] > [*map(int, other.split("-"))]


ACTS = st.tuples(
    st.sampled_from(["began", "done", "done", "total", "message", "changed", "again", "cancelling", "look", *ENDS]),
    st.integers(0, 9),
)


@given(st.lists(st.one_of(ACTS, st.tuples(st.just("trim"), st.integers(0, 9))), max_size=60))
def test_a_watcher_is_told_all_that_happened_in_order_and_how_it_stood(acts: list[tuple[str, int]]) -> None:
    story = Story()
    watcher, seen, nows = story.watcher(), -1, 0
    for what, value in [*acts, ("look", 0)]:
        if what == "trim":
            story.trim(value)
        elif what != "look":
            story.act(what, value)
        elif not watcher.over:
            for update in story.look(watcher):
                if update.kind == "now":
                    kept = [name for name, _ in story.kept]
                    assert seen < 0 or story.past[seen + 1].id not in kept
                    seen, nows = len(story.past) - 1, nows + 1
                    at = kept[-1] if kept else "0-0"
                    assert update == story.state(at, story.now_us, "now")
                else:
                    seen += 1
                    assert update == story.past[seen]
    ends = [number for number, update in enumerate(story.past) if update.kind == "ended"]
    if watcher.over:
        assert seen in ends
        assert story.look(watcher) == []
    else:
        assert story.past[-1].kind != "ended"
        assert seen == len(story.past) - 1
    assert nows >= 1


def test_a_job_that_has_not_begun_is_waited_for_as_long_as_is_said() -> None:
    story = Story()
    story.head.clear()
    story.kept.clear()
    story.past.clear()
    late, patient = story.watcher(wait=3), story.watcher(wait=100)
    for _ in range(3):
        assert story.look(late) == []
    with pytest.raises(JobMissing):
        story.look(late)
    with pytest.raises(JobMissing):
        story.look(story.watcher())
    assert story.look(patient) == []
    story.act("began")
    assert story.look(patient) == [story.state(story.kept[-1][0], story.now_us, "now")]
    assert not patient.over


@given(st.lists(ACTS, min_size=1, max_size=40), st.integers(1, 40), st.data())
def test_who_comes_back_is_told_all_that_is_kept(acts: list[tuple[str, int]], kept: int, data: st.DataObject) -> None:
    story = Story()
    for act in acts:
        story.act(*act)
    story.trim(kept)
    first = len(story.past) - len(story.kept)
    seen = data.draw(st.integers(first, len(story.past) - 1))
    ends = [number for number, update in enumerate(story.past) if number > seen and update.kind == "ended"]
    due = story.past[seen + 1 : ends[0] + 1 if ends else None]
    watcher = story.watcher(after=story.past[seen].id)
    found = story.look(watcher)
    if not first:
        assert found == due
    assert len(found) == len(due)
    for update, truth in zip(found, due, strict=True):
        assert update._replace(progress=truth.progress, error=truth.error) == truth
        assert {*update.progress} - {None} <= {*truth.progress}
        assert update.error in (truth.error, None)
    assert watcher.over == (bool(ends) or story.head["status"] in ENDS)


def test_a_trimmed_stream_is_gone_on_with_what_it_still_tells() -> None:
    story = Story()
    for what in ("total", "message", "done", "again", "began", "done", "done", "changed", "changed"):
        story.act(what, len(story.past))
    story.trim(2)
    [update] = story.look(story.watcher(after=story.past[-2].id))
    assert update == story.past[-1]  # no later event has changed the rest
    assert update.progress == (7, 1, "2", None, None)
    assert update.error == ("E", "4")
    story.act("done", 8)
    story.trim(2)
    [update] = story.look(story.watcher(after=story.past[-2].id))
    assert update == story.past[-1]


def test_what_was_so_before_a_later_attempt_is_known() -> None:
    story = Story()
    for what in ("done", "done", "changed", "again", "began", "done"):
        story.act(what, len(story.past))
    story.trim(5)
    updates = story.look(story.watcher(after=story.past[2].id))
    assert updates == story.past[3:]
    assert [(update.status, update.attempt) for update in updates] == [
        ("RUNNING", 1),
        ("RETRY", 1),
        *[("RUNNING", 2)] * 2,
    ]


def test_the_rate_is_the_newest_known() -> None:
    story = Story()
    watcher = story.watcher()
    story.look(watcher)
    story.act("total", 10)
    story.act("done", 4)
    story.head |= {"rate": "2.0", "rated": str(story.now_us - 1_000_000)}
    _, update = story.look(watcher)
    assert update.progress.rate == 2.0
    assert update.progress.eta == pytest.approx(3.0 - 1.0, abs=0.01)
    story.act("done", 5)
    del story.head["rate"]
    [update] = story.look(watcher)
    assert update.progress == (5, 10, None, None, None)


def test_it_reads_at_once_and_then_no_more_often_than_asked() -> None:
    story = Story()
    watcher = story.watcher(poll="2s")
    assert story.naps(watcher) == []
    watcher.ready.clear()
    assert story.naps(watcher, 3) == [2, 2, 2]
    story.clock += 1.5
    story.act("done")
    assert story.naps(watcher) == []  # it is late already
    watcher.ready.clear()
    story.act("done")
    story.clock += 0.5
    assert story.naps(watcher) == [1.5]
    assert story.naps(watcher) == []  # nothing is read while there is something to tell
    assert len(story.reads) == 5


def test_it_asks_no_more_often_while_redis_is_down() -> None:
    story = Story()
    watcher = story.watcher(poll=2)
    with patch.object(story, "answer", side_effect=StoreUnavailable), pytest.raises(StoreUnavailable):
        story.naps(watcher)
    assert not watcher.over
    assert story.naps(watcher) == [2]
    assert [update.kind for update in watcher.ready] == ["now"]


def test_its_time_ends_with_a_last_look() -> None:
    story = Story()
    watcher = story.watcher(poll=2, timeout=5)
    story.naps(watcher)
    watcher.ready.clear()
    assert story.naps(watcher) == [2, 2, 1]
    assert watcher.over
    watcher = story.watcher(poll=2, timeout=5)
    story.naps(watcher)
    watcher.ready.clear()
    story.clock += 60
    story.act("done")
    assert story.naps(watcher) == []
    assert [update.kind for update in watcher.ready] == ["progress"]
    assert watcher.over


def test_a_record_that_is_gone() -> None:
    story = Story()
    watcher = story.watcher()
    story.look(watcher)
    story.head.clear()
    assert story.look(watcher) == []
    assert watcher.over
    for seen in ("", "1-1"):
        with pytest.raises(JobMissing) as caught:
            story.look(story.watcher(after=seen))
        assert caught.value.job_id == "j"


@pytest.mark.parametrize("given", ["x", "1", "-1-0", "1-1-1", " 1-1", "1_0-1", f"{10**15}-0", None, b"1-1", 1, ["1-1"]])
def test_a_malformed_after_is_named(given: Any) -> None:
    with pytest.raises(DefinitionError, match="watch: after="):
        Story().watcher(after=given)


def test_what_redis_could_not_take_is_never_sent() -> None:
    largest = f"{10**15 - 1}-{10**15 - 1}"
    story = Story()
    watcher = story.watcher(after=largest)
    assert [update.kind for update in story.look(watcher)] == ["now"]
