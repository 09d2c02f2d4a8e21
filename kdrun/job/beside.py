"""What networks of a job say of the same test samples, side by side: how often one is preferred to the teacher, and what each writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun import kinds
from kdrun.differences import MORE
from kdrun.learning.resampling import WRITTEN, has_own_last, read_samples
from kdrun.records import spread

SHOWN = 4
"""Prompts of which a summary keeps what was written."""
WHICH = ("best", "last")
Records = Mapping[int, dict[str, Any]]


def _rows(record: Mapping[str, Any], split: str, which: str) -> list[dict[str, Any]]:
    folder = record.get("folder")
    return read_samples(folder, split, which == "last" and has_own_last(record)) if folder else []


def wins(records: Records, teachers: Records) -> dict[str, Any] | None:
    """{"best", "last": mean and deviation over seeds of the share of test samples of which a network of an arm is better than the one
    that taught the same seed, ties half; "samples"}, by what the kind of data compares samples by (Domain.preferred).

    The teacher is always that of its selected epoch, with which it taught. Samples that both have, with as much to predict, count. None
    where nothing can be compared.
    """
    task = next((record.get("task") for record in records.values()), None)
    preferred = kinds.find(task).preferred if task in kinds.names() else None
    if preferred is None:
        return None
    found, samples = {}, 0
    for which in WHICH:
        shares = []
        for seed in sorted(records.keys() & teachers.keys()):
            pairs = _pairs(_rows(records[seed], "test", which), _rows(teachers[seed], "test", "best"), preferred)
            if pairs:
                samples = len(pairs)
                shares.append(sum((one > other) + (one == other) / 2 for one, other in pairs) / len(pairs))
        if not shares:
            return None
        found[which] = spread(shares)
    return {**found, "samples": samples}


def _pairs(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], preferred: Any) -> list[tuple[float, float]]:
    """(ours, theirs) of each shared sample, more is better."""
    key, better, same = preferred
    other = {row["id"]: row for row in theirs if key in row}
    sign = 1 if better == MORE else -1
    both = [(row, other[row["id"]]) for row in ours if key in row and row["id"] in other]
    return [(sign * one[key], sign * two[key]) for one, two in both if one.get(same) == two.get(same)]


def written(arms: Mapping[str, Records], teachers: Records, which: str) -> list[dict[str, Any]]:
    """{"prompt", "reference", "texts": arm -> text} of the first prompts of test, of the first seed that has a student; [] where nothing is written."""
    first = next(iter(sorted(arms.get("student", arms.get("alone", {})))), None)
    shown = {"teacher": _rows(teachers.get(first, {}), f"{WRITTEN}-test", "best")}
    shown |= {arm: _rows(records[first], f"{WRITTEN}-test", which) for arm, records in arms.items() if first in records}
    texts = {
        arm: {(row["prompt"], row["reference"]): row["text"] for row in rows} for arm, rows in shown.items() if rows
    }
    prompts = list(dict.fromkeys(prompt for of_arm in texts.values() for prompt in of_arm))[:SHOWN]
    return [
        {
            "prompt": prompt,
            "reference": reference,
            "texts": {arm: said[prompt, reference] for arm, said in texts.items() if (prompt, reference) in said},
        }
        for prompt, reference in prompts
    ]
