"""Every error workerkit raises, under one root.

The docstring of a class is its default message; what a program may want to look at is an attribute.
All of them survive pickling, because Celery's pools send exceptions between processes.
"""

from __future__ import annotations

from typing import Any


class WorkerKitError(Exception):
    """Something in workerkit failed."""

    def __init__(self, message: str | None = None, **data: Any) -> None:
        self.__dict__.update(data)
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


class DefinitionError(WorkerKitError, ValueError):
    """A definition or a setting is wrong; raised where it is written, never at the thousandth call."""


class EncodingError(WorkerKitError, TypeError):
    """An argument has no canonical encoding, so no key can be made from it.

    `argument` names it.
    """

    argument: str


class CodecError(WorkerKitError, ValueError):
    """A value cannot be serialized, or passes its size cap."""


class StoreError(WorkerKitError):
    """A call to Redis failed.

    `store` is "cache" or "guard", `call` the name of the Call.
    """

    store: str = ""
    call: str = ""


class StoreUnavailable(StoreError):
    """Redis cannot be reached; the call was not executed."""


class StoreRefused(StoreError):
    """Redis answered with an error; the call changed nothing."""


class PoolExhausted(StoreUnavailable):
    """No connection became free in time.

    `in_use`, `limit` and `waited` (seconds) say how it stood.
    """

    in_use: int
    limit: int
    waited: float


class OutcomeUnknown(StoreError):
    """The call was sent and no answer came: it may or may not have been executed."""


class GuardEvicts(StoreError):
    """The guard store evicts keys, so limits, leases and job records could vanish.

    `policy` is the server's `maxmemory-policy`.
    """

    policy: str


class RateLimited(WorkerKitError):
    """A limit is used up.

    `limiter` and `key` say which, `retry_after` (seconds) when to ask again, `bound_by` which rate refused, and `costs`
    what was asked for of each rate.
    """

    limiter: str
    key: str
    retry_after: float
    bound_by: str
    costs: tuple[int, ...]


class WaitlistFull(WorkerKitError):
    """As many tasks are parked as `workerkit_waitlist_max` allows, so this one was refused.

    `limiter` says whose limit it waits for.
    """

    limiter: str


class LeaseLost(WorkerKitError):
    """A lease ran out before it was released."""


class JobError(WorkerKitError):
    """An attempt at a job may not go on. `job_id` names the job."""

    job_id: str


class JobFenced(JobError):
    """A newer attempt of this job has begun; this one must stop. Nothing was written."""


class JobCancelled(JobError):
    """The job was cancelled; what the write said is kept."""


class JobFinished(JobError):
    """The job has ended; a terminal record is final. Nothing was written."""


class JobPoisoned(JobFinished):
    """Too many attempts of this job were killed one after the other, without getting any further. `status` is
    "POISONED"."""


class JobMissing(JobError):
    """There is no such job record (never begun, or expired)."""


class JobConflict(JobError):
    """Each time it was tried to modify the record, something else had written to it meanwhile. Nothing was written."""


class SessionGone(WorkerKitError):
    """There is no such session: it has expired, was revoked, has another id by now, or never was. Nothing was written.

    `ref` is the reference that its id begins with, "" for what is no id.
    """

    ref: str
