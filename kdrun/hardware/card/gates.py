"""What a student has to keep on its target: a deadline, a memory cap, and its worst class. Plain Python.

A gate has {"passed": True, False or None, "limit", "value", "estimate"}. Unknown is not passed: `passed` is None where there is a limit
and no value. Without a limit there is no gate, which `asked` tells.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

GATES = ("deadline", "memory", "worst_class")
SLACK = 1e-9
"""A drop of exactly the limit passes, whatever the last bits of the subtraction are."""


def gate(value: float | None, limit: float | None, estimate: bool = False) -> dict[str, Any]:
    """One gate: passed where the value is at most the limit."""
    known = value is not None and limit is not None
    return {"passed": value <= limit + SLACK if known else None, "limit": limit, "value": value, "estimate": estimate}


def gates_of(card: Mapping[str, Any], deploy: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The gates of a card under the limits of `hardware.deploy`. A teacher is what the worst class is held against: no such gate."""
    estimate = card["kind"] == "estimate"
    memory = gate((card.get("memory") or {}).get("peak_mb"), deploy.get("memory_mb"), estimate)
    if estimate and memory["passed"]:
        memory["passed"] = None  # weights and layers without the runtime: a lower bound fails a gate and passes none
    safety = card.get("safety")
    limit = deploy.get("worst_class_drop") if safety is not None and card["arm"] != "teacher" else None
    return {
        "deadline": gate(p99(card), deploy.get("deadline_ms"), estimate),
        "memory": memory,
        "worst_class": gate((safety or {}).get("worst_class_drop"), limit),
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
            text = f"the worst class ({card['safety']['worst_class']}) is {100 * value:.1f} points below the teacher's worst"
            lines.append(f"{text}, {100 * (value - limit):.1f} more than the {100 * limit:g} allowed")
    return lines


def _what_meets(card: Mapping[str, Any], cards: Sequence[Mapping[str, Any]]) -> str:
    same = [other for other in cards if (other["target"], other["kind"]) == (card["target"], card["kind"])]
    fits = [other for other in same if other["gates"]["deadline"]["passed"] is True]
    if not fits:
        return "nothing on this card meets it"
    best = max(fits, key=lambda other: (other["arm"] == card["arm"], other["quality"]["value"] or 0.0))
    unlike = [] if best["arm"] == card["arm"] else [best["label"]]
    unlike += [f"{key} {best[key]}" for key in ("precision", "runtime", "batch") if best[key] != card[key]]
    return f"{', '.join(unlike) or best['label']} meets it: {p99(best):.3g} ms"
