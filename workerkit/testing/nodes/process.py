"""What pytest-celery takes for a container, and is a process of this machine."""

from __future__ import annotations

import signal
from abc import abstractmethod
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

from pytest_celery import CeleryTestContainer


class Process(CeleryTestContainer):
    """The verbs of a container that pytest-celery's nodes call; each kind of process says how."""

    folder: Path
    """What the process writes is in here, its log too; it goes with `remove`."""

    @classmethod
    def under(cls, container: type[CeleryTestContainer]) -> type[Self]:
        """This kind of process with what a test suite's own container class says of its command, name or queue."""
        if issubclass(cls, container):
            return cls
        return type(f"{cls.__name__}Of{container.__name__}", (cls, container), {})

    def __init__(self, name: str) -> None:
        # Not the container's own: that one wraps what Docker's client answers.
        self._id = uuid4().hex
        self._name = name

    @property
    def id(self) -> str:
        return self._id

    @property
    def name(self) -> str:
        return f"{self._name}-{self._id[:12]}"

    @property
    @abstractmethod
    def status(self) -> str:
        """ "running" or "exited", in Docker's words."""

    @abstractmethod
    def ready(self) -> bool:
        """Wait until it serves. Raises StoreUnavailable with the end of its log when it does not come to that."""

    @abstractmethod
    def logs(self) -> str:
        """All that it has written, of earlier starts too."""

    @abstractmethod
    def kill(self, signal: str | int | None = None) -> None:
        """Send a signal, SIGKILL by default, and wait until a killed one is gone. Harmless when it does not run."""

    @abstractmethod
    def restart(self, timeout: float = 10) -> None:
        """End it within timeout seconds, if it runs, and start it under the same name and address."""

    @abstractmethod
    def remove(self, *args: Any, **kwargs: Any) -> None:
        """End it, and remove what it has written."""

    @abstractmethod
    def recover(self) -> bool:
        """Make it fit for another test; False when it cannot be, and has to be replaced."""

    def reload(self) -> None:
        """Nothing: `status` always looks."""

    @property
    def attrs(self) -> dict[str, Any]:
        return {"Id": self.id, "Name": self.name, "State": {"Status": self.status}}

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {self.status})"


def number_of(given: str | int | None) -> int:
    """A signal as Docker takes it: "SIGTERM", "TERM", 15, or None for SIGKILL."""
    if given is None:
        return signal.SIGKILL
    if isinstance(given, int) or given.isdigit():
        return int(given)
    return signal.Signals[given if given.startswith("SIG") else f"SIG{given}"]
