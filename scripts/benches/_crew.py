"""Processes that do what they are told, all at once: what a fleet of workers does, without the workers."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

PATIENCE = 120.0  # seconds after which a process that says nothing has failed


class Crew:
    """So many processes; within its `with` block they are there."""

    def __init__(self, size: int) -> None:
        context = multiprocessing.get_context("spawn")  # nothing of ours is inherited: no connection, no lock
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(size):
            mine, its = context.Pipe()
            self._pipes.append(mine)
            self._processes.append(context.Process(target=_serve, args=(its,), daemon=True))

    def __enter__(self) -> Self:
        for process in self._processes:
            process.start()
        return self

    def do(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """`function(*args)` in each process; their answers. It must be importable, and so is what it gets and gives."""
        for pipe in self._pipes:
            pipe.send((function, args))
        until = time.monotonic() + PATIENCE
        answers = []
        for pipe in self._pipes:
            if not pipe.poll(max(0.0, until - time.monotonic())):
                raise TimeoutError(f"{function.__name__}: a process has not answered within {PATIENCE:g} s")
            answer, error = pipe.recv()
            if error:
                raise RuntimeError(error)
            answers.append(answer)
        return answers

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for process in self._processes:
            process.terminate()
            process.join()


def _serve(pipe: Connection) -> None:
    while True:
        function, args = pipe.recv()
        try:
            pipe.send((function(*args), ""))
        except Exception as error:  # noqa: BLE001 - the one who asked gets it
            pipe.send((None, f"{type(error).__name__}: {error}"))
