"""Whether the servers' clocks and this machine's agree."""

from __future__ import annotations

from collections.abc import Iterator

from workerkit.doctor.facts import Facts
from workerkit.doctor.finding import Finding, Kind

SKEWED = Kind("clock-skew", "warning", "The server's clock and this machine's do not agree")
KINDS = (SKEWED,)

MOST = 1.0  # seconds


def check(facts: Facts) -> Iterator[Finding]:
    """Judge the clocks: limits go by the server's, but Celery's countdowns and expiries by each machine's own."""
    for server in facts.well():
        if server.skew is None or abs(server.skew) - server.skew_error <= MOST:
            continue
        side = "ahead of" if server.skew > 0 else "behind"
        text = (
            f"its clock is {abs(server.skew):.2f} s {side} this machine's (to within {server.skew_error:.3f} s): "
            "countdowns, eta and expires come early or late by that"
        )
        yield SKEWED.found(server.shown, text, at="the machine whose clock is wrong", fix="timedatectl set-ntp true")
