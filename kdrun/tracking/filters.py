"""Which runs are meant: `status=failed since=2d objective.kd.temperature=2` as conditions on run records, joined by AND."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from kdrun.files import number
from kdrun.problems import UserError, closest
from kdrun.tracking.flatten import flatten
from kdrun.tracking.record import FAILED, FAILURES, STATUSES
from kdrun.tracking.registry import RunInfo

Condition = Callable[[RunInfo], bool]

CAST = ("strategy", "teacher", "student", "data")
KEYS = ("status", "since", "before", *CAST, "name", "seed", "sweep", "tag")
BROKEN = "broken"
"""The status of a run whose record cannot be read."""
UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def select(runs: Sequence[RunInfo], words: Sequence[str], outputs: Path) -> list[RunInfo]:
    """The runs that fit every word `KEY=VALUE`, in their order. UserError for a key or value that cannot be meant.

    Keys are those of KEYS, groups (`trainer=quick`) and dotted keys of a config. A value is a list `a,b` of which one
    has to fit; each may be a pattern with `*` and `?`.
    """
    conditions = [_condition(word, runs, outputs) for word in words]
    return [run for run in runs if all(condition(run) for condition in conditions)]


def _condition(word: str, runs: Sequence[RunInfo], outputs: Path) -> Condition:
    key, equals, value = word.lstrip("+").partition("=")
    if not equals:
        raise UserError(f"'{word}' is not KEY=VALUE", f"filters: {', '.join(KEYS)}, and keys of the config")
    if not value:
        raise UserError(f"{word}: no value")
    if key == "status":
        return _status(value)
    if key in ("since", "before"):
        limit = moment_of(key, value)
        return lambda run: bool(run.created) and (datetime.fromisoformat(run.created) >= limit) == (key == "since")
    if key == "sweep":
        from kdrun.tracking.sweeps import find_sweep

        points = [point for text in value.split(",") for point in find_sweep(outputs, text).record["points"]]
        members = {point["run"] for point in points}
        return lambda run: run.id in members
    read = _reader(key, runs)
    return lambda run: run.record is not None and any(fits(found, value) for found in read(run.record))


def _reader(key: str, runs: Sequence[RunInfo]) -> Callable[[dict[str, Any]], list[Any]]:
    """What a record has under a key; one of these values has to fit."""
    if key in CAST:
        return lambda record: _cast_and_choice(record, key)
    if key == "name":
        return lambda record: [record["name"], record["id"]]
    if key == "seed":
        return lambda record: record["seeds"]
    if key == "tag":
        return lambda record: [name for name, on in ((record["config"] or {}).get("tags") or {}).items() if on]
    records = [run.record for run in runs if run.record]
    groups = {group for record in records for group in record["choices"]}
    if key in groups:
        return lambda record: [record["choices"].get(key)]
    values = {record["id"]: config_values(record) for record in records}
    known = {name for found in values.values() for name in found}
    if records and key not in known:
        raise UserError(
            f"no run has the key {key}{closest(key, {*KEYS, *groups, *known})}",
            f"filters: {', '.join(KEYS)}, and keys of the config such as trainer.epochs",
        )
    return lambda record: values[record["id"]].get(key, [])


def _status(value: str) -> Condition:
    wanted = set()
    for name in value.split(","):
        if name not in (*STATUSES, BROKEN):
            raise UserError(f"no status '{name}'{closest(name, STATUSES)}", f"all: {', '.join((*STATUSES, BROKEN))}")
        wanted |= set(FAILURES) if name == FAILED else {name}
    return lambda run: run.status in wanted


def moment_of(key: str, text: str, at: datetime | None = None) -> datetime:
    """`2d` is two days before now (or `at`); a date or a time in ISO 8601 is local unless it says its zone."""
    span = re.fullmatch(r"(\d+(?:\.\d+)?)(s|min|h|d|w)", text)
    try:
        if span:
            return (at or datetime.now(UTC)) - timedelta(**{UNITS[span[2]]: float(span[1])})
        return datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise UserError(f"{key}={text}: not a time", f"allowed: {key}=30min, 12h, 2d, 3w or 2026-01-31") from None


def fits(value: Any, wanted: str) -> bool:
    """Whether a value fits one of the comma-separated patterns. Numbers are compared as numbers: 0.10 is 0.1."""
    if value is None or isinstance(value, bool):
        wanted = wanted.lower()
    text = as_text(value)
    patterns = re.split(r",(?![^\[]*\])", wanted)  # the commas within [0,1] separate nothing
    return any(text == one or fnmatchcase(text, one) or _same_number(value, one) for one in patterns)


def _same_number(value: Any, text: str) -> bool:
    try:
        return number(value) is not None and float(text) == value
    except ValueError:
        return False


def as_text(value: Any) -> str:
    """A config value as it would be typed: `true`, `null`, `[0,1]`, strings without quotes."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def cast_of(record: dict[str, Any]) -> dict[str, str | None]:
    """Names of strategy, teacher, student and data; None = not known, or no teacher takes part."""
    config, choices = record.get("config") or {}, record.get("choices") or {}
    target = (config.get("strategy") or {}).get("_target_")
    strategy = choices.get("strategy") or (target.rpartition(".")[2].lower() if target else None)
    teacher, student, data = ((config.get(key) or {}).get("name") for key in CAST[1:])
    return {
        "strategy": strategy,
        "teacher": teacher if strategy != "alone" else None,
        "student": student,
        "data": data or choices.get("data"),
    }


def _cast_and_choice(record: dict[str, Any], key: str) -> list[str]:
    """The name, and the option it was made from: they differ where a label was given."""
    name = cast_of(record)[key]
    return [] if name is None else [name, record["choices"].get(key) or name]


def config_values(record: dict[str, Any]) -> dict[str, list[Any]]:
    """Dotted key -> the distinct values it has in the cells of a run; mostly one, several for what follows the seed."""
    config = record["config"] or {}
    values = {key: [value] for key, value in flatten(config).items()}
    for cell in record["cells"].values():
        for key, value in flatten(cell).items():
            found = values.setdefault(key, [])
            if as_text(value) not in map(as_text, found):
                found.append(value)
    return values
