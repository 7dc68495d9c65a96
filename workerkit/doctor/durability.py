"""What a restart of a server loses."""

from __future__ import annotations

from collections.abc import Iterator

from workerkit.doctor.facts import HOLDS, Facts, ServerFacts
from workerkit.doctor.finding import Finding, Kind

NONE = Kind("persistence-off", "warning", "Parked tasks, job records or queues are lost when the server restarts")
SNAPSHOTS = Kind("persistence-snapshots", "note", "What came after the last snapshot is lost when the server crashes")
UNSYNCED = Kind("persistence-unsynced", "note", "When to write the log to the disk is left to the operating system")
FAILING = Kind("persistence-failing", "error", "The server cannot write its snapshot or log, and may refuse writes")
KINDS = (NONE, SNAPSHOTS, UNSYNCED, FAILING)

_KEPT = ("guard", "broker")


def check(facts: Facts) -> Iterator[Finding]:
    """Judge the persistence of the servers that hold what nobody can compute again."""
    for server in facts.well(*_KEPT):
        yield from _failing(server)
        holds = ", ".join(HOLDS[role] for role in _KEPT if role in server.roles)
        on, off = "CONFIG SET appendonly yes", server.info.get("aof_enabled") == "0"
        if off and server.config.get("save") == "":
            yield NONE.found(server.shown, f"it holds {holds}; a restart loses them all", at=server.shown, fix=on)
        elif off and server.config.get("save"):
            every = server.config["save"]
            text = f"it holds {holds}; a crash loses what came after the last snapshot (save {every})"
            yield SNAPSHOTS.found(server.shown, text, at=server.shown, fix=on)
        elif not off and server.config.get("appendfsync") == "no":
            text = f"it holds {holds}; a crash of the machine loses some 30 s of them"
            yield UNSYNCED.found(server.shown, text, at=server.shown, fix="CONFIG SET appendfsync everysec")


def _failing(server: ServerFacts) -> Iterator[Finding]:
    failed = [name for name in ("rdb_last_bgsave_status", "aof_last_write_status") if server.info.get(name) == "err"]
    if failed:
        place = server.config.get("dir", "its directory")
        text = f"its last write to {place} failed ({', '.join(failed)}); until one succeeds it may refuse writes"
        fix = f"make room in {place}, let the server write there, then BGSAVE"
        yield FAILING.found(server.shown, text, at="the server's machine", fix=fix)
