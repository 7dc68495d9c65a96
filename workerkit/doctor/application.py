"""What an app is configured to do, as far as it matters to the kit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery import Celery

from workerkit.api import layers
from workerkit.api.kit import WorkerKit
from workerkit.doctor.facts import AppFacts, TaskFacts
from workerkit.errors import DefinitionError

CONNECT = 1.0  # seconds
_VISIBLE = 3600.0  # kombu's default


def look(kit: WorkerKit, app: Celery, longest: dict[str, float]) -> AppFacts:
    """The facts of `app`; `longest` are the longest runs noted, in seconds by task."""
    conf: Any = app.conf
    transport = conf.broker_transport_options or {}
    driver, shown = _broker(app)
    expires = conf.result_expires
    return AppFacts(
        broker=driver,
        broker_shown=shown,
        visibility_timeout=float(transport.get("visibility_timeout", _VISIBLE)),
        confirms=bool(transport.get("confirm_publish")),
        prefetch=conf.worker_prefetch_multiplier,
        pool=str(conf.worker_pool),
        concurrency=conf.worker_concurrency,
        soft_shutdown=float(conf.worker_soft_shutdown_timeout or 0),
        result_expires=expires.total_seconds() if isinstance(expires, timedelta) else expires and float(expires),
        stores_results=not conf.task_ignore_result and bool(conf.result_backend),
        time_limit=conf.task_time_limit,
        eager=bool(conf.task_always_eager),
        accepts=tuple(conf.accept_content or ()),
        lease=kit.settings.lease,
        pool_max=kit.settings.pool_max,
        tasks=tuple(_task(task, longest.get(name, 0.0)) for name, task in sorted(app.tasks.items()) if _ours(name)),
    )


def _broker(app: Celery) -> tuple[str, str]:
    """Kombu's name for the kind of broker, and where it is."""
    with app.connection_for_write() as broker:
        try:
            return broker.transport.driver_type, broker.as_uri()  # which masks the password
        except ImportError as error:
            raise DefinitionError(f"broker_url: its transport cannot be imported ({error})") from None


def reach(app: Celery) -> str:
    """Why a broker that is no Redis cannot be reached; "" when it can."""
    try:
        with app.connection_for_write(connect_timeout=CONNECT) as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
    except Exception as error:  # noqa: BLE001 - in the words of whatever transport
        return str(error) or type(error).__name__
    return ""


def _ours(name: str) -> bool:
    return not name.startswith(("celery.", "workerkit."))


def _task(task: Any, longest: float) -> TaskFacts:
    return TaskFacts(
        name=task.name,
        layers=layers.layers(task.run),
        acks_late=bool(task.acks_late),
        reject_on_worker_lost=bool(task.reject_on_worker_lost),
        time_limit=task.time_limit,
        countdown=_countdown(task),
        longest=longest,
    )


def _countdown(task: Any) -> float:
    """The longest countdown that a retry of this task has by its definition."""
    delay = float(task.default_retry_delay or 0)
    if getattr(task, "autoretry_for", ()) and getattr(task, "retry_backoff", False):
        delay = max(delay, float(getattr(task, "retry_backoff_max", 600)))
    return delay
