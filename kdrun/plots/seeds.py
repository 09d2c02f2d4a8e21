"""The same seeds with and without a teacher: joined by lines for one run, as differences for several."""

from __future__ import annotations

import math
import statistics
from textwrap import fill
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from kdrun.plots import paper
from kdrun.plots.data import SeedPairs
from kdrun.plots.paper import COLOURS, COLUMN, FAINT, INK, KINDS, Panel, axis_name, mark, quiet_grid, scale_of
from kdrun.present.results import signed
from kdrun.present.units import words
from kdrun.present.verdict import amount, decision_text, method_text

ROW = 0.06
"""Height of a line of small text, as a part of the axis."""

ROW_LETTERS = 44
"""Longer names of runs are broken into lines."""


def seed_panels(pairs: list[SeedPairs], metric: str) -> list[Panel]:
    """One run: its two arms joined seed by seed. Several: their differences, one row each."""
    texts = [f"{one.label}: {difference_text(one, metric)}" for one in pairs]
    alt = f"{axis_name(metric)} seed by seed; {'; '.join(texts)}".replace("\n", ", ")
    if len(pairs) == 1:
        return [Panel("seeds", alt, lambda ax: _slopes(ax, pairs[0], metric), 2.9)]
    names = [_row_name(one).splitlines() for one in pairs]
    longest = max((len(line) for lines in names for line in lines), default=0)
    height = 0.6 + (0.1 + 0.12 * max(map(len, names), default=1)) * len(pairs)
    width = COLUMN if longest < 24 else min(paper.DOUBLE, 2.6 + longest * paper.LETTER)
    return [Panel("seeds", alt, lambda ax: _differences(ax, pairs, metric), height, width)] if pairs else []


def difference_text(pairs: SeedPairs, metric: str) -> str:
    """`difference +2.52 points, paired t, n = 3` (or `one seed`), and on lines of their own its interval and what it shows."""
    found = pairs.difference
    if found is None:
        return "no seed has both results"
    if found.interval is None:
        return f"difference {amount(found.mean, metric)}, one seed".replace("-", "−")
    low, high = (signed(end, metric) for end in found.interval)
    text = f"difference {amount(found.mean, metric)}, {method_text(found)}\n95 % interval {low} to {high}"
    return f"{text.replace('-', '−')}\n{decision_text(found, metric)}"


def _slopes(ax: Axes, pairs: SeedPairs, metric: str) -> dict[str, Any]:
    sides = [{seed: value for seed, both in pairs.seeds.items() if (value := _shown(both[side], metric)) is not None}
             for side in (0, 1)]  # fmt: skip
    looks = (KINDS["alone"], KINDS["student"])
    for seed in sides[0].keys() & sides[1].keys():
        ax.plot([0, 1], [sides[0][seed], sides[1][seed]], color=FAINT, linewidth=0.9, zorder=2)
    names = []
    for side, label in enumerate((pairs.control, pairs.student)):
        colour, _, marker = looks[side]
        values = list(sides[side].values())
        ax.plot([side] * len(values), values, marker, color=colour, zorder=3)
        label = "\n".join(fill(part, 24) for part in label.replace(", ", ",\n").splitlines())
        if len(values) > 1:
            mean, width = statistics.fmean(values), 0.09
            ax.plot([side - width, side + width], [mean, mean], color=colour, linewidth=2.2, zorder=4)
            label += f"\nmean {mean:.{2 if scale_of(metric) == 100 else 4}f}, n = {len(values)}"
        names.append(label)
    ax.set_xlim(-0.45, 1.5)
    ax.set_xticks([0, 1], names)
    paper.metric_axis(ax, metric)
    _name_missing(ax, pairs, [look[0] for look in looks])
    low, high = ax.get_ylim()
    alone = {seed: value for seed, value in sides[0].items() if seed not in sides[1]}
    for side, ends in ((1, sides[1]), (0, alone)):
        equal: dict[float, list[str]] = {}
        for seed, value in sorted(ends.items()):
            equal.setdefault(value, []).append(str(seed))
        labels = [(value, f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}") for value, seeds in equal.items()]
        for height, label in spread(labels, (high - low) * ROW):
            _small(ax, label, side, height, left=side == 0)
    ax.set_title(difference_text(pairs, metric))
    return {}


def _shown(value: float | None, metric: str) -> float | None:
    return scale_of(metric) * value if value is not None and math.isfinite(value) else None


def _name_missing(ax: Axes, pairs: SeedPairs, colours: list[str]) -> None:
    """A cross and a name for every seed that an arm lacks, on a strip below all values that has no scale."""
    if not pairs.missing:
        return
    low, high = ax.get_ylim()
    row = (high - low) * 1.25 * ROW
    bottom = low - row * (len(pairs.missing) + 0.4)
    ax.set_yticks([tick for tick in ax.get_yticks() if low <= tick <= high])
    ax.set_ylim(bottom, high)
    ax.axhline(low, color=FAINT, linewidth=0.6, linestyle=(0, (2, 2)))
    for index, (seed, side, status) in enumerate(reversed(pairs.missing)):
        height = bottom + row * (index + 0.5)
        ax.plot(side, height, "x", color=colours[side], markersize=5, markeredgewidth=1.3)
        _small(ax, f"seed {seed}: {words(status)}", side, height)


def _small(ax: Axes, text: str, side: float, height: float, left: bool = False) -> None:
    """Small text beside a marker."""
    place = {"xytext": (-14 if left else 14, 0), "ha": "right" if left else "left", "va": "center"}
    ax.annotate(text, (side, height), textcoords="offset points", fontsize=6.5, annotation_clip=False, **place)


def spread(values: list[tuple[float, Any]], least: float) -> list[tuple[float, Any]]:
    """Heights for labels beside these values, at least `least` apart, in order, as near to them as that allows."""
    clusters: list[tuple[float, list[Any]]] = []
    for value, label in sorted(values):
        centre, members = value, [(value, label)]
        while clusters and centre - clusters[-1][0] < least * (len(members) + len(clusters[-1][1])) / 2:
            members = clusters.pop()[1] + members
            centre = statistics.fmean(value for value, _ in members)
        clusters.append((centre, members))
    return [
        (centre + (index - (len(members) - 1) / 2) * least, label)
        for centre, members in clusters
        for index, (_, label) in enumerate(members)
    ]


def _differences(ax: Axes, pairs: list[SeedPairs], metric: str) -> dict[str, Any]:
    scale, blue, methods = scale_of(metric), COLOURS[0], {}
    for row, one in enumerate(pairs):
        found = one.difference
        values = [scale * value for value in found.values if math.isfinite(value)] if found else []
        ax.plot(values, [row] * len(values), "|", color=FAINT, markersize=6, markeredgewidth=0.9, zorder=2)
        if found and found.interval:
            ends = [scale * end for end in found.interval]
            ax.plot(ends, [row, row], color=blue, linewidth=1.4, solid_capstyle="butt", zorder=3)
            methods[found.method] = None
        if found:
            ax.plot(scale * found.mean, row, "o", color=blue, zorder=4)
        else:
            ax.plot(0, row, "x", color=INK, markeredgewidth=1.1, zorder=4)
    ax.axvline(0, color=INK, linewidth=0.6, zorder=1)
    ax.set_yticks(range(len(pairs)), [_row_name(one) for one in pairs])
    ax.set_ylim(len(pairs) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    control = pairs[0].control.removeprefix("student ")
    ax.set_xlabel(
        f"{axis_name(metric).removesuffix(' (%)')}, student minus {control}{' (points)' if scale == 100 else ''}"
    )
    quiet_grid(ax, "x")
    legend = {
        "mean": mark("o", blue),
        **({f"95 % interval, {' or '.join(methods)}": Line2D([], [], color=blue, linewidth=1.4)} if methods else {}),
        "single seeds": mark("|", FAINT, markersize=6),
    }
    return legend | ({"no pair": mark("x", INK)} if any(not one.difference for one in pairs) else {})


def _row_name(pairs: SeedPairs) -> str:
    """The label with the number of seeds; below it the seeds that are missing."""
    lost = {seed: words(status) for seed, _, status in pairs.missing}
    named = ", ".join(f"seed {seed}: {status}" for seed, status in sorted(lost.items()))
    label = f"{pairs.label} (n = {pairs.difference.n})" if pairs.difference else pairs.label
    return "\n".join(fill(line, ROW_LETTERS) for line in (label, named) if line)
