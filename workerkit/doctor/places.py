"""Where an app's Redis servers are: its kit's, its broker and its result backend, each server once."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

from celery import Celery

from workerkit.api.kit import WorkerKit
from workerkit.doctor.facts import SETTING, Role
from workerkit.errors import DefinitionError
from workerkit.io.address import Address, parse_address

_SOCKET = "redis+socket"
_SCHEMES = {"redis", "rediss", "valkey", "valkeys", _SOCKET}
_VERIFY = {ssl.CERT_NONE: "none", ssl.CERT_OPTIONAL: "optional", ssl.CERT_REQUIRED: "required"}


class Place(NamedTuple):
    """A server's address and what it is for."""

    address: Address
    roles: tuple[Role, ...]


def places(kit: WorkerKit, app: Celery) -> list[Place]:
    """The servers to look at.

    Raises DefinitionError for a URL that cannot be read, StoreError when an embedded server does not start.
    """
    found: dict[Any, Place] = {}
    for role, address in _addresses(kit, app):
        where = address.arguments
        key = where.get("path") or (where["host"], where["port"])
        before = found.get(key, Place(address, ()))
        found[key] = before._replace(roles=(*before.roles, role))
    return list(found.values())


def _addresses(kit: WorkerKit, app: Celery) -> Iterator[tuple[Role, Address]]:
    servers = kit.engine.servers
    yield "cache", servers["cache"].address
    yield "guard", servers["guard"].address
    options: Any = app.conf
    for role, urls, tls in (
        ("broker", options.broker_write_url or options.broker_url, options.broker_use_ssl),
        ("results", options.result_backend, options.redis_backend_use_ssl),
    ):
        for url in _each(urls):
            if urlsplit(url).scheme in _SCHEMES:
                yield role, _address(url, tls, SETTING[role])


def _each(urls: Any) -> list[str]:
    """Several brokers may be a list, or one text with semicolons."""
    return [url.strip() for text in ([urls] if isinstance(urls, str) else urls or ()) for url in text.split(";")]


def _address(url: str, tls: Any, what: str) -> Address:
    """The address in a URL as Celery writes it: kombu has names of its own for options, and some apart from the URL."""
    try:
        parts = urlsplit(url)
        given = {**dict(parse_qsl(parts.query)), **(tls if isinstance(tls, Mapping) else {})}
    except ValueError:
        raise DefinitionError(f"{what} cannot be read") from None  # not chained: it may quote the password
    scheme = parts.scheme
    if scheme == _SOCKET:
        place = f"unix://{parts.path}"
        given = {"db": given.get("virtual_host", "0").strip("/") or "0"}
    else:
        secure = tls or scheme in {"rediss", "valkeys"}
        place = f"{'rediss' if secure else 'redis'}://{parts.netloc}{parts.path}"
        given = {name.removeprefix("redis_"): _verify(value) for name, value in given.items() if "ssl_" in name}
    options = {name: value for name, value in given.items() if value}
    return parse_address(f"{place}?{urlencode(options)}" if options else place, what=what)


def _verify(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("CERT_"):
        return value.removeprefix("CERT_").lower()
    return _VERIFY.get(value, value) if isinstance(value, ssl.VerifyMode) else value
