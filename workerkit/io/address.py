"""Where a Redis server is: a URL read once, with its password kept out of everything that is shown."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from workerkit.errors import DefinitionError

_ALIASES = {"valkey": "redis", "valkeys": "rediss"}
_LATER = {"redis+sentinel", "redis+cluster"}
_EXAMPLES = "redis://localhost:6379/1, rediss://user:password@host:6380/0, unix:///run/redis.sock?db=1 or embedded://"
_OPTIONS = {"db", "ssl_ca_certs", "ssl_cert_reqs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname"}


_VERIFY = {"none": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}


@dataclass(frozen=True)
class Address:
    """One server: `transport` is "tcp", "tls" or "unix"; `arguments` are redis-py's connection arguments."""

    shown: str
    transport: str
    arguments: Mapping[str, Any] = field(repr=False)
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    db: int = 0

    @cached_property
    def tls(self) -> ssl.SSLContext | None:
        """Shared by all its connections: reading the authorities' certificates takes longer than a handshake does."""
        if self.transport != "tls":
            return None
        options = self.arguments
        try:
            context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"))
            if certificate := options.get("ssl_certfile"):
                context.load_cert_chain(certificate, options.get("ssl_keyfile"))
        except OSError as error:
            raise DefinitionError(
                f"{self.shown}: ssl_ca_certs, ssl_certfile or ssl_keyfile names a file that will not do ({error})"
            ) from None
        verify = _VERIFY[options.get("ssl_cert_reqs", "required")]
        context.check_hostname = verify != ssl.CERT_NONE and options.get("ssl_check_hostname", True)
        context.verify_mode = verify
        return context


def masked(url: str) -> str:
    """`url` without its user, password and options, fit to be shown."""
    scheme, _, rest = url.partition("://")
    # By hand: a password with an unescaped "/", "?" or "#" in it would not be where a parser looks for it.
    place = rest if rest.startswith("/") else rest.rpartition("@")[2]
    return f"{scheme}://{re.split('[?#]', place)[0]}"


def parse_address(url: str, *, what: str) -> Address:
    """Read `url`; `what` is the setting's name for the error.

    Raises DefinitionError for a scheme, an option or a database number that will not do.
    """
    from redis.connection import parse_url  # not with the settings' own import: redis-py is half of its time

    scheme, separator, rest = url.partition("://")
    scheme = _ALIASES.get(scheme, scheme)
    if not separator:
        raise DefinitionError(f"{what} is not a URL; write {_EXAMPLES}")
    if scheme in _LATER:
        raise DefinitionError(f"{what}: {scheme}:// is not supported yet; write {_EXAMPLES}")
    if scheme not in {"redis", "rediss", "unix"}:
        raise DefinitionError(f"{what}: {masked(url)} has no scheme that is known; write {_EXAMPLES}")
    authority = re.split("[/?#]", rest)[0]
    if "@" in rest[len(authority) :] and authority and (scheme != "unix" or "@" not in authority):
        raise DefinitionError(f"{what}: write '/', '?', '#', '@' in a user, password or option as %2F, %3F, %23, %40")
    plain = f"{scheme}://{rest}"
    try:
        unknown = {name for name, _ in parse_qsl(urlsplit(plain).query, keep_blank_values=True)} - _OPTIONS
        # redis-py takes every option there is; those that would undo a guarantee (retries, timeouts) are settings here.
        if unknown:
            names = ", ".join(sorted(_OPTIONS))
            raise DefinitionError(f"{what}: option {', '.join(sorted(unknown))} is not known; there are {names}")
        found = dict(parse_url(plain))  # type: ignore[no-untyped-call]  # redis-py's
        return _address(scheme, plain, found, what)
    except DefinitionError:
        raise
    except (ValueError, TypeError):
        # Not chained: the original message may quote the password.
        raise DefinitionError(f"{what}: {masked(url)} cannot be read; write {_EXAMPLES}") from None


def _address(scheme: str, url: str, found: dict[str, Any], what: str) -> Address:
    found.pop("connection_class", None)
    path = urlsplit(url).path.strip("/")
    if scheme != "unix" and path and not path.isdecimal():
        raise DefinitionError(f"{what}: database {path!r} is not a number; write redis://host:6379/1")
    if int(found.get("db", 0)) < 0:
        raise DefinitionError(f"{what}: a database has no negative number; write redis://host:6379/1")
    if scheme == "unix":
        if not found.get("path"):
            raise DefinitionError(f"{what}: a unix:// URL needs the path of a socket, as in unix:///run/redis.sock")
    else:
        found.setdefault("host", "localhost")
        found.setdefault("port", 6379)
    if found.get("ssl_cert_reqs", "required") not in _VERIFY:
        raise DefinitionError(f"{what}: ssl_cert_reqs is one of {', '.join(_VERIFY)}")
    return Address(
        shown=masked(url),
        transport={"redis": "tcp", "rediss": "tls", "unix": "unix"}[scheme],
        db=int(found.pop("db", 0)),
        username=found.pop("username", None),
        password=found.pop("password", None),
        arguments=found,
    )
