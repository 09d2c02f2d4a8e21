"""Durations, ages, sizes and shares as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from kdrun.files import number

MISSING = "n/a"
PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""))


def scaled(value: float, units: Sequence[tuple[float, str]] = PREFIXES) -> tuple[float, str]:
    """(value in the largest of the units (size, name) that it reaches, its name); in the smallest one where it reaches none."""
    size, name = next((unit for unit in units if abs(value) >= unit[0]), units[-1])
    return value / size, name


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


def roughly(seconds: float) -> str:
    """`40 s`, `2 min`, `3 h`: for what will take about that long."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{round(seconds / 3600)} h"


def age(created: str | None, at: datetime | None = None) -> str:
    """`5 min ago`."""
    if not created:
        return MISSING
    seconds = max(0.0, ((at or datetime.now(UTC)) - datetime.fromisoformat(created)).total_seconds())
    value, unit = scaled(seconds, ((86400, "d"), (3600, "h"), (60, "min"), (1, "s")))
    return f"{int(value)} {unit} ago"


def size_text(count: int) -> str:
    """Bytes as `12.3 MB`."""
    value, prefix = scaled(count, PREFIXES[2:])
    return f"{value:.1f} {prefix}B" if prefix else f"{count} bytes"


def share(value: Any) -> str:
    """A fraction as whole percent; n/a where it is not defined."""
    fraction = number(value)
    return MISSING if fraction is None or not math.isfinite(fraction) else f"{100 * fraction:.0f} %"


def words(status: str) -> str:
    """`out of memory`"""
    return status.replace("_", " ")


def count_of(number: int, one: str) -> str:
    """`1 stage`, `3 stages`."""
    return f"{number:,} {one}{'' if number == 1 else 's'}"


def magnitude(number: float | None) -> str:
    """A count as `12.3 M`; n/a where it is not known."""
    if number is None:
        return MISSING
    value, prefix = scaled(number)
    return f"{value:.1f} {prefix}" if prefix else str(int(number))
