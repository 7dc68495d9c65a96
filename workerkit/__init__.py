"""Memoized task results, distributed rate limits, job state and cache warming for Celery on one Redis."""

from __future__ import annotations

__version__ = "0.1.0"
