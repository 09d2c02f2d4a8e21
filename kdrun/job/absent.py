"""What is said of clients of a federation whose answers were left out of rounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdrun.parts import Part, gains_of

MOST_ROUNDS, MOST = 6, 4
"""Rounds that are named one by one; groups of clients with one reason that are told of an arm."""


def left_out(of_seeds: Mapping[int, Mapping[str, Part]]) -> list[dict[str, Any]]:
    """{"seed", "rounds", "reason", "parts"}: the clients that were left out of the same rounds for the same reason."""
    found: dict[tuple[int, str, tuple[int, ...]], list[str]] = {}
    for seed, parts in of_seeds.items():
        for name, part in parts.items():
            rounds: dict[str, list[int]] = {}
            for number, reason in part.facts.get("left_out") or ():
                rounds.setdefault(reason, []).append(number)
            for reason, numbers in rounds.items():
                found.setdefault((seed, reason, tuple(numbers)), []).append(name)
    return [
        {"seed": seed, "rounds": list(numbers), "reason": reason, "parts": parts}
        for (seed, reason, numbers), parts in found.items()
    ]


def absent_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Facts of clients that were left out, for people; of the result first."""
    rows, arms = [], summary.get("arms") or {}
    for name in sorted(arms, key=lambda name: name != "student"):
        groups = [
            one for one in gains_of(arms[name]).get("left_out") or () if isinstance(one, Mapping)
        ]  # once: names alone
        several = len({one["seed"] for one in groups}) > 1
        told = [_said(one, several) for one in groups[:MOST]]
        if len(groups) > MOST:
            told.append(f"and {len(groups) - MOST} more")
        if told:
            rows.append(("left out", "; ".join(told) + ("" if name == "student" else f" ({arms[name]['label']})")))
    return rows


def _said(one: Mapping[str, Any], several: bool) -> str:
    rounds = one["rounds"]
    numbers = ", ".join(map(str, rounds))
    if len(rounds) > MOST_ROUNDS:
        numbers = f"{rounds[0]} to {rounds[-1]}, {len(rounds)} in all"
    seed = f", seed {one['seed']}" if several else ""
    who = ", ".join(one["parts"]).replace(", client ", ", ")
    return f"{who}{seed}: round{'s' * (len(rounds) > 1)} {numbers}: {one['reason']}"
