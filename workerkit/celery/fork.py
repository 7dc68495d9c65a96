"""What a worker does before its pool forks, so that children share memory instead of each having its own copy."""

from __future__ import annotations

import gc
from typing import Any

from workerkit.api.engine import preload


def before_fork(**_: Any) -> None:
    """Load what each child would load for itself, and keep the garbage collector from writing to it, which copies it.

    As Python's documentation of `gc.freeze` advises. What is there by now are modules, the app and its tasks.
    """
    preload()
    gc.collect()
    gc.freeze()
