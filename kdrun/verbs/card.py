"""kdrun card RUN...: what trained networks need on a target, what they are worth there, and which gates they pass."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from kdrun.files import dump_json
from kdrun.hardware.card import gates
from kdrun.hardware.card.cards import Card, grouped, own, read_cards
from kdrun.hardware.card.render import front_of, runs_table, tables
from kdrun.hardware.card.request import CardRequest, Place, read_request
from kdrun.plots.subject import find_subject, runs_of
from kdrun.tracking.registry import RunInfo
from kdrun.verbs.arguments import Arguments
from kdrun.verbs.runs import outputs_folder

NOT_KEPT = ("calls", "samples", "critical")
"""Options with which cards of several runs are made anew, even where there are some."""


def main(args: Arguments) -> int:
    """Print the cards, or with --json {"cards", "fronts"}. A student that fails a gate is marked; the exit code is 0 all the same."""
    outputs = outputs_folder(args)
    words = args.overrides
    named = runs_of(find_subject(outputs, args.words, tables=True), outputs)
    asked = [(label, run, read_request(words, run.record or {}, args.conf_dirs)) for label, run in named]
    quiet = args.quiet or args.json
    tell = (lambda line: None) if quiet else (lambda line: print(f"kdrun: {line}", file=sys.stderr))
    if len(asked) == 1:
        ((_, run, request),) = asked
        cards = _make(run, request, tell)
        if args.json:
            print(dump_json({"cards": cards, "fronts": _fronts(grouped(cards))}))
        else:
            print("\n".join(tables(cards)))
        return 0
    anew = any(word.partition("=")[0] in NOT_KEPT for word in words)
    several = []
    for label, run, request in asked:
        cards = None if anew else _kept(run, request)
        cards = cards or [own(group) for group in grouped(_make(run, request, tell)).values()]
        several += [(label, card) for card in cards if card is not None]
    groups: dict[tuple[Any, ...], list[tuple[str, Card]]] = {}
    for label, card in several:
        groups.setdefault(next(iter(grouped([card]))), []).append((label, card))
    if args.json:
        found = [{"run": label, "card": card} for label, card in several]
        fronts = _fronts({key: [card for _, card in group] for key, group in groups.items()})
        print(dump_json({"cards": found, "fronts": fronts}))
        return 0
    print("\n\n".join("\n".join(runs_table(group)) for group in groups.values()))
    return 0


def _make(run: RunInfo, request: CardRequest, tell: Any) -> list[Card]:
    from kdrun.hardware.card.make import make_cards

    return make_cards(run, request, tell)


def _kept(run: RunInfo, request: CardRequest) -> list[Card] | None:
    """The run's own cards that are there already, one for each place; None where one is missing."""
    found = [_at(place, read_cards(run.dir), request.seed) for place in request.places]
    return None if None in found else [card for card in found if card is not None]


def _at(place: Place, cards: Sequence[Card], seed: int | None) -> Card | None:
    """The result of a run at a place, as far as it was measured thoroughly: cards of the end of a run are not."""
    return own(
        [
            card
            for card in cards
            if (card["target"], card["precision"], card["batch"]) == (place.target.name, place.precision, place.batch)
            and place.runtime in ("auto", card["runtime"])
            and (seed is None or card["seed"] == seed)
            and not card["quick"]
        ]
    )


def _fronts(groups: dict[tuple[Any, ...], list[Card]]) -> list[dict[str, Any]]:
    """For each group of cards with the same settings: which are on the front, what dominates the others, and what fails."""
    found = []
    for group in groups.values():
        front = front_of(group)
        found.append(
            {
                **{key: group[0][key] for key in ("target", "precision", "runtime", "batch", "kind")},
                "axes": [axis.name for axis in front.axes],
                "left_out": front.left_out,
                "front": front.front,
                "dominated_by": front.beaten_by,
                "labels": [card["label"] for card in group],
                "misses": [gates.misses(card, group) for card in group],
            }
        )
    return found
