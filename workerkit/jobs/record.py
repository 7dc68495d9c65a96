"""What a job's record holds: who it is, how it stands, and the fields of a pydantic model, each as JSON of its own.

One JSON document would lose a newer deploy's fields whenever an older worker writes; one hash field each does not.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite
from types import UnionType
from typing import Any, Generic, Literal, NamedTuple, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, RootModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic_core import to_json

from workerkit.errors import CodecError, DefinitionError

S = TypeVar("S", bound=BaseModel)
Number = int | float
Status = Literal["RUNNING", "RETRY", "SUCCESS", "FAILURE", "CANCELLED", "POISONED"]

TERMINAL = frozenset(("SUCCESS", "FAILURE", "CANCELLED", "POISONED"))

MAX_STATE = 64 * 1024  # bytes of JSON, all fields together
MAX_CURSOR = 4 * 1024
MAX_TEXT = 1000  # characters of a progress message or an error message; the rest is cut off
MAX_TRACE = 8000  # characters of a traceback; the beginning is cut off
MAX_COUNT = 2**53 - 1  # what a double, so a Lua script, holds exactly
MISSED = 3  # heartbeats without which a running job is stuck
DEFAULT_BEAT_MS = 5_000
FIELD = ":"  # stands before the names of the model's fields, so that none can be taken for one of ours

# What users' validators and serializers raise. Not Exception: Celery's SoftTimeLimitExceeded is one, and must pass.
_FAILURES = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError, RuntimeError)


_write_json = json.JSONEncoder(allow_nan=False).encode  # json.dumps would make an encoder for every item


def utf8(text: str) -> bytes:
    """Text for Redis; lone surrogates, which come from file names, are kept."""
    return text.encode("utf-8", "surrogatepass")


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def clipped(said: str) -> str:
    return said if len(said) <= MAX_TEXT else said[: MAX_TEXT - 1] + "…"


def trace(error: BaseException) -> str:
    said = "".join(traceback.format_exception(error))
    return said if len(said) <= MAX_TRACE else "…" + said[1 - MAX_TRACE :]


def dump_cursor(value: object) -> str:
    """A cursor as JSON. Raises CodecError for one that would not come back as it is, or is larger than 4 KiB."""
    try:
        data = _write_json(value)
        faithful = value is not None and json.loads(data) == value
    except _FAILURES:
        data, faithful = "", False
    if not faithful:
        raise CodecError(
            f"each: cursor gave a {type(value).__qualname__} that is no plain JSON value; give a number, text, or a "
            "list or dict of them (None means the beginning)"
        )
    if len(data) > MAX_CURSOR:
        raise CodecError(f"each: cursor gave {len(data)} bytes of JSON, above {MAX_CURSOR}; give an id or an offset")
    return data


class Shape(Generic[S]):
    """A pydantic model as the fields of a record. Every field needs a default: a record begins before any work is done.

    Raises DefinitionError for a model that cannot be the state of a job.
    """

    def __init__(self, model: type[S]) -> None:
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or issubclass(model, RootModel):
            raise DefinitionError(f"job: {model!r} is no pydantic model; write class Import(BaseModel): rows: int = 0")
        self.model = model
        self.name = model.__name__
        self.fields = frozenset(name for name, field in model.model_fields.items() if not field.exclude)
        # bool is an int to Python, and 1.5 is none to an int field: only the exact types can be counted.
        kinds = {name: model.model_fields[name].annotation for name in self.fields}
        self._numbers = {name: kind for name, kind in kinds.items() if kind in (int, float)}
        self._secrets = frozenset(name for name in self.fields if _is_secret(model.model_fields[name].annotation))
        self._constrained = _validates(model) or any(model.model_fields[name].metadata for name in self._numbers)
        self.fresh()

    def fresh(self) -> dict[str, bytes]:
        """The fields of a new record: the model's defaults."""
        try:
            state = self.model()
        except ValidationError as error:
            names = ", ".join(sorted({str(each["loc"][0]) for each in error.errors() if each["loc"]})) or "?"
            raise DefinitionError(f"job: {self.name} needs a default for each field; give one to: {names}") from None
        return self._dumped(state, self.fields)

    def patch(self, state: S, values: Mapping[str, object], verb: str) -> tuple[S, dict[str, bytes]]:
        """`state` with `values`, validated by the model, and those fields as JSON.

        Raises DefinitionError for an unknown field or a value that does not validate, CodecError for one that would not
        come back from JSON as it is or makes the state larger than 64 KiB. The message never quotes a value.
        """
        self._known(values, verb)
        changed = self._validated(state, values, verb)
        return changed, self._dumped(changed, values.keys())

    def check_counts(self, state: S, amounts: Mapping[str, Number]) -> None:
        """Raises DefinitionError for what cannot be counted, or would not validate when added to `state`."""
        self._known(amounts, "add")
        for name, amount in amounts.items():
            self._countable(name, amount)
        if self._constrained:
            self._validated(state, self._sums(state, amounts), "add")

    def counted(self, state: S, amounts: Mapping[str, Number]) -> S:
        """`state` with `amounts` added."""
        return state.model_copy(update=self._sums(state, amounts))

    @staticmethod
    def _sums(state: S, amounts: Mapping[str, Number]) -> dict[str, Number]:
        return {name: getattr(state, name) + amount for name, amount in amounts.items()}

    def kind(self, name: str) -> str:
        return "i" if self._numbers[name] is int else "f"

    def load(self, fields: Mapping[str, bytes], *, redacted: bool = False) -> S:
        """The model from a record's fields; those it does not know are left alone.

        `redacted`: secret fields have their defaults. Raises CodecError, naming the field, when what is stored does not
        fit the model.
        """
        known = self.fields - self._secrets if redacted else self.fields
        try:
            stored = _object({name: data for name, data in fields.items() if name in known})
            return self.model.model_validate_json(stored, by_alias=False, by_name=True)
        except ValidationError as error:
            # From None: pydantic's message quotes the input, which may be secret.
            raise CodecError(f"the stored state is no {self.name}: {_problems(error)}") from None
        except _FAILURES as error:
            raise CodecError(f"the stored state is no {self.name} ({type(error).__name__})") from None

    def _known(self, values: Mapping[str, object], verb: str) -> None:
        unknown = sorted(values.keys() - self.fields)
        if unknown:
            has = ", ".join(sorted(self.fields)) or "none"
            raise DefinitionError(f"job.{verb}: {self.name} has no field {unknown[0]!r}; it has: {has}")

    def _countable(self, name: str, amount: Number) -> None:
        kind = self._numbers.get(name)
        if kind is None:
            raise DefinitionError(f"job.add: {self.name}.{name} is no int or float; use job.update({name}=...)")
        if type(amount) is not int and (kind is int or type(amount) is not float or not isfinite(amount)):
            wanted = "an int" if kind is int else "a finite number"
            raise DefinitionError(f"job.add: {name} takes {wanted}, not this {type(amount).__qualname__}")
        if type(amount) is int and abs(amount) > MAX_COUNT:
            raise DefinitionError(f"job.add: {name} takes at most 2**53 - 1 at once")

    def _validated(self, state: S, values: Mapping[str, object], verb: str) -> S:
        merged = {name: getattr(state, name) for name in self.fields}
        try:
            return self.model.model_validate({**merged, **values}, by_alias=False, by_name=True)
        except ValidationError as error:
            raise DefinitionError(f"job.{verb}: not valid for {self.name}: {_problems(error)}") from None

    def _dumped(self, state: S, names: Iterable[str]) -> dict[str, bytes]:
        """`names` of `state` as JSON, checked by reading it back: a SecretStr, say, would come back as asterisks."""
        parts = {name: self._part(state, name) for name in names}
        try:
            whole = self._whole(state)
            back = self.model.model_validate_json(whole, by_alias=False, by_name=True)
            lost = next((name for name in parts if getattr(state, name) != getattr(back, name)), None)
        except ValidationError as error:
            raise CodecError(f"{self.name} would not come back from JSON: {_problems(error)}") from None
        except _FAILURES as error:
            raise CodecError(f"{self.name} cannot be written as JSON and read back ({type(error).__name__})") from None
        if lost is not None:
            raise CodecError(f"{self.name}.{lost} would not come back from JSON as it is; use a plainer type")
        if len(whole) > MAX_STATE:
            largest = max(sorted(self.fields), key=lambda name: len(self._part(state, name)))
            raise CodecError(
                f"{self.name} would take {len(whole)} bytes, above {MAX_STATE}; {largest} is the largest field: "
                "keep it elsewhere, and a reference to it here"
            )
        return parts

    def _json(self, state: S, names: Iterable[str]) -> bytes:
        return self.model.__pydantic_serializer__.to_json(state, include={*names}, by_alias=False, round_trip=True)

    def _whole(self, state: S) -> bytes:
        if self._secrets:
            return _object({name: self._part(state, name) for name in self.fields})
        return self._json(state, self.fields)

    def _part(self, state: S, name: str) -> bytes:
        """One field's JSON, cut out of `{"name":...}`. A secret is written as it is, which pydantic would not do."""
        before = f'{{"{name}":'.encode()
        try:
            if name in self._secrets:
                value = getattr(state, name)
                return to_json(value and value.get_secret_value())
            data = self._json(state, (name,))
        except _FAILURES as error:
            raise CodecError(f"{self.name}.{name} cannot be written as JSON ({type(error).__name__})") from None
        if not data.startswith(before):
            raise DefinitionError(
                f"job: {self.name} has a serializer of its own, which does not write {name}; leave it out"
            )
        return data[len(before) : -1]


def _object(parts: Mapping[str, bytes]) -> bytes:
    return b"{" + b",".join(json.dumps(name).encode() + b":" + data for name, data in parts.items()) + b"}"


def _is_secret(annotation: object) -> bool:
    """Whether a field is one of pydantic's secrets, or one or None."""
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        return any(map(_is_secret, get_args(annotation)))
    kind = get_origin(annotation) or annotation
    return isinstance(kind, type) and issubclass(kind, (SecretStr, SecretBytes, Secret))


def _validates(model: type[BaseModel]) -> bool:
    """Whether validators could refuse a sum; without any, counting need not run the model."""
    found = model.__pydantic_decorators__
    return bool(found.validators or found.field_validators or found.root_validators or found.model_validators)


def _problems(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, each['loc'])) or 'the state'}: {each['msg']}" for each in error.errors())


class Record:
    """A record as it was read at `now_us` (server microseconds)."""

    __slots__ = ("_head", "fields", "now_us")

    def __init__(self, now_us: int, flat: Sequence[bytes]) -> None:
        self.now_us = now_us
        self.fields: dict[str, bytes] = {}
        head: dict[str, bytes | None] = {}
        for name, value in zip(map(text, flat[::2]), flat[1::2], strict=True):
            if name.startswith(FIELD):
                self.fields[name[len(FIELD) :]] = value
            else:
                head[name] = value
        self._head: Mapping[str, bytes | None] = head

    @classmethod
    def of_head(cls, now_us: int, head: Mapping[str, bytes | None]) -> Record:
        """A record of which only some of our own fields were read; None is for those that it does not have."""
        record = cls(now_us, ())
        record._head = head
        return record

    def get(self, name: str, read: Callable[[bytes], Any]) -> Any:
        """What `read` makes of one of our fields; None where it is absent."""
        value = self._head.get(name)
        return None if value is None else read(value)

    @property
    def model(self) -> str:
        return str(self.get("model", text))

    def since(self, name: str) -> float | None:
        """Seconds since a moment in the record, by the server's clock."""
        moment: int | None = self.get(name, int)
        return None if moment is None else max(0.0, (self.now_us - moment) / 1e6)


class Progress(NamedTuple):
    """How far a job is, and how fast: items a second, and seconds to the end. None is "unknown"."""

    done: int | None = None
    total: int | None = None
    message: str | None = None
    rate: float | None = None
    eta: float | None = None


def eta(done: int | None, total: int | None, rate: float | None, quiet: float) -> float | None:
    """Seconds to the end when `quiet` seconds ago it went on at `rate`; None once it is overdue by too much to tell."""
    if done is None or total is None or not rate or quiet > 10 + 5 / rate:
        return None
    return max(0.0, (total - done) / rate - quiet)


class Failure(NamedTuple):
    """An exception as it is kept: its type's name and its message."""

    type: str
    message: str


@dataclass(frozen=True)
class JobInfo:
    """A job as it was at one moment, without its data.

    `heartbeat` is how many seconds ago the attempt last wrote; `started` (of this attempt), `created` and `ended` are
    seconds since 1970, by the server's clock. `cached`: ended by a memoized result. `cancelling`: asked to stop.
    `stuck`: it says that it runs, and has not written for three heartbeats.
    """

    id: str
    status: Status
    progress: Progress
    attempt: int
    fence: int
    version: int
    heartbeat: float
    created: float
    started: float
    ended: float | None
    task: str
    owner: str | None
    tags: tuple[str, ...]
    root_id: str | None
    error: Failure | None
    cached: bool
    cancelling: bool
    stuck: bool


@dataclass(frozen=True)
class JobView(JobInfo, Generic[S]):
    """The same with its data, in the model of its definition, where fields that are secret have their defaults.

    `traceback`: of its error, where the job keeps that.
    """

    data: S
    traceback: str | None = None


def info(job_id: str, record: Record) -> JobInfo:
    # A page has many: a frozen dataclass would take as long to set its fields one by one as to find them.
    made = object.__new__(JobInfo)
    vars(made).update(_head(job_id, record))
    return made


def view(job_id: str, shape: Shape[S], record: Record) -> JobView[S]:
    """Raises CodecError when what is stored does not fit the model."""
    data = shape.load(record.fields, redacted=True)
    return JobView(**_head(job_id, record), data=data, traceback=record.get("trace", text))


def _head(job_id: str, record: Record) -> dict[str, Any]:
    get = record.get
    error, heartbeat, status = get("error", text), record.since("heartbeat") or 0.0, get("status", text)
    return {
        "id": job_id,
        "status": status,
        "progress": _progress(record, status),
        "attempt": get("attempt", int),
        "fence": get("fence", int),
        "version": get("version", int),
        "heartbeat": heartbeat,
        "created": _seconds(get("created", int)),
        "started": _seconds(get("started", int)),
        "ended": _seconds(get("ended", int)),
        "task": get("task", text) or "",
        "owner": get("owner", text),
        "tags": get("tags", _tags) or (),
        "root_id": get("root", text),
        "error": None if error is None else Failure(error, get("reason", text) or ""),
        "cached": get("cached", bool) or False,
        "cancelling": get("cancel", bool) or False,
        "stuck": status == "RUNNING" and heartbeat * 1000 > MISSED * (get("beat", int) or DEFAULT_BEAT_MS),
    }


@lru_cache(1024)  # most jobs of a page have the same
def _tags(data: bytes) -> tuple[str, ...]:
    return tuple(json.loads(data))


def _progress(record: Record, status: Status) -> Progress:
    done, total, rate = record.get("done", int), record.get("total", int), record.get("rate", float)
    left = eta(done, total, rate, record.since("rated") or 0.0) if status == "RUNNING" else None
    return Progress(done, total, record.get("message", text), rate, left)


def _seconds(micros: int | None) -> float | None:
    return None if micros is None else micros / 1e6
