"""Memoized task results, distributed rate limits, job state and cache warming for Celery on one Redis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workerkit.api.job import Job as Job
    from workerkit.api.kit import WorkerKit as WorkerKit
    from workerkit.api.limiter import Limiter as Limiter
    from workerkit.cache.local import L1 as L1
    from workerkit.errors import WorkerKitError as WorkerKitError
    from workerkit.limits.decision import Decision as Decision

__version__ = "0.1.0"
__all__ = ["L1", "Decision", "Job", "Limiter", "WorkerKit", "WorkerKitError"]

_HOMES = {
    "Decision": "workerkit.limits.decision",
    "L1": "workerkit.cache.local",
    "Job": "workerkit.api.job",
    "Limiter": "workerkit.api.limiter",
    "WorkerKit": "workerkit.api.kit",
    "WorkerKitError": "workerkit.errors",
}


def __getattr__(name: str) -> Any:
    # On first use: `import workerkit` alone loads neither Celery nor redis nor pydantic.
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'workerkit' has no attribute {name!r}")
