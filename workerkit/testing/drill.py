"""The zombie drill: an attempt of a job is frozen in the middle, another one replaces it, then it wakes up and writes.

`zombie_point` is the worker's side, `ZombieDrill` the test's; they meet in a folder of the machine that both run on.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from workerkit.api.job import Job
from workerkit.core.durations import Duration, seconds
from workerkit.errors import DefinitionError

FOLDER = "WORKERKIT_ZOMBIE_DRILL"  # the environment variable that names the folder
_POLL = 0.01  # seconds


def zombie_point(job: Job[Any] | None = None) -> None:
    """Where a drill freezes whoever comes here first, until the test wakes it; without a drill this does nothing.

    Who wakes up tries every kind of write with `job` (see WRITES), then goes on from here. In a loop of `each` leave
    `job` out: an `add` waits there for its batch, and it is the loop that is refused, at its next save.
    """
    folder = os.environ.get(FOLDER)
    if not folder or not _write_new(Path(folder, "pid"), str(os.getpid())):
        return
    # Held by this loop too, so that what follows cannot run before the SIGSTOP has arrived.
    while not Path(folder, "wake").exists():
        time.sleep(_POLL)
    _write_new(Path(folder, "met"), json.dumps({} if job is None else _try_all(job)))


class ZombieDrill:
    """The test's side of one drill: `stop()`, wait until the job is delivered again, `wake()`.

    As a `with` block it lets go at the end. Workers find it by its folder's path in WORKERKIT_ZOMBIE_DRILL in their
    environment.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._pid: int | None = None
        for name in ("pid", "wake", "met"):  # of the last drill in this folder
            Path(folder, name).unlink(missing_ok=True)

    def stop(self, timeout: Duration = "30s") -> int:
        """Freeze (SIGSTOP) the process that stands at its `zombie_point`, as soon as one does; answers its id.

        Raises TimeoutError when none has come there in time.
        """
        self._pid = int(self._read("pid", timeout, "no attempt has come to a zombie_point"))
        os.kill(self._pid, signal.SIGSTOP)
        return self._pid

    def wake(self, timeout: Duration = "30s") -> dict[str, str]:
        """Let it go on (SIGCONT), and wait until it has tried; what each write met: an error's name, or "" for none.

        Raises TimeoutError when it did not come to an end in time, DefinitionError when nobody was stopped.
        """
        if self._pid is None:
            raise DefinitionError("zombie drill: nobody was stopped; call stop() before wake()")
        self._let_go()
        met: dict[str, str] = json.loads(self._read("met", timeout, f"process {self._pid} has not woken up"))
        return met

    def _let_go(self) -> None:
        _write_new(self.folder / "wake", "")
        if self._pid is not None:
            try:
                os.kill(self._pid, signal.SIGCONT)
            except ProcessLookupError:
                pass  # killed meanwhile, as the test may

    def _read(self, name: str, timeout: Duration, problem: str) -> str:
        patience = seconds(timeout, what="zombie drill: timeout")
        until = time.monotonic() + patience
        while not (self.folder / name).exists():
            if time.monotonic() > until:
                raise TimeoutError(f"zombie drill: {problem} within {patience:g} s")
            time.sleep(_POLL)
        return (self.folder / name).read_text()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._let_go()


def _fields(job: Job[Any]) -> dict[str, Any]:
    """All fields as this attempt last knew them: what an update without a fence would put over newer values."""
    return {name: getattr(job.data, name) for name, field in type(job.data).model_fields.items() if not field.exclude}


def _counters(job: Job[Any]) -> dict[str, int]:
    fields = type(job.data).model_fields.items()
    return {name: 1 for name, field in fields if field.annotation in (int, float) and not field.exclude}


# Every verb of a Job; those that end it come last: what follows them would be refused for another reason.
WRITES: dict[str, Callable[[Job[Any]], object]] = {
    "update": lambda job: job.update(**_fields(job)),
    "modify": lambda job: job.modify(lambda _: _fields(job)),
    "add": lambda job: job.add(**_counters(job)),
    "progress": lambda job: job.progress(0, 1, "from a zombie"),
    "heartbeat": lambda job: job.heartbeat(),
    "each": lambda job: list(job.each(lambda _: ["from a zombie"], cursor=lambda item: item)),
    "check": lambda job: job.check(),
    "fail": lambda job: job.fail(RuntimeError("from a zombie")),
    "finish": lambda job: job.finish(),
}


def _try_all(job: Job[Any]) -> dict[str, str]:
    return {name: _met(job, write) for name, write in WRITES.items()}


def _met(job: Job[Any], write: Callable[[Job[Any]], object]) -> str:
    try:
        write(job)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the answer
        return type(error).__name__
    return ""


def _write_new(path: Path, text: str) -> bool:
    """Make a file that appears with all of its text; False when there is one already."""
    draft = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}")
    draft.write_text(text)
    try:
        os.link(draft, path)
    except FileExistsError:
        return False
    finally:
        draft.unlink()
    return True
