"""Weights of terms: numbers, or functions of the step.

    0.5
    {constant: 0.5}
    {linear: {from: 0, to: 1, start: 0, steps: 0.3}}    along a line in `steps` steps that begin at `start`
    {cosine: {from: 1, to: 0, start: 0, steps: 1.0}}    along half a cosine
    {step: {from: 0, to: 1, at: 0.5}}                   `from` before the step `at`, `to` from there on

`steps`, `start` and `at` are whole numbers of steps of the optimizer, or fractions (0.3, 1.0) of all steps of the stage. With
`unit: epoch` they are numbers of epochs, or fractions of all epochs, and the weight stays the same within an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdrun.problems import UserError, nearest

FORMS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"from": 0.0, "to": 1.0, "start": 0, "steps": 1.0, "unit": "step"},
    "cosine": {"from": 0.0, "to": 1.0, "start": 0, "steps": 1.0, "unit": "step"},
    "step": {"from": 0.0, "to": 1.0, "at": 0.5, "unit": "step"},
}
"""Form -> its keys with their defaults."""

UNITS = ("step", "epoch")


@dataclass(frozen=True)
class Length:
    """Of a stage. steps: of the optimizer, in all; epoch: in one epoch, or None where it has none."""

    steps: int
    epoch: int | None = None


@dataclass(frozen=True)
class WeightSchedule:
    """A weight that depends on the step. form: of FORMS; begin, end: its values before and after; start, steps, unit: see there."""

    form: str
    begin: float
    end: float
    start: float
    steps: float
    unit: str = "step"

    @property
    def largest(self) -> float:
        return max(self.begin, self.end)

    def at(self, step: int, length: Length | None) -> float:
        """The weight of a step (0 for the first). length: of the stage. Raises ValueError where it is needed and not known."""
        place, total = step, None if length is None else length.steps
        if self.unit == "epoch":
            if length is None or length.epoch is None:
                raise ValueError("a weight over epochs needs the number of steps in an epoch")
            place, total = step // length.epoch, length.steps // length.epoch
        start, steps = (_count(value, total) for value in (self.start, self.steps))
        if place < start:
            return self.begin
        if place >= start + steps:
            return self.end
        done = (place - start) / steps
        return self.begin + (self.end - self.begin) * (
            done if self.form == "linear" else (1 - math.cos(math.pi * done)) / 2
        )


def read_weight(value: Any, path: str) -> float | WeightSchedule:
    """The weight in a config; `path` is its key. Raises UserError for anything else than the forms above."""
    if not isinstance(value, Mapping):
        return _number(value, path)
    if len(value) != 1:
        raise UserError(
            f"{path} must be a number or one of {', '.join(('constant', *FORMS))}, got {dict(value)!r}",
            f"for example '{path}={{linear: {{from: 0, to: 1, steps: 0.3}}}}'",
        )
    ((form, given),) = value.items()
    if form == "constant":
        return _number(given, f"{path}.constant")
    if form not in FORMS:
        guess = nearest(str(form), ["constant", *FORMS])
        raise UserError(
            f"{path} has no schedule {form!r}" + (f": did you mean {guess!r}?" if guess else ""),
            f"schedules: {', '.join(('constant', *FORMS))}",
        )
    keys = FORMS[form]
    if not isinstance(given, Mapping) or (unknown := [key for key in given if key not in keys]):
        wrong = f"got {given!r}" if not isinstance(given, Mapping) else f"not {', '.join(map(str, unknown))}"
        raise UserError(f"{path}.{form} takes {', '.join(keys)}, {wrong}")
    values = {**keys, **given}
    begin, end = (_number(values[key], f"{path}.{form}.{key}") for key in ("from", "to"))
    place = {key: _place(values[key], f"{path}.{form}.{key}") for key in ("start", "steps", "at") if key in values}
    if values["unit"] not in UNITS:
        raise UserError(f"{path}.{form}.unit must be {' or '.join(UNITS)}, got {values['unit']!r}")
    start = place.get("start", place.get("at"))
    schedule = WeightSchedule(form, begin, end, start, place.get("steps", 0), values["unit"])
    return schedule if schedule.largest else 0.0


def scaled(value: Any, factor: float) -> Any:
    """The weight of a config times a number."""
    if not isinstance(value, Mapping):
        return factor * value
    return {
        form: factor * given
        if not isinstance(given, Mapping)
        else {**given, **{key: factor * given.get(key, FORMS[form][key]) for key in ("from", "to")}}
        for form, given in value.items()
    }


def shown(value: Any) -> str:
    """The weight of a config in words."""
    if not isinstance(value, Mapping):
        return str(value)
    weight = read_weight(value, "weight")
    if not isinstance(weight, WeightSchedule):
        return f"{weight:g}"
    start, steps = (_said(place, weight.unit) for place in (weight.start, weight.steps))
    if weight.form == "step":
        return f"{weight.begin:g}, {weight.end:g} after {start}"
    after = f", after {start}" if weight.start else ""
    return f"{weight.begin:g} to {weight.end:g} ({weight.form}) over {steps}{after}"


def _said(place: float, unit: str) -> str:
    return f"{place} {unit}s" if isinstance(place, int) else f"{place:.0%} of the {unit}s"


def _count(place: float, total: int | None) -> int:
    if isinstance(place, int):
        return place
    if total is None:
        raise ValueError("a weight over a fraction of the steps needs the number of all steps")
    return round(place * total)


def _number(value: Any, path: str) -> float:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise UserError(f"{path} must be a finite number of at least 0, got {value!r}")
    return float(value)


def _place(value: Any, path: str) -> float:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    if not whole and not (isinstance(value, float) and 0 <= value <= 1):
        raise UserError(
            f"{path} must be a whole number (of steps or epochs), or a fraction of all from 0.0 to 1.0, got {value!r}"
        )
    return value
