"""What a run says of decisions and of each part of its results (views, clients ...), as plain tables: for `kdrun show` and pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.job.absent import absent_rows
from kdrun.job.clusters import cluster_rows
from kdrun.measures import measure
from kdrun.parts import BEST, WHOLE, Part, against, figures_of, headline_epoch, is_group, parts_of
from kdrun.present.results import (
    TRANSFER_NOTE,
    arm_text,
    figure_text,
    is_points,
    p_text,
    percent,
    resampled_texts,
    transfer_head,
    transfer_rows,
)
from kdrun.present.units import MISSING, count_of
from kdrun.records import arms_of, before_and_after, spread, stages_of

STUDENT, COMBINED = "student", "combined"


@dataclass(frozen=True)
class PageTable:
    """caption: what it shows; head: of its columns; left: how many of them are text."""

    caption: str
    head: tuple[str, ...]
    rows: list[tuple[str, ...]]
    left: int = 1


def part_tables(record: dict[str, Any]) -> list[PageTable]:
    """Decisions, and clusters; where results have several parts also the test metric of each in every arm, the difference to what the student
    is held against, scores beside the main one, and further test sets. Tables without rows are left out."""
    summary = record.get("summary") or {}
    found = [_decisions(summary)] if summary.get("decisions") else []
    arms = {arm: parts for arm in before_and_after(arms_of(record)) if (parts := _parts(record, arm))}
    names = list(dict.fromkeys(name for seeds in arms.values() for parts in seeds for name in parts))
    found.append(PageTable("clusters of clients", ("", ""), cluster_rows(summary), left=2))
    found.append(PageTable("clients left out of rounds", ("", ""), absent_rows(summary), left=2))
    if any(len(parts) > 1 for seeds in arms.values() for parts in seeds):
        found.append(_of_parts(record, arms, names, "test"))
        found += [_differences(record, arms, names), _scores(record, list(arms))]
        groups = [stage for stage in record["stages"] if is_group(stage)]
        further = sorted({name for stage in groups for name in stage.get("further") or {}})
        found += [_of_parts(record, arms, names, split) for split in further]
    found += _transfer(record)
    return [table for table in found if table.rows]


def _transfer(record: dict[str, Any]) -> list[PageTable]:
    """What networks that learned tasks one after another forgot, and the student's whole matrix of scores."""
    summary = record.get("summary") or {}
    if not (rows := transfer_rows(summary)):
        return []
    scores = PageTable(f"after the last task; {TRANSFER_NOTE}", transfer_head(summary), rows)
    arm = summary["arms"].get(STUDENT) or {}
    found, metric = arm.get("transfer") or {}, summary["metric"]
    if not found.get("matrix"):
        return [scores]
    lines = [
        (name if name == "before" else f"after {name}", *(measure(metric).figure(value) for value in values))
        for name, values in zip(found["rows"], found["matrix"], strict=True)
    ]
    caption = f"test {measure(metric).title} of each task, after each: {arm['label']}, mean over seeds"
    return [scores, PageTable(caption, ("", *found["columns"]), lines)]


def _parts(record: dict[str, Any], arm: str) -> list[dict[str, Part]]:
    """The parts of an arm's result in each seed."""
    stages = record.get("stages") or []
    return [parts for stage in stages_of(record, arm).values() if (parts := parts_of(stage, stages))]


def _decisions(summary: dict[str, Any]) -> PageTable:
    rows = []
    for one in summary["decisions"]:
        better = -1 if measure(one["metric"]).better == "max" else 1
        values = sorted(one["values"].items(), key=lambda item: better * item[1])
        shown = ", ".join(f"{name} {measure(one['metric']).text(value)}" for name, value in values)
        rows.append((one["what"], str(one["seed"]), one["chosen"], shown))
    metric = measure(summary["decisions"][0]["metric"]).label
    return PageTable("decisions, all on validation", ("what", "seed", "chosen", f"validation {metric}"), rows, left=4)


def _of_parts(
    record: dict[str, Any], arms: dict[str, list[dict[str, Part]]], names: Sequence[str], split: str
) -> PageTable:
    """A row for each part, the mean, and the one answer of all; a column for each arm."""
    metric, rows, which = record["summary"]["metric"], [], _epoch(record, split)
    for name in names:
        spreads = [
            _over_seeds([parts[name].figure(metric, split, which) if name in parts else None for parts in seeds])
            for seeds in arms.values()
        ]
        rows.append((_named(record, name), *(percent(spread, metric) for spread in spreads)))
    for name, label in ((metric, _mean(arms)), (f"{metric}/{COMBINED}", "all together")):
        if label in names:  # the figures are those of one part
            continue
        rows.append((label, *(percent(_spread(record, arm, split, name), metric) for arm in arms)))
    rows = [row for row in rows if set(row[1:]) != {MISSING}]
    return PageTable(
        f"{split.replace('_', ' ')} {measure(metric).title}", ("", *(arm_text(record, arm) for arm in arms)), rows
    )


def _mean(arms: dict[str, list[dict[str, Part]]]) -> str:
    """What the figures of a result of several parts are: `mean`, and how many of the parts it is over where it is not over all; or
    the part whose figures they are."""
    if any(WHOLE in one and len(one) > 1 for seeds in arms.values() for one in seeds):
        return WHOLE
    parts = [list(one.values()) for seeds in arms.values() for one in seeds if len(one) > 1]
    counted = {(sum(part.counted for part in one), len(one)) for one in parts}
    if all(some == of for some, of in counted):
        return "mean"
    return "mean of " + " or ".join(f"{some} of {of}" for some, of in sorted(counted))


def _differences(record: dict[str, Any], arms: dict[str, list[dict[str, Part]]], names: Sequence[str]) -> PageTable:
    """The student minus what it is held against, for each part that was taught: over samples, and DeLong's p-value of each seed."""
    summary, control = record["summary"], against(record["summary"])
    metric = summary["metric"]
    resampled = ((summary.get("differences") or {}).get(control) or {}).get("resampled") or {}
    labels = {f"{metric}/{name}": name for name in names}
    labels |= {metric: _mean(arms), f"{metric}/{COMBINED}": "all together"}
    delong = any(over.get("delong") for over in resampled.values())
    same = _same(arms.get(STUDENT, []), arms.get(control, []))
    rows = []
    for name, label in labels.items():
        over = resampled.get(name)
        if not over or label in same:
            continue
        cells = list(resampled_texts(over, name)[:3])
        if delong:
            cells.append(", ".join(p_text(one.get("p_value")) for one in over.get("delong") or ()))
        rows.append((label, *cells))
    head = (
        "",
        "points" if is_points(metric) else metric,
        "95 % interval",
        "p",
        *(("DeLong p, by seed",) if delong else ()),
    )
    first = next(iter(resampled.values()), {"samples": 0})
    seeds = f" and {count_of(first['seeds'], 'seed')}" if first.get("seeds") else ", not in training"
    who = f"student minus {arm_text(record, control)}" if control in summary["arms"] else "student"
    return PageTable(f"{who}; chance in {first['samples']:,} test samples{seeds}", head, rows)


def _scores(record: dict[str, Any], arms: Sequence[str]) -> PageTable:
    """Arms of networks together against scores beside the main one: a mean over the parts that count, and the answer of all."""
    arms = [arm for arm in arms if any(is_group(stage) for stage in stages_of(record, arm).values())]
    binary = any(_spread(record, arm, "test", "sensitivity") for arm in arms)
    shown = ("sensitivity", "specificity") if binary else ("accuracy", "worst_class")
    names = (*shown, "calibration")
    rows = [
        (arm_text(record, arm), *(figure_text(_spread(record, arm, "test", name), name) for name in names))
        for arm in arms
    ]
    for arm in arms:
        both = [(_spread(record, arm, "test", f"{name}/{COMBINED}"), name) for name in shown]
        if None not in [value for value, _ in both]:
            rows.append((f"{arm_text(record, arm)}, all together", *(figure_text(*one) for one in both), ""))
    rows = [row for row in rows if set(row[1:]) - {MISSING, ""}]
    threshold = " at the threshold of validation (Youden)" if binary else ""
    titles = [measure(name).title.replace("calibration", "ECE") for name in names]
    return PageTable(f"test, mean of the parts that count{threshold}", ("", *titles), rows)


def _same(one: list[dict[str, Part]], other: list[dict[str, Part]]) -> set[str]:
    """Parts whose network is one and the same in two arms, in every seed: those that teach."""
    names = {name for parts in one for name in parts}
    pairs = list(zip(one, other, strict=False))

    def network(parts: dict[str, Part], name: str) -> Any:
        return name in parts and (parts[name].stage.get("fingerprint"), parts[name].file)

    return {name for name in names if pairs and all(network(a, name) == network(b, name) for a, b in pairs)}


def _named(record: dict[str, Any], part: str) -> str:
    """The part, and what validation chose it for, with the number of seeds where these differ."""
    decisions, notes = (record["summary"].get("decisions") or ()), []
    for what in dict.fromkeys(one["what"] for one in decisions):
        chosen = [one["chosen"] for one in decisions if one["what"] == what]
        if times := chosen.count(part):
            notes.append(what if times == len(chosen) else f"{what} in {times} of {len(chosen)}")
    return f"{part} ({', '.join(notes)})" if notes else part


def _over_seeds(values: Sequence[float | None]) -> dict[str, float | None] | None:
    """{"mean", "sd"}; None unless every seed has a finite figure."""
    return spread(values) if values and None not in values and all(map(math.isfinite, values)) else None


def _spread(record: dict[str, Any], arm: str, split: str, name: str) -> dict[str, float | None] | None:
    """Over seeds, of a figure of an arm's result on a set."""
    stages, which = stages_of(record, arm).values(), _epoch(record, split)
    return _over_seeds([Part("", stage, figures_of(stage)).figure(name, split, which) for stage in stages])


def _epoch(record: dict[str, Any], split: str) -> str:
    """The epoch that a run is judged by; further test sets are looked at with the selected one only."""
    return headline_epoch(record["summary"]) if split == "test" else BEST
