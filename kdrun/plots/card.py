"""Accuracy against latency of scorecards: which networks nothing beats, and which fail a gate whatever their mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.hardware.card import gates
from kdrun.hardware.card.cards import Card, grouped, own, read_cards
from kdrun.plots.subject import Subject
from kdrun.present.fronts import stairs
from kdrun.problems import UserError

NAME = "card"


@dataclass(frozen=True)
class Spot:
    """A card on paper. kind: its arm, or "run"; label: what it is called; number: of its run in the figure."""

    kind: str
    label: str
    card: Card
    number: int = 0


def spots_of(subject: Subject, runs: Sequence[tuple[str, Any]]) -> dict[tuple[Any, ...], list[Spot]]:
    """(target, kind, device, batch) -> spots: the arms of one run, or the own result of each of several. Cards without a time or
    a quality are not drawn."""
    found: dict[tuple[Any, ...], list[Spot]] = {}
    for number, (label, run) in enumerate(runs):
        cards = read_cards(run.dir)
        if len(runs) > 1:
            cards = [own(group) for group in grouped(cards).values()]
        for card in cards:
            if card is None or gates.p99(card) is None or card["quality"]["value"] is None:
                continue
            place = (card["target"], card["kind"], card["device"], card["batch"])
            spot = Spot("run", label, card, number) if len(runs) > 1 else Spot(card["arm"], card["label"], card)
            found.setdefault(place, []).append(spot)
    if not found:
        raise UserError(f"{subject.name} has no cards to draw yet", f"make them: kdrun card {subject.name}")
    return found


def write_card(subject: Subject, runs: Sequence[tuple[str, Any]]) -> list[Path]:
    """card.png and card.svg in the `plots` folder of the subject. UserError where there are no cards."""
    found = spots_of(subject, runs)
    from kdrun.plots.paper import save

    return save(panels(found), subject.folder / "plots", NAME)


def panels(found: dict[tuple[Any, ...], list[Spot]]) -> list[Any]:
    """One panel for each target."""
    from kdrun.plots.paper import Panel, axis_name

    # Every panel has the whole legend, so that its order is the same whichever panel comes first.
    made, names = [], {spot.label: (spot.kind, spot.number) for group in found.values() for spot in group}
    for (target, kind, device, batch), spots in sorted(found.items(), key=lambda item: item[0][1] != "measured"):
        metric = spots[0].card["quality"]["metric"]
        said = " (estimate)" if kind == "estimate" else ""
        texts = (
            f"{s.label} {s.card['precision']} {s.card['quality']['value']:.4g} at {gates.p99(s.card):.3g} ms"
            + (" fails a gate" if s.card["passed"] is False else "")
            for s in spots
        )
        alt = f"{axis_name(metric)} against latency{said} on {target}: {'; '.join(texts)}"
        title = f"{target}{'' if device == 'cpu' else f', {device}'}" + (f", batch {batch}" if batch != 1 else "")
        draw = lambda ax, s=spots, t=title, k=kind: _draw(ax, s, t, k, names)  # noqa: E731
        made.append(Panel(target, alt, draw, 2.5))
    return made


def _draw(ax: Any, spots: list[Spot], title: str, kind: str, names: dict[str, tuple[str, int]]) -> dict[str, Any]:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator

    from kdrun.plots import paper
    from kdrun.plots.paper import COLOURS, mark

    metric = spots[0].card["quality"]["metric"]
    scale = paper.scale_of(metric)
    places = [(gates.p99(spot.card), scale * spot.card["quality"]["value"]) for spot in spots]
    times = [x for x, _ in places]
    paper.cost_axis(ax, "time of a call (ms), estimate" if kind == "estimate" else "p99 latency (ms)", times, room=1.8)
    if max(times) / min(times) > 20:  # small numbers of milliseconds are long words
        ax.xaxis.set_major_locator(LogLocator(numticks=5))
    limit = next((limit for s in spots if (limit := s.card["gates"]["deadline"]["limit"]) is not None), None)
    styles = {label: paper.style(*one) for label, one in names.items()}
    legend: dict[str, Any] = {label: mark(look[2], look[0]) for label, look in styles.items()}
    several = len({spot.card["precision"] for spot in spots}) > 1
    for spot, (x, y) in zip(spots, places, strict=True):
        colour, _, marker = styles[spot.label]
        failed = spot.card["passed"] is False
        ax.plot(x, y, marker, color=colour, markerfacecolor=paper.PAPER if failed else colour, zorder=3)
        if failed:
            ax.plot(x, y, "x", color=COLOURS[5], markersize=8, markeredgewidth=1.1, zorder=4)
    steps = stairs(places, lambda place: place)
    steps.append((ax.get_xlim()[1], steps[-1][1]))  # slower ones with that quality are beaten
    legend |= paper.front_line(ax, steps)
    if any(spot.card["passed"] is False for spot in spots):
        legend["fails a gate"] = mark("x", COLOURS[5], markersize=7, markeredgewidth=1.1)
    if limit is not None and limit <= ax.get_xlim()[1]:
        ax.axvline(limit, color=COLOURS[5], linewidth=0.8, linestyle=(0, (4, 2)), zorder=1)
        legend["deadline"] = Line2D([], [], color=COLOURS[5], linewidth=0.8, linestyle=(0, (4, 2)))
    elif limit is not None:
        ax.set_xlabel(f"{ax.get_xlabel()}\ndeadline: {limit:g} ms")
    ax.set_title(title)
    paper.metric_axis(ax, metric)
    if several:
        for (x, y), text in _texts(ax, places, [spot.card["precision"] for spot in spots]):
            ax.annotate(text, (x, y), xytext=(5, 3.5), textcoords="offset points", fontsize=6, color=paper.FAINT)
    return legend


def _texts(
    ax: Any, places: Sequence[tuple[float, float]], words: Sequence[str]
) -> list[tuple[tuple[float, float], str]]:
    """Where to write the words: what would overlap is one text, `fp32, int8`, at the rightmost of its points."""
    to_axes = ax.transData + ax.transAxes.inverted()
    groups: list[list[int]] = []
    for index, (x, y) in enumerate(to_axes.transform(places)):
        for group in groups:
            near = to_axes.transform([places[other] for other in group])
            if any(abs(x - a) < 0.12 and abs(y - b) < 0.08 for a, b in near):
                group.append(index)
                break
        else:
            groups.append([index])
    return [(places[max(g, key=lambda i: places[i][0])], ", ".join(dict.fromkeys(words[i] for i in g))) for g in groups]
