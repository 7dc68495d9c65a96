"""`workerkit -A app metrics`: the fleet's metrics, printed once or served to Prometheus."""

from __future__ import annotations

import contextlib
import ipaddress
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from workerkit.cli.exposition import METRICS, PREFIX, Fleet, Sample, down, prometheus, samples, text
from workerkit.cli.verb import Answer, Query, Refusal, kits, titles
from workerkit.errors import StoreError
from workerkit.top.look import snapshot

if TYPE_CHECKING:
    from workerkit.api.kit import WorkerKit


@click.command(cls=Query)
@click.option("--listen", metavar="[HOST:]PORT", help="Serve them at http://HOST:PORT/metrics until Ctrl+C.")
@click.pass_context
def metrics(ctx: click.Context, listen: str | None) -> Answer:
    """Print the fleet's metrics in Prometheus' text format: what all processes did, and how things stand.

    They are read from Redis, so one place to scrape is enough, whatever the number of workers. With --listen they are
    served on this machine's loopback alone (127.0.0.1 by default), and store_up says when Redis cannot be read.
    It needs: pip install 'workerkit[prometheus]'
    """
    chosen = kits(ctx)
    if listen is not None:
        _serve(chosen, *_address(listen))
        return Answer({}, lambda: None)
    found = dict(zip(titles(chosen), [list(samples(snapshot(kit))) for kit in chosen], strict=True))
    written = text(found)
    return Answer(_told(found), lambda: click.echo(written, nl=False))


def _told(found: dict[str, list[Sample]]) -> list[dict[str, object]]:
    return [
        {
            "name": PREFIX + sample.name,
            "labels": dict(zip(("namespace", *METRICS[sample.name].labels), (namespace, *sample.labels), strict=True)),
            "value": float(sample.value),
        }
        for namespace, values in found.items()
        for sample in values
    ]


def _serve(chosen: Sequence[WorkerKit], host: str, port: int) -> None:
    names = titles(chosen)

    def read() -> dict[str, list[Sample]]:
        return {name: _now(kit) for name, kit in zip(names, chosen, strict=True)}

    client = prometheus()
    registry = client.CollectorRegistry()
    registry.register(Fleet(read))
    try:
        client.start_http_server(port, host, registry)
    except OSError as error:
        raise Refusal(f"cannot listen on {host}:{port}: {error.strerror}; write another port") from None
    shown = f"[{host}]" if ":" in host else host
    click.echo(f"http://{shown}:{port}/metrics until Ctrl+C", err=True)
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def _now(kit: WorkerKit) -> list[Sample]:
    try:
        return list(samples(snapshot(kit)))
    except StoreError:
        return list(down())


def _address(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]") or "127.0.0.1"
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise Refusal(f"--listen {listen!r:.60} is no address: write --listen 127.0.0.1:9469")
    with contextlib.suppress(ValueError):
        if host == "localhost" or ipaddress.ip_address(host).is_loopback:
            return host, int(port)
    raise Refusal(
        f"--listen {listen!r:.60}: metrics are served on this machine's loopback alone; "
        f"write --listen 127.0.0.1:{port}, and put a proxy that asks for a password before it"
    )
