"""Durations, ages, sizes and shares as people read them."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from kdrun.files import number

MISSING = "n/a"


def duration(seconds: Any) -> str:
    """`8.2 s`, `3 min 5 s`, `2 h 10 min`, `4 d 3 h`."""
    seconds = number(seconds)
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def age(created: str | None, at: datetime | None = None) -> str:
    """`5 min ago`."""
    if not created:
        return MISSING
    seconds = max(0.0, ((at or datetime.now(UTC)) - datetime.fromisoformat(created)).total_seconds())
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def size_text(count: int) -> str:
    """Bytes as `12.3 MB`."""
    for size, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def share(value: Any) -> str:
    """A fraction as whole percent; n/a where it is not defined."""
    fraction = number(value)
    return MISSING if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.0f} %"


def count_of(number: int, one: str, several: str | None = None) -> str:
    """`1 stage`, `3 stages`."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def magnitude(number: float | None) -> str:
    """A count as `12.3 M`; n/a where it is not known."""
    if number is None:
        return MISSING
    for unit, size in (("P", 1e15), ("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return str(int(number))
