"""Scores of networks that learned tasks one after another: a heat map of the matrix for each arm."""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib.axes import Axes

from kdrun.measures import measure
from kdrun.plots.paper import Panel
from kdrun.records import Record, arms_of, before_and_after, metric_of

LEAST, CELL = 2.2, 0.26
"""Inches: the least height of a panel, and that of a row."""
DARK = 0.55
"""From this share of the colour map on, numbers are written in white."""
BLACK, WHITE = "#000000", "#ffffff"
"""Of numbers: not the colours of text and paper, which follow a page into the dark, where cells stay as they are."""


LONG, TITLE = 16, 34
"""Signs of a task's name above which columns have its number alone; signs of a line of the title."""


def task_panels(record: Record) -> list[Panel]:
    """A heat map for each arm that has more rows than the network before and after it learned; all have one scale of colours."""
    arms, metric = arms_of(record), metric_of(record)
    found = {name: arms[name]["transfer"] for name in before_and_after(arms) if arms[name].get("transfer")}
    found = {name: one for name, one in found.items() if one.get("matrix") and len(one["rows"]) > 2}
    if not found:
        return []
    values = [value for one in found.values() for row in one["matrix"] for value in row]
    limits = (0.0, 1.0) if measure(metric).points else (min(values), max(values))
    return [
        Panel(
            f"tasks_{name}",
            f"{measure(metric).title} of each task after each, {arms[name]['label']}: {_words(one, metric)}",
            lambda ax, one=one, name=name: _draw(ax, one, arms[name]["label"], metric, limits),
            max(LEAST, 0.8 + CELL * len(one["rows"])),
        )
        for name, one in found.items()
    ]


def _words(one: dict[str, Any], metric: str) -> str:
    shown = (", ".join(measure(metric).figure(value) for value in row) for row in one["matrix"])
    return "; ".join(f"{name}: {text}" for name, text in zip(one["rows"], shown, strict=True))


def _draw(ax: Axes, one: dict[str, Any], label: str, metric: str, limits: tuple[float, float]) -> dict[str, Any]:
    low, high = limits
    ax.imshow(one["matrix"], cmap="Blues", vmin=low, vmax=high, aspect="auto")
    said = measure(metric)
    for t, row in enumerate(one["matrix"]):
        for j, value in enumerate(row):
            dark = (value - low) / max(high - low, 1e-12) > DARK
            text = f"{said.factor * value:.{0 if said.points and said.factor == 100 else 2}f}"
            ax.text(j, t, text, ha="center", va="center", fontsize=6.5, color=WHITE if dark else BLACK)
    long = max(map(len, one["columns"])) > LONG  # the rows have the whole names
    ax.set_xticks(
        range(len(one["columns"])), [_short(name).partition(" (" if long else "\n")[0] for name in one["columns"]]
    )
    ax.set_yticks(range(len(one["rows"])), [_short(name) for name in one["rows"]])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(f"test {said.title} of task")
    ax.set_ylabel("after task")
    ax.set_title(textwrap.fill(label, TITLE))
    return {}


def _short(name: str) -> str:
    """`task 3` -> `3`: the axis says that it is a task."""
    return name.removeprefix("task ")
