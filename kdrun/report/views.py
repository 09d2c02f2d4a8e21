"""What a run of strategy=cross_window says of each view, as plain tables: for `kdrun show` and for pages."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from typing import Any

from kdrun.files import number
from kdrun.measures import measure
from kdrun.plots.data import stages_of
from kdrun.present.results import interval_text, is_points, percent, signed
from kdrun.present.units import MISSING

TIMES = {"alone": "before", "equal_compute": "continued", "student": "after"}
"""Arm -> what a column is called."""
AGAINST = "equal_compute"
COMBINED, MEAN = "combined", "mean but the best view"


@dataclass(frozen=True)
class Table:
    """caption: what it shows; head: of its columns; left: how many of them are text."""

    caption: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: int = 1


def view_tables(record: dict[str, Any]) -> list[Table]:
    """Decisions; the test metric of each view before, continued on labels, and after; after minus continued; scores at the
    threshold of validation; further test sets. Tables without rows are left out; [] for runs without views."""
    summary = record.get("summary") or {}
    if not summary.get("decisions") or not any(stage.get("members") for stage in record.get("stages") or []):
        return []
    found = [
        _decisions(summary),
        _of_views(record, summary["metric"], "test"),
        _differences(record),
        _scores(record),
        *(_of_views(record, summary["metric"], name) for name in _further(record)),
    ]
    return [table for table in found if table.rows]


def _decisions(summary: dict[str, Any]) -> Table:
    rows = []
    for one in summary["decisions"]:
        values = sorted(one["values"].items(), key=lambda item: -item[1])
        shown = ", ".join(f"{view} {measure(one['metric']).text(value)}" for view, value in values)
        rows.append((one["what"], str(one["seed"]), one["chosen"], shown))
    metric = measure(summary["decisions"][0]["metric"]).label
    return Table("decisions, all on validation", ("what", "seed", "chosen", f"validation {metric}"), rows, left=4)


def _of_views(record: dict[str, Any], metric: str, split: str) -> Table:
    """A row for each view, the mean, and the one answer of all, a column for each of TIMES that was run."""
    arms = [arm for arm in TIMES if stages_of(record, arm)]
    views = _views(record)
    names = {f"{metric}/{view}": _named(record, view) for view in views}
    names |= {metric: MEAN, f"{metric}/{COMBINED}": "all together"}
    rows = []
    for name, label in names.items():
        cells = tuple(percent(_spread(record, arm, split, name), metric) for arm in arms)
        if set(cells) != {MISSING}:
            rows.append((label, *cells))
    meaning = "; continued: as many further steps on labels alone" if split == "test" and AGAINST in arms else ""
    return Table(
        f"{split.replace('_', ' ')} {measure(metric).title}{meaning}", ("", *(TIMES[arm] for arm in arms)), rows
    )


def _differences(record: dict[str, Any]) -> Table:
    """After minus continued for each view that was taught: over samples, and DeLong's p-value of each seed."""
    summary, metric = record["summary"], record["summary"]["metric"]
    resampled = ((summary.get("differences") or {}).get(AGAINST) or {}).get("resampled") or {}
    labels = {f"{metric}/{view}": view for view in _views(record)}
    labels |= {metric: MEAN, f"{metric}/{COMBINED}": "all together"}
    delong = any(over.get("delong") for over in resampled.values())
    same = _same(record)
    rows = []
    for name, label in labels.items():
        over = resampled.get(name)
        if not over or label in same:
            continue
        cells = [signed(over["mean"], name), interval_text(over["interval"], name), p_text(over["p_value"])]
        if delong:
            cells.append(", ".join(p_text(one.get("p_value")) for one in over.get("delong") or ()))
        rows.append((label, *cells))
    unit = "points" if is_points(metric) else metric
    head = ("", f"{unit}", "95 % bootstrap", "p", *(("DeLong p, by seed",) if delong else ()))
    samples = next(iter(resampled.values()))["samples"] if resampled else 0
    return Table(f"after minus continued; chance in {samples:,} test samples, not in training", head, rows)


def _scores(record: dict[str, Any]) -> Table:
    """Arms against scores beside the main one: a mean over the views that count, and the one answer of all."""
    found = {stage["role"] for stage in record["stages"] if stage.get("members")}
    arms = [*(arm for arm in TIMES if arm in found), *sorted(found - set(TIMES))]
    labels = {arm: TIMES.get(arm, arm.replace("_", " ")) for arm in arms}
    binary = any(_spread(record, arm, "test", "sensitivity") for arm in arms)
    shown = ("sensitivity", "specificity") if binary else ("accuracy", "worst_class")
    names = (*shown, "calibration")
    rows = [(labels[arm], *(_figure(_spread(record, arm, "test", name), name) for name in names)) for arm in arms]
    for arm in arms:
        both = [(_spread(record, arm, "test", f"{name}/{COMBINED}"), name) for name in shown]
        if None not in [value for value, _ in both]:
            rows.append((f"{labels[arm]}, all together", *(_figure(*one) for one in both), ""))
    threshold = " at the threshold of validation (Youden)" if binary else ""
    titles = [measure(name).title.replace("calibration", "ECE") for name in names]
    return Table(f"test, {MEAN}{threshold}", ("", *titles), rows)


def _figure(value: dict[str, float | None] | None, name: str) -> str:
    """Without the unit, which the head of the column has."""
    return percent(value, name).removesuffix(" %")


def _further(record: dict[str, Any]) -> list[str]:
    sets = {name for stage in record["stages"] if stage.get("members") for name in stage.get("further") or {}}
    return sorted(sets)


def _views(record: dict[str, Any]) -> list[str]:
    """In the order of their first training."""
    roles = dict.fromkeys(stage["role"] for stage in record["stages"])
    return [role.removeprefix("before_") for role in roles if role.startswith("before_")]


def _same(record: dict[str, Any]) -> set[str]:
    """Views whose network is one and the same after and continued, in every seed: those that teach."""
    pairs = [
        (stage["members"], (stages_of(record, AGAINST).get(seed) or {}).get("members") or {})
        for seed, stage in stages_of(record, "student").items()
    ]
    return {view for view in _views(record) if pairs and all(one.get(view) == two.get(view) for one, two in pairs)}


def _named(record: dict[str, Any], view: str) -> str:
    """The view, and in how many seeds validation found it best."""
    chosen = [one["chosen"] for one in record["summary"]["decisions"] if one["what"] == "best view"]
    times = chosen.count(view)
    return (
        view
        if not times
        else f"{view} (best)"
        if times == len(chosen)
        else f"{view} (best in {times} of {len(chosen)})"
    )


def _spread(record: dict[str, Any], arm: str, split: str, name: str) -> dict[str, float | None] | None:
    """{"mean", "sd"} over seeds of a figure of a set at the selected epochs; None unless every seed has it."""
    values = []
    for stage in stages_of(record, arm).values():
        figures = (stage.get("test") or {}).get("best") if split == "test" else (stage.get("further") or {}).get(split)
        values.append(number((figures or {}).get(name)))
    if not values or None in values or not all(map(math.isfinite, values)):
        return None
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def p_text(value: Any) -> str:
    """`0.032`, `< 0.001`"""
    value = number(value)
    return MISSING if value is None or not math.isfinite(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"
