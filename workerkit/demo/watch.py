"""What is to be seen of a demo that runs, gathered a few times a second: its screen shows it, its summary judges it."""

from __future__ import annotations

import json
import os
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

from workerkit.demo import app as project
from workerkit.demo.evidence import Tail
from workerkit.demo.load import LARGE, LATER, SMALL, answer, report, reports
from workerkit.demo.referee import judge
from workerkit.errors import StoreError
from workerkit.io.guarded import ask
from workerkit.waitlist.waitlist import Waitlist

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from workerkit.demo.findings import Findings

TENANTS = {tenant for tenant, _ in (LARGE, SMALL, LATER)}
RATE_OVER = 2.0  # seconds over which the import's rate is taken


class Watch:
    """Looks at everything from outside: evidence and API logs, Redis, the result backend, the kit's public verbs."""

    def __init__(self, findings: Findings, home: Path, socket: Path, workers: Collection[int]) -> None:
        self.findings = findings
        self._import_id = self._audit_id = ""
        self._workers = workers
        self._evidence = Tail(home / "evidence.jsonl")
        self._api_log = Tail(home / "api.jsonl")
        self._api_lines: list[str] = []
        self._socket = socket
        self._waitlist = Waitlist(project.kit.engine.keys("w"))
        self._rows_at: deque[tuple[float, int]] = deque()

    def look(self) -> None:
        """Bring the findings up to date. Results come first: what led to them is then written down already."""
        self._collect_results()
        self._read_evidence()
        try:
            self._ask_kit()
            self._count_connections()
        except (StoreError, OSError):
            pass  # it has crashed: what was known of it stands
        if fresh := list(self._api_log.lines()):
            self._api_lines += fresh
            self.findings.reports += filter(None, map(_report, fresh))
            self.findings.verdict = judge(self._api_lines)

    def send_lookup(self, name: str) -> None:
        """Send one lookup."""
        task_id = project.lookup.delay(name).id
        self.findings.lookups.add(task_id)
        self.findings.expected[task_id] = answer(name)

    def send_import(self, rows: Path) -> None:
        """Send the import of a file."""
        wanted = self.findings.rows_wanted
        self._import_id = project.import_rows.delay(str(rows), wanted).id
        self.findings.expected[self._import_id] = wanted

    def send_reports(self, tenant: str, count: int) -> None:
        """Send a tenant's reports, all at once."""
        for args in reports(tenant, count):
            self.findings.expected[project.report.delay(*args).id] = answer(report(*args))

    def send_audit(self) -> None:
        """Send the audit; the second time its very message again, as a broker does for one that is not acknowledged."""
        self._audit_id = project.audit.apply_async(task_id=self._audit_id or None).id
        self.findings.expected[self._audit_id] = 1

    def is_child(self, pid: int) -> bool:
        """Whether this is a live process of a worker's pool; only such a one may be killed."""
        try:
            return pid not in self._workers and os.getpgid(pid) in self._workers
        except ProcessLookupError:
            return False

    def complete(self) -> bool:
        """Whether every job has left its last line, and the ledger has each lookup.

        A child writes the line just after the result, and sends its counts every second.
        """
        stats, done = self.findings.stats, self.findings.executions
        lookups: int = sum(each["task"] == project.lookup.name and each["state"] == "SUCCESS" for each in done)
        succeeded = {each["id"] for each in done if each["state"] == "SUCCESS"}
        return self.findings.expected.keys() <= succeeded and stats.hits + stats.stale + stats.misses >= lookups

    def _read_evidence(self) -> None:
        found = self.findings
        for line in self._evidence.lines():
            self._take(json.loads(line))
        now = time.monotonic()
        self._rows_at.append((now, len(found.rows)))
        while now - self._rows_at[0][0] > RATE_OVER:
            self._rows_at.popleft()
        then, rows = self._rows_at[0]
        found.rows_per_second = (len(found.rows) - rows) / (now - then) if now > then else 0.0

    def _take(self, line: dict[str, Any]) -> None:
        found = self.findings
        match line["kind"]:
            case "run":
                found.executions.append(line)
            case "row":
                found.rows.append(line["row"])
            case "calls":
                self._timed(line["at"], line["ms"])
            case "event":
                if line.get("outcome") == "error":
                    return  # of one call: the tick's end tells of it, too
                found.events[line["name"]] += 1
                if line["name"] == "warm.tick":
                    found.warmed = line["detail"] if line["outcome"] == "run" else line["outcome"]
            case "child":
                found.children[line["pid"]] = line["worker"]
            case "ready":
                found.ready.append(line["pid"])

    def _timed(self, at: float, times: list[float]) -> None:
        found = self.findings
        found.calls_ms += times
        outage = found.outage
        if times and outage.ended is not None and outage.served is None and at >= outage.ended:
            outage.served = at

    def _ask_kit(self) -> None:
        found, kit = self.findings, project.kit
        if found.ready:
            found.calls_ms += project.measured()
        found.stats = project.lookup.memo.stats()
        found.limit = project.directory.peek()
        found.waiting = kit.engine.runner.call(self._waitlist.count())
        if self._import_id:
            found.job = kit.jobs.get(self._import_id, project.Import)
        if self._audit_id:
            found.audit = kit.jobs.get(self._audit_id, project.Import)

    def _collect_results(self) -> None:
        found = self.findings
        missing = found.expected.keys() - found.results.keys()
        if missing:  # one MGET, where asking each result would be a round trip each
            backend: Any = project.app.backend  # Celery's types leave get_many out
            found.results.update(backend.get_many(set(missing), interval=0, max_iterations=1))

    def _count_connections(self) -> None:
        listed = str(ask(self._socket, "CLIENT", "LIST"))
        names = [word.removeprefix("name=") for word in listed.split() if word.startswith("name=workerkit:")]
        sizes = [pool.size for pool in project.kit.engine.runner.pools.values()]
        self.findings.connections = len(names)
        self.findings.pool_max = max(self.findings.pool_max, *Counter(names).values(), *sizes)


def _report(line: str) -> tuple[float, str] | None:
    """When a tenant's report was asked for, and whose it is; None for other calls."""
    call = json.loads(line)
    tenant, _, number = call["path"].rpartition("/")[2].partition("-")
    return (call["t"], tenant) if number and tenant in TENANTS else None
