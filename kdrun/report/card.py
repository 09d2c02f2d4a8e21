"""The section of a run's page with its scorecards, where `RUN/card/cards.json` has some."""

from __future__ import annotations

from kdrun.hardware.card import gates, render
from kdrun.hardware.card.cards import grouped, read_cards
from kdrun.report.markup import Html, section, table, tag
from kdrun.tracking.registry import RunInfo


def scorecard(run: RunInfo) -> Html:
    """A table for each target and number format; a network that fails a gate is marked in its column and told below."""
    cards, parts = read_cards(run.dir), []
    for group in grouped(cards).values():
        names = render.names(group)
        parts.append(table(render.heading(group[0]), ("", *names), [tuple(row) for row in render.rows(group)]))
        lines = [f"{card['label']} fails: {text}" for card in group for text in gates.misses(card, cards)]
        lines += [f"{card['label']}: {text}" for card in group for text in gates.undecided(card)]
        lines += [*render.notes(group), *(line.strip() for line in render.front_lines(group, names))]
        parts += [tag("p", line, class_="note") for line in lines]
    return section("Scorecard", *parts) if parts else Html("")
