"""Whether the servers answer, are of a version that will do, take writes, and tell what has to be known."""

from __future__ import annotations

import re
from collections.abc import Iterator

from workerkit.doctor.facts import SETTING, Facts, ServerFacts
from workerkit.doctor.finding import Finding, Kind

UNREACHABLE = Kind("unreachable", "error", "A server does not answer")
REFUSED = Kind("refused", "error", "A server answers with an error: wrong password, or it is still loading")
BROKER = Kind("broker-unreachable", "error", "A broker that is no Redis does not answer")
OLD = Kind("server-old", "error", "The server is older than Redis 6.2 or Valkey 7.2")
REPLICA = Kind("replica", "error", "The server is a replica, which takes no writes")
UNREAD = Kind("unreadable", "note", "The server does not allow this user what the doctor asks")
KINDS = (UNREACHABLE, REFUSED, BROKER, OLD, REPLICA, UNREAD)

_OLDEST = {"redis": (6, 2), "valkey": (7, 2)}
_SILENT = "no answer in time"


def check(facts: Facts) -> Iterator[Finding]:
    """Judge how the servers can be reached, and what they are."""
    if facts.app.broker_trouble:
        text = f"the broker cannot be reached: {facts.app.broker_trouble}"
        fix = f"start it, or app.conf.broker_url = {facts.app.broker_shown!r}"
        yield BROKER.found(facts.app.broker_shown, text, at="the app, or the broker's machine", fix=fix)
    for server in facts.servers:
        if server.trouble:
            yield _refused(server) if server.refused else _unreachable(server)
            continue
        yield from _old(server)
        yield from _replica(server)
        yield from _unread(server)


def _unreachable(server: ServerFacts) -> Finding:
    if server.trouble == _SILENT:
        text = f"it holds {server.holds}, and does not answer: it hangs, or something drops its packets"
        return UNREACHABLE.found(server.shown, text, at="the server's machine", fix="restart the server")
    text = f"it holds {server.holds}, and cannot be reached: {server.trouble}"
    if server.local:
        listen = f"--unixsocket {server.path} --port 0" if server.path else f"--port {server.port}"
        return UNREACHABLE.found(server.shown, text, at="this machine", fix=f"valkey-server {listen}")
    fix = f'app.conf.{SETTING[server.roles[0]]} = "redis://<the right host>:6379/0"'
    return UNREACHABLE.found(server.shown, text, at="the app, unless the server is to be started", fix=fix)


def _refused(server: ServerFacts) -> Finding:
    fix = f'app.conf.{SETTING[server.roles[0]]} = "redis://<user>:<password>@<host>:<port>/<db>"'
    if "LOADING" in server.trouble or "loading" in server.trouble:
        fix = "wait until it has read its data"
    return REFUSED.found(server.shown, f"it holds {server.holds}, and refuses: {server.trouble}", at="the app", fix=fix)


def _old(server: ServerFacts) -> Iterator[Finding]:
    product = "valkey" if "valkey_version" in server.info else "redis"
    said = server.info.get(f"{product}_version", "")
    version = tuple(map(int, re.findall(r"\d+", said)[:2]))
    if version and version < _OLDEST[product]:
        text = f"{product.capitalize()} {said} lacks what the scripts are written in"
        fix = "run Redis 6.2 or later, or Valkey 7.2 or later"
        yield OLD.found(server.shown, text, at="the server's machine", fix=fix)


def _replica(server: ServerFacts) -> Iterator[Finding]:
    if server.info.get("role") == "slave":
        primary = f"{server.info.get('master_host', '<host>')}:{server.info.get('master_port', '<port>')}"
        text = f"it is a replica of {primary}, so that {server.holds} cannot be written"
        fixes = [f'app.conf.{SETTING[role]} = "redis://{primary}/<db>"' for role in server.roles]
        yield REPLICA.found(server.shown, text, at="the app", fix="; ".join(fixes))


def _unread(server: ServerFacts) -> Iterator[Finding]:
    if server.unread:
        told = ", ".join(each.replace("|", " ").upper() for each in server.unread)
        rights = " ".join(f"+{each}" for each in server.unread)
        text = f"{told} could not be read, so that not everything is judged"
        yield UNREAD.found(server.shown, text, at=server.shown, fix=f"ACL SETUSER {server.user} {rights}")
