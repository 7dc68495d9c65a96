"""What the doctor says: kinds of findings, known before anything is looked at, and findings of these kinds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass(frozen=True, slots=True)
class Kind:
    """What may be found: `id` is stable across releases, `about` says it in a line."""

    id: str
    severity: Severity
    about: str

    def found(self, where: str, text: str, *, at: str, fix: str) -> Finding:
        """A finding of this kind in `where`. `fix` is the line that mends it, `at` the place where it belongs."""
        return Finding(self.id, self.severity, where, text, at, fix)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: a server or setting, what of it, and the line that mends it with its place."""

    id: str
    severity: Severity
    where: str
    text: str
    at: str
    fix: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
