"""The machine, and where on it the processes run: as the scheduler places them, or all on one core.

On one core a reply needs no wake-up of another core, which otherwise takes longer than everything else in a round trip.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _rows import Skip

from workerkit.testing.servers import RunningServer

PACKAGES = (
    "workerkit",
    "redis",
    "hiredis",
    "celery",
    "cashews",
    "dogpile.cache",
    "cachetools",
    "limits",
    "throttled-py",
)


@contextlib.contextmanager
def placed(*pids: int, pinned: bool) -> Iterator[None]:
    """Within: this process and those (their threads and children too) on one core, if `pinned`."""
    if not pinned:
        yield
        return
    if not hasattr(os, "sched_setaffinity"):
        raise Skip("pinning needs Linux")
    threads = {thread: os.sched_getaffinity(thread) for pid in (os.getpid(), *pids) for thread in _threads(pid)}
    core = max(os.sched_getaffinity(0))
    for thread in threads:
        _place(thread, {core})
    try:
        yield
    finally:
        everywhere = threads[os.getpid()]
        # Threads that began within have inherited the one core.
        for thread in {each for pid in (os.getpid(), *pids) for each in _threads(pid)}:
            _place(thread, threads.get(thread, everywhere))


def _place(thread: int, cores: set[int]) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended in the meantime
        os.sched_setaffinity(thread, cores)


def _threads(pid: int) -> Iterator[int]:
    for task in Path(f"/proc/{pid}/task").glob("*"):
        yield int(task.name)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for child in (task / "children").read_text().split():
                if pid != os.getpid():  # our own children are named by their pids, where they belong to the measurement
                    yield from _threads(int(child))


def machine(server: RunningServer) -> dict[str, Any]:
    """What the figures depend on."""
    info = str(server.cli("INFO", "server"))
    version = re.search(r"valkey_version:([\d.]+)", info) or re.search(r"redis_version:([\d.]+)", info)
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "server": f"{server.kind} {version[1] if version else '?'}",
        "transport": "loopback TCP" if server.port else "unix socket",
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES if _installed(name)},
    }


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _cpu() -> str:
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()
