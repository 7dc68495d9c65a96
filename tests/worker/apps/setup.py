"""The app and kit of the worker tests, on the servers that the environment names."""

from __future__ import annotations

import os
import time
from pathlib import Path

from celery import Celery

from workerkit import WorkerKit

SOCKET = os.environ["TEST_SOCKET"]
BROKER = os.environ.get("TEST_BROKER", f"redis+socket://{SOCKET}?virtual_host=1")
DIRECTORY = Path(os.environ["TEST_DIRECTORY"])

app = Celery("test", broker=BROKER, backend=f"redis+socket://{SOCKET}?virtual_host=2")
app.conf.update(
    workerkit_redis_url=f"unix://{SOCKET}?db=0",
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    broker_transport_options={"visibility_timeout": 3600},
)
kit = WorkerKit(app)


def note(name: str, text: object) -> None:
    """Append a line to a file of the test: evidence that no cache and no backend can change."""
    with (DIRECTORY / name).open("a") as file:
        file.write(f"{time.time()} {text}\n")
