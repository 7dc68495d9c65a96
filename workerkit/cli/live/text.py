"""Figures and names as they are shown: short, aligned, and never more than a line of printable text."""

from __future__ import annotations

from rich.cells import cell_len, chop_cells

from workerkit.cli.verb import plain

_EIGHTHS = " ▏▎▍▌▋▊▉"


def name(text: str) -> str:
    """Text of the user's, without what would move the cursor or go on to another line."""
    return plain(text)


def cut(text: str, width: int) -> str:
    """`text` in at most `width` cells: of a longer one the middle is left out, as names differ at both ends."""
    if cell_len(text) <= width:
        return text
    if width < 2:
        return "…"[:width]
    head = (width - 1 + 1) // 2
    left = chop_cells(text, head)[0] if head else ""
    tail = width - 1 - cell_len(left)
    right = chop_cells(text[::-1], tail)[0][::-1] if tail else ""
    return f"{left}…{right}"


def count(number: float) -> str:
    """A count in at most six cells."""
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number / 1e3:.0f}k" if number >= 100_000 else f"{number:,.0f}"


def rate(number: float | None) -> str:
    """How many a second; "-" while that is not known."""
    if number is None:
        return "-"
    return f"{number:.1f}" if 0 < number < 99.95 else count(number)


def percent(share: float) -> str:
    """A share: 100% is all of it, and nothing less."""
    if 0.995 <= share < 1:
        return "99%"
    return f"{share:.0%}"


def span(seconds: float) -> str:
    """Some time by its two largest units: "250ms", "4s", "1m20s", "3h05m", "12d4h"."""
    if seconds < 0.9995:
        return f"{max(seconds, 0) * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    minutes, whole = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes}m{whole:02}s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours}h{minutes:02}m"
    days, hours = divmod(hours, 24)
    return f"{days:,}d{hours}h"


def span_fine(seconds: float) -> str:
    """A short time, to a hundredth of a millisecond."""
    return f"{seconds * 1000:.2f}ms" if seconds < 0.01 else span(seconds)


def size(number: float) -> str:
    """Bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 9.95 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def bar(share: float, width: int) -> str:
    """A share (0 to 1) drawn in `width` cells."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    whole, rest = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[rest] if rest else "")).ljust(width)
