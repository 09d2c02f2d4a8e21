"""What a student has to keep on its target: a deadline, a memory cap, and its worst class. Plain Python.

A gate has {"passed": True, False or None, "limit", "value", "estimate"}. Unknown is not passed: `passed` is None where there is a limit
and no value, and where the value is over the limit by no more than one sample of the class (`resolution`). Without a limit there is
no gate, which `asked` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

GATES = ("deadline", "memory", "worst_class")
SLACK = 1e-9
"""A drop of exactly the limit passes, whatever the last bits of the subtraction are."""


def gate(
    value: float | None, limit: float | None, estimate: bool = False, resolution: float | None = None
) -> dict[str, Any]:
    """One gate: passed where the value is at most the limit. resolution: the smallest step of the value; one step more than the
    limit decides nothing."""
    passed = None
    if value is not None and limit is not None:
        passed = value <= limit + SLACK
        if not passed and resolution is not None and value <= limit + resolution + SLACK:
            passed = None
    found = {"passed": passed, "limit": limit, "value": value, "estimate": estimate}
    return found if resolution is None else {**found, "resolution": resolution}


def gates_of(card: Mapping[str, Any], deploy: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The gates of a card under the limits of `hardware.deploy`. A teacher is what the worst class is held against: no such gate."""
    estimate = card["kind"] == "estimate"
    memory = gate((card.get("memory") or {}).get("peak_mb"), deploy.get("memory_mb"), estimate)
    if estimate and memory["passed"]:
        memory["passed"] = None  # weights and layers without the runtime: a lower bound fails a gate and passes none
    safety = card.get("safety")
    limit = deploy.get("worst_class_drop") if safety is not None and card["arm"] != "teacher" else None
    samples = (safety or {}).get("worst_class_samples")
    return {
        "deadline": gate(p99(card), deploy.get("deadline_ms"), estimate),
        "memory": memory,
        "worst_class": gate((safety or {}).get("worst_class_drop"), limit, resolution=samples and 1 / samples),
    }


def asked(one: Mapping[str, Any]) -> bool:
    """Whether there is a limit."""
    return one.get("limit") is not None


def passed(gates: Mapping[str, Mapping[str, Any]]) -> bool | None:
    """All that are asked: False where one fails, None where none fails and one is not known, or none is asked."""
    answers = [one["passed"] for one in gates.values() if asked(one)]
    if False in answers:
        return False
    return None if None in answers or not answers else True


def p99(card: Mapping[str, Any]) -> float | None:
    """99th percentile in ms; of an estimate the one time that the model gives."""
    latency = card.get("latency") or {}
    return latency.get("p99_ms") if card["kind"] == "measured" else latency.get("ms")


def misses(card: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]) -> list[str]:
    """A sentence for each gate that this card fails: by how much, and what would pass among the `cards` of the same target.

    Whether another precision, arm or batch meets a deadline is read from cards that were measured (or estimated) as this one was.
    """
    lines = []
    for name, one in card["gates"].items():
        if one["passed"] is not False:
            continue
        said = " (estimate)" if one["estimate"] else ""
        value, limit = one["value"], one["limit"]
        if name == "deadline":
            over = f"p99 {value:.3g} ms is {value - limit:.3g} ms over the deadline of {limit:g} ms{said}"
            lines.append(f"{over}; {_what_meets(card, cards)}")
        elif name == "memory":
            lines.append(f"{value:.4g} MB is {value - limit:.3g} MB over the cap of {limit:g} MB{said}")
        else:
            lines.append(worst_class_text(card))
    return lines


def undecided(card: Mapping[str, Any]) -> list[str]:
    """A sentence for a worst class that is below the limit by no more than one sample."""
    one = card["gates"]["worst_class"]
    if one["passed"] is not None or not asked(one) or one["value"] is None:
        return []
    return [f"{worst_class_text(card)}: one sample more or less would decide, so it neither passes nor fails"]


def worst_class_text(card: Mapping[str, Any]) -> str:
    """`class 8 is the worst: recall 51.11 % of 45 samples, 40.0 points below the teacher's worst class; 2 points are allowed`"""
    safety, one = card["safety"], card["gates"]["worst_class"]
    samples = safety.get("worst_class_samples")
    of = f" of {samples} samples" if samples else ""
    return (
        f"class {safety['worst_class']} is the worst: recall {100 * safety['worst_class_recall']:.2f} %{of}, "
        f"{100 * one['value']:.1f} points below the teacher's worst class; {100 * one['limit']:g} points are allowed"
    )


def _what_meets(card: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]) -> str:
    same = [other for other in cards if (other["target"], other["kind"]) == (card["target"], card["kind"])]
    fits = [other for other in same if other["gates"]["deadline"]["passed"] is True]
    if not fits:
        return "nothing on this card meets it"
    best = max(fits, key=lambda other: (other["arm"] == card["arm"], other["quality"]["value"] or 0.0))
    unlike = [] if best["arm"] == card["arm"] else [best["label"]]
    unlike += [f"{key} {best[key]}" for key in ("precision", "runtime", "batch") if best[key] != card[key]]
    return f"{', '.join(unlike) or best['label']} meets it: {p99(best):.3g} ms"
