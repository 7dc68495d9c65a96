"""A task that tells where it runs."""

from __future__ import annotations

import multiprocessing
import threading
from typing import Any

from gevent import monkey
from setup import app


@app.task
def place() -> dict[str, Any]:
    return {
        "patched": monkey.is_module_patched("socket"),
        "process": multiprocessing.current_process().name,
        "thread": threading.current_thread().name,
    }
