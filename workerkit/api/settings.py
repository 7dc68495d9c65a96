"""The settings: from `app.conf.workerkit_*`, else from `WORKERKIT_*` in the environment, checked once."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, field_validator

from workerkit.core.durations import seconds
from workerkit.core.keys import checked_namespace
from workerkit.errors import DefinitionError
from workerkit.io.address import parse_address


def _seconds(value: Any) -> float:
    return seconds(value, what="it")


Seconds = Annotated[float, BeforeValidator(_seconds)]


class Settings(BaseModel):
    """Every setting of a kit. Durations are seconds, or text such as "500ms" and "10m"."""

    model_config = ConfigDict(frozen=True, defer_build=True)

    redis_url: str = Field(description="Where cached values are; and all the rest, unless guard_url is set.")
    guard_url: str | None = Field(None, description="Where limits, leases, jobs and parked tasks are; must not evict.")
    namespace: str = Field("wk", description="The first part of every key: one a deployment.")
    secret: SecretStr | None = Field(None, description="Keys the digests in keys and signs cached values.")
    timeout: Seconds = Field(1.0, description="The longest a call to Redis may take.")
    pool_min: int = Field(10, ge=0, description="Connections kept when idle, per process and server.")
    pool_max: int = Field(50, ge=1, description="Connections at most, per process and server.")
    pool_timeout: Seconds = Field(1.0, description="The longest wait for a free connection.")
    breaker_failures: int = Field(3, ge=1, description="Failures in a row after which calls fail at once.")
    guard_eviction: Literal["refuse", "warn"] = Field("refuse", description="What to do when the guard store evicts.")
    lease: Seconds = Field(10.0, description="How long a computation's lease lives unrenewed.")
    wait: Seconds = Field(30.0, description="How long to wait for another's computation before computing oneself.")
    max_bytes: int = Field(16 * 2**20, ge=1, description="The largest cached value.")
    early: float = Field(1.0, ge=0, allow_inf_nan=False, description="The beta of early refresh; 0 for none.")
    jitter: float = Field(0.0, ge=0, lt=1, description="The share of a ttl that is taken off at random, at most.")
    codec: str = Field("json", description="How cached values are written: json, or a serializer that kombu knows.")
    sleep_under: Seconds = Field(0.1, description="Waits shorter than this are slept in place; longer ones park.")
    waitlist_max: int = Field(100_000, ge=1, description="Parked tasks at most.")
    waitlist_full: Literal["countdown", "refuse"] = Field(
        "countdown", description="A task beyond that: sent with a countdown instead, or failed with WaitlistFull."
    )
    warm_tick: Literal["beat", "worker"] = Field("beat", description="What looks whether a warmup is due.")
    heartbeat: Seconds = Field(5.0, description="How often a running job says that it is alive.")

    @field_validator("redis_url", "guard_url")
    @classmethod
    def _readable(cls, url: str | None) -> str | None:
        if url is not None and not url.startswith("embedded://"):
            parse_address(url, what="it")
        return url

    @field_validator("namespace")
    @classmethod
    def _safe(cls, namespace: str) -> str:
        return checked_namespace(namespace)

    @field_validator("pool_max")
    @classmethod
    def _wide(cls, maximum: int, info: Any) -> int:
        if maximum < info.data.get("pool_min", 0):
            raise ValueError(f"it is below workerkit_pool_min ({info.data['pool_min']}); raise it, or lower that")
        return maximum


def load(given: Mapping[str, Any]) -> Settings:
    """Settings from `given` (names without prefix), else from the environment.

    Raises DefinitionError: one line for each setting that is wrong, with what to write instead; no secret is shown.
    """
    for name in given:
        if name not in Settings.model_fields:
            import difflib

            close = difflib.get_close_matches(name, Settings.model_fields, n=1)
            hint = f"did you mean workerkit_{close[0]}?" if close else f"there are {', '.join(Settings.model_fields)}"
            raise DefinitionError(f"workerkit_{name} is not a setting; {hint}")
    try:
        return Settings(**{**_environment(), **given})
    except ValidationError as error:
        # Not chained: pydantic's message quotes the input, which may hold a password.
        raise DefinitionError("\n".join(_line(problem) for problem in error.errors(include_input=False))) from None


def _environment() -> dict[str, str]:
    """What `WORKERKIT_*` says, in capitals or not; other names may be somebody else's."""
    there = {name.lower(): value for name, value in os.environ.items()}
    return {name: there[key] for name in Settings.model_fields if (key := f"workerkit_{name}") in there}


def _line(problem: Any) -> str:
    name = str(problem["loc"][0])
    if problem["type"] == "missing":
        return (
            "workerkit_redis_url is not set: write app.conf.workerkit_redis_url = 'redis://localhost:6379/1', "
            "or set WORKERKIT_REDIS_URL (the broker's URL is never taken silently)"
        )
    cause = problem.get("ctx", {}).get("error")
    text = str(cause) if cause is not None else problem["msg"]
    return f"workerkit_{name} (or WORKERKIT_{name.upper()}): {text}"
