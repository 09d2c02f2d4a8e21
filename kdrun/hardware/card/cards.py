"""`RUN/card/cards.json`: a list of cards, one for each arm, target, precision, runtime and batch. No torch.

A card: {"arm", "label", "part", "seed", "target", "precision", "runtime", "device", "batch", "kind": "measured" | "estimate", "why", "machine", "quick",
 "latency", "throughput", "memory", "energy", "compute", "quality", "robustness", "safety", "generation", "export", "gates", "passed", "notes"}

    latency     measured: {"p50_ms", "p95_ms", "p99_ms", "worst_ms", "jitter_ms", "calls", "warm_up", "threads", "batch"};
                estimate: {"ms", "method", "error": of the model on this machine or None, "measured_here_ms"}
    throughput  {"batch", "per_second", ...} or None
    memory      {"weights_bytes", "peak_mb", "runtime_mb"}; compute: {"macs", "parameters"}
    energy      {"joules" per call, "method", "estimate", "coverage"} or None
    quality     {"metric", "value": of the exported file on test, "torch_value", "retention"}
    notes       {part of the card: why it is None}

What is not known is None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdrun.files import read_json, write_json
from kdrun.hardware.card import gates

Card = dict[str, Any]
FOLDER, FILE = "card", "cards.json"
KEY = ("arm", "part", "seed", "target", "precision", "runtime", "device", "batch")
ARMS = {"teacher": 0, "alone": 1, "student": 9}
"""Order of columns; controls stand between."""


def read_cards(run: Path) -> list[Card]:
    """The cards of a run folder, [] where there are none or they cannot be read."""
    try:
        found = read_json(run / FOLDER / FILE)
    except (OSError, ValueError):
        return []
    return [card for card in found if isinstance(card, dict)] if isinstance(found, list) else []


def keep_cards(run: Path, new: Sequence[Card]) -> list[Card]:
    """Write new cards over those with the same KEY, beside all others; returns what is there now, in order."""
    fresh = {_key(card) for card in new}
    cards = [card for card in read_cards(run) if _key(card) not in fresh] + list(new)
    cards.sort(key=lambda card: (card["target"], card["precision"], card["batch"], order(card)))
    (run / FOLDER).mkdir(parents=True, exist_ok=True)
    write_json(run / FOLDER / FILE, cards)
    return cards


def _key(card: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(card.get(name) for name in KEY)


def order(card: Mapping[str, Any]) -> tuple[Any, ...]:
    """Sorts teacher, student alone, controls, student."""
    numbers = [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", card.get("part") or "")]
    return ARMS.get(card["arm"], 5), card["arm"], card["seed"], [str(type(one)) + f"{one:>9}" for one in numbers]


def own(cards: Sequence[Card]) -> Card | None:
    """The card of what a run is about: its student, else its only kind of network."""
    return next((card for name in ("student", "alone") for card in cards if card["arm"] == name), None)


def settings(card: Mapping[str, Any]) -> tuple[Any, ...]:
    """What one table has in common."""
    return card["target"], card["precision"], card["runtime"], card["device"], card["batch"], card["kind"]


def grouped(cards: Sequence[Card]) -> dict[tuple[Any, ...], list[Card]]:
    """Settings -> the cards with these, in order."""
    found: dict[tuple[Any, ...], list[Card]] = {}
    for card in cards:
        found.setdefault(settings(card), []).append(card)
    return {key: sorted(group, key=order) for key, group in found.items()}


def point(card: Mapping[str, Any]) -> dict[str, float | None]:
    """A card on the axes of pareto.axes_of."""
    return {
        "quality": card["quality"]["value"],
        "p99_ms": gates.p99(card),
        "joules": (card.get("energy") or {}).get("joules"),
    }


COLUMNS = (
    "arm", "part", "seed", "target", "precision", "runtime", "batch", "kind", "metric", "value", "retention", "p50_ms", "p99_ms",
    "peak_mb", "export_bytes", "joules", "energy_estimate", "robustness_drop", "worst_class_recall", "worst_class_drop", "ece", "passed",
)  # fmt: skip


def rows(cards: Sequence[Card]) -> list[list[Any]]:
    """One row of COLUMNS for each card; of an estimated card the time of a call stands as p99_ms, and `kind` says what it is."""
    found = []
    for card in cards:
        values = {**card, **_figures(card), "p50_ms": (card.get("latency") or {}).get("p50_ms")}
        found.append([values.get(name) for name in COLUMNS])
    return found


def _figures(card: Card) -> dict[str, Any]:
    """Column -> what is known of it, of those that stand in a part of a card."""
    energy, safety, robustness = (card.get(name) or {} for name in ("energy", "safety", "robustness"))
    return {
        **{name: card["quality"][name] for name in ("metric", "value", "retention")},
        "p99_ms": gates.p99(card),
        "peak_mb": card["memory"]["peak_mb"],
        "export_bytes": card["memory"]["weights_bytes"],
        "joules": energy.get("joules"),
        "energy_estimate": energy.get("estimate"),
        "robustness_drop": robustness.get("drop"),
        **{name: safety.get(name) for name in ("worst_class_recall", "worst_class_drop", "ece")},
        "passed": card["passed"],
    }


def flat(cards: Sequence[Card]) -> dict[str, Any]:
    """`card/TARGET/PRECISION/p99_ms` ... of a run's own result, `card/TARGET/PRECISION/ARM/p99_ms` of the arms beside it: for trackers.

    What is not known is left out; an estimate has `estimate` in its key.
    """
    found: dict[str, Any] = {}
    for (target, precision, *_), group in grouped(cards).items():
        result = own(group)
        for card in group:
            part = f"/{card['part']}" if card.get("part") else ""
            place = f"card/{target}/{precision}" + ("" if card is result else f"/{card['arm']}{part}")
            values = _figures(card)
            names = {"value": values.pop("metric")}
            if card["kind"] == "estimate":
                names |= {"p99_ms": "latency_ms_estimate", "peak_mb": "peak_mb_estimate"}
            if values.pop("energy_estimate"):
                names["joules"] = "joules_estimate"
            found |= {f"{place}/{names.get(name, name)}": value for name, value in values.items() if value is not None}
    return found
