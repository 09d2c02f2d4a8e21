"""Runs that differ in the seed alone, as one run over their seeds: seeds are repetitions, not options to choose from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdrun.job.steps import add_counts
from kdrun.job.summary import judged_within, summarise
from kdrun.parts import against, parts_of
from kdrun.present.verdict import to_settle, verdict
from kdrun.tracking.record import DONE

Record = dict[str, Any]
SEEDS = ("seed", "seeds", "name")
"""Keys in which repetitions of one configuration differ."""


def without_seeds(overrides: Sequence[str]) -> list[str]:
    return [word for word in overrides if word.lstrip("+").partition("=")[0] not in SEEDS]


def repetitions(overrides: Sequence[Sequence[str]], records: Sequence[Record | None]) -> list[list[int]]:
    """Numbers of the points that are one configuration, in the order of their first; a seed is in each once."""
    groups: list[tuple[list[str], list[int], set[int]]] = []
    for number, (words, record) in enumerate(zip(overrides, records, strict=True)):
        key, seeds = sorted(without_seeds(words)), set((record or {}).get("seeds") or ())
        group = next((g for g in groups if seeds and g[0] == key and g[2] and not g[2] & seeds), None)
        if group is None:
            groups.append((key, [number], seeds))
        else:
            group[1].append(number)
            group[2].update(seeds)
    return [numbers for _, numbers, _ in groups]


def over_seeds(records: Sequence[Record]) -> Record:
    """The record of all these runs as one: all their stages and seeds, and a summary over those that have a result."""
    first = next((record for record in records if record.get("summary")), records[0])
    if len(records) == 1:
        return first
    stages = {(s["role"], s["seed"], s["fingerprint"]): s for record in records for s in record.get("stages") or ()}
    seeds = sorted(seed for record in records for seed in record.get("seeds") or ())
    merged = {**first, "stages": list(stages.values()), "seeds": seeds, "status": DONE}
    merged["status"] = next((r["status"] for r in records if r["status"] != DONE), DONE)
    merged["error"] = next((r["error"] for r in records if r.get("error")), None)
    if first.get("summary"):
        merged["summary"] = _summary(records, merged)
    return merged


def _summary(records: Sequence[Record], merged: Record) -> Record:
    known = [record["summary"] for record in records if record.get("summary")]
    labels = {arm: entry["label"] for summary in reversed(known) for arm, entry in summary["arms"].items()}
    arms: dict[str, dict[int, Record]] = {}
    teachers: dict[int, Record] = {}
    monitor = ((merged.get("config") or {}).get("trainer") or {}).get("monitor")  # older stages do not say it
    by_fingerprint = {stage["fingerprint"]: stage for stage in merged["stages"]}
    for stage in merged["stages"]:
        if stage["role"] in labels:
            entry = {"monitor": monitor, **stage, "results": parts_of(stage, merged["stages"])}
            arms.setdefault(stage["role"], {})[stage["seed"]] = entry
        if stage["role"] in ("student", "alone"):
            behind = stage.get("behind") or (stage.get("teacher") or {}).get("fingerprint")
            if (teacher := by_fingerprint.get(behind)) is not None:
                teachers[stage["seed"]] = teacher
    add_counts(arms, merged["stages"], ((merged.get("audit") or {}).get("samples") or {}).get("val"))
    decisions = [one for summary in known for one in summary.get("decisions") or ()]
    lost = {
        int(n): why for one in known for arm in one["arms"].values() for n, why in (arm.get("missing") or {}).items()
    }
    lost |= {seed: record["error"] for record in records if record.get("error") for seed in record["seeds"]}
    summary = summarise(known[0]["metric"], arms, labels, teachers, merged["seeds"], lost, decisions, against(known[0]))
    judged_within(summary, (merged.get("config") or {}).get("margin"))
    summary["to_settle"] = to_settle(summary, merged["stages"], without_seeds(merged.get("overrides") or ()))
    summary["verdict"] = verdict(summary)
    seconds = [one.get("seconds") for one in known]
    return {**known[0], **summary, "seconds": None if None in seconds else sum(seconds)}
