"""`workerkit server`: the Valkey of the `embedded` extra in the foreground, for whoever has no Redis yet."""

from __future__ import annotations

import contextlib
import socket
import time
from pathlib import Path

import click

from workerkit.cli.verb import Command
from workerkit.errors import DefinitionError
from workerkit.io.embedded import EmbeddedServer

LOOK = 0.5  # seconds between two looks whether it still runs


@click.command(cls=Command)
@click.option("--port", default=6379, show_default=True, type=click.IntRange(1, 65535), help="Where to listen.")
@click.option("--dir", "path", type=click.Path(path_type=Path, file_okay=False), help="Keep the data in this folder.")
def server(port: int, path: Path | None) -> None:
    """Run a private Valkey on 127.0.0.1 until Ctrl+C, and print its URL.

    For development: it has no password, and takes no connection from other machines. Its data is gone at the end,
    unless --dir says where to keep it. It needs: pip install 'workerkit[embedded]'
    """
    if _taken(port):
        raise DefinitionError(f"port {port} is taken: use the Redis that is there, or write --port {port % 65535 + 1}")
    with EmbeddedServer(path, port=port) as running:
        if running.port != port:
            raise DefinitionError(
                f"another process runs the server of {path}; it listens on port {running.port} (0: none)"
            )
        with contextlib.suppress(KeyboardInterrupt):
            fate = f"stays in {path}" if path else "goes with it"
            click.echo(f"Valkey listens until Ctrl+C; its data {fate}.", err=True)
            click.echo(f"redis://127.0.0.1:{port}/0")  # last: who reads it may end it at once
            while running.pid:  # raises StoreUnavailable when it has ended by itself
                time.sleep(LOOK)


def _taken(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
