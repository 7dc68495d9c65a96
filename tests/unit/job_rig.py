"""Job state with no server: a model of the record answers the Calls."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel, Field

from workerkit.api.host import Running
from workerkit.api.jobs import Jobs
from workerkit.core.call import Call
from workerkit.core.events import Hooks
from workerkit.core.flow import Batch
from workerkit.core.keys import Keys
from workerkit.errors import (
    OutcomeUnknown,
    StoreUnavailable,
)

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

    def root(self) -> str | None:
        return "root-1" if self.now else None

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


def numbers(upto: int) -> Callable[[int | None], range]:
    return lambda cursor: range(0 if cursor is None else cursor + 1, upto)
