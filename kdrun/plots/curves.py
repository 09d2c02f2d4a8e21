"""Curves over epochs: mean and range over seeds, the selected epochs, and seeds that ended early as lines of their own."""

from __future__ import annotations

import math
import statistics
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from kdrun.differences import MORE
from kdrun.plots import paper
from kdrun.plots.data import Group, Trace, mean_line
from kdrun.plots.paper import COLOURS, FAINT, MOST_COLOURED, PAPER, STEPS, Panel, log_axis, mark, metric_label, scale_of
from kdrun.present.units import words

MOST_LETTERS = 36
"""Of the name of an axis on one line."""

OTHERS = "others"

Line = dict[int, float]
"""Epoch -> value in the unit of the axis."""


def curve_panels(metrics: dict[str, list[Group]], better: str = MORE) -> list[Panel]:
    """Validation metric, training loss and its terms over epochs; nothing is a curve of which no network has two points.

    better: "max" or "min" of the metric, by which one of many runs is chosen to stand out.
    """
    most = max((len(groups) for groups in metrics.values()), default=0)
    validation = next((groups for name, groups in metrics.items() if name.startswith("val/")), [])
    chosen = _chosen([group for groups in metrics.values() for group in groups], validation, better)
    chosen = chosen if most > MOST_COLOURED else None
    return [
        Panel(
            name.replace("/", "_"),
            f"{_metric_name(name)} over epochs for {', '.join(group.label for group in groups)}",
            lambda ax, name=name, groups=groups: _draw(ax, name, groups, chosen),
        )
        for name, groups in metrics.items()
        if any(len(trace.epochs) > 1 for group in groups for trace in group.traces)
    ]


def _chosen(groups: list[Group], validation: list[Group], better: str) -> dict[str, str]:
    """Label -> what the legend says, of what stands out: the student of a run (its tasks, where it
    learned several), of several runs the best by validation."""
    students = {group.label: group.label for group in groups if group.kind.partition("_")[0] == "student"}
    if students or any(group.kind != "run" for group in groups):
        return students
    values = {group.label: value for group in validation if (value := _selected_value(group)) is not None}
    best = (max if better == MORE else min)(values, key=values.__getitem__, default=None)
    return {} if best is None else {best: f"best by validation: {best}"}


def _selected_value(group: Group) -> float | None:
    """What validation says of a group: the mean over its seeds, at the selected epochs; None where none is known."""
    best = [t.values[t.epochs.index(t.selected)] for t in group.traces if t.selected in t.epochs]
    return statistics.fmean(best) if best else None


def _draw(ax: Axes, name: str, groups: list[Group], chosen: dict[str, str] | None) -> dict[str, Any]:
    """chosen: what stands out where there are too many to tell apart (see _chosen); the others are grey."""
    lines: dict[str, Any] = {}
    marks: dict[str, Any] = {}
    for group in groups:
        colour, dash, _ = paper.style(group.kind, group.number)
        whole = [trace for trace in group.traces if trace.problem is None]
        label = f"{group.label} (n = {len(whole)})" if whole else group.label
        values = [_line(trace, name) for trace in whole]
        if chosen is not None:
            best = group.label in chosen
            label = label.replace(group.label, chosen[group.label], 1) if best else OTHERS
            colour, dash = (COLOURS[list(chosen).index(group.label) % len(COLOURS)] if best else FAINT), "-"
            _mean(ax, values, color=colour, linewidth=1.4 if best else 0.6, zorder=3 if best else 2)
        elif len(values) > 2:
            _mean(ax, values, color=colour, linestyle=dash)
            _band(ax, values, colour)
            marks["band: range over seeds"] = Patch(facecolor=FAINT, alpha=0.3, linewidth=0)
        else:
            for line in values:
                ax.plot(list(line), list(line.values()), color=colour, linestyle=dash, linewidth=0.9)
        lines[label] = Line2D([], [], color=colour, linestyle=dash)
        if chosen is None:
            _mark_ends(ax, name, group, colour, dash, marks)
    _axes(ax, name, groups)
    if OTHERS in lines:
        lines[OTHERS] = lines.pop(OTHERS)  # to the end
    return lines | marks


def _line(trace: Trace, name: str) -> Line:
    return {epoch: scale_of(name) * value for epoch, value in zip(trace.epochs, trace.values, strict=True)}


def _mean(ax: Axes, lines: list[Line], **look: Any) -> None:
    mean = mean_line(lines)
    ax.plot(list(mean), list(mean.values()), **look)


def _band(ax: Axes, lines: list[Line], colour: str) -> None:
    epochs = sorted(set.intersection(*map(set, lines)))
    low, high = ([extreme(line[epoch] for line in lines) for epoch in epochs] for extreme in (min, max))
    ax.fill_between(epochs, low, high, color=colour, alpha=0.16, linewidth=0)


def _mark_ends(ax: Axes, name: str, group: Group, colour: str, dash: Any, marks: dict[str, Any]) -> None:
    """A dot on the epoch that validation selected; a cross where a seed ended before it had finished."""
    for trace in group.traces:
        line = _line(trace, name)
        if trace.problem is not None and line:
            ax.plot(list(line), list(line.values()), color=colour, linestyle=dash, linewidth=0.7)
            ax.plot(*list(line.items())[-1], "x", color=colour, markeredgewidth=1.1, zorder=4)
            marks[f"{group.label}, seed {trace.seed}: {words(trace.problem)}"] = mark("x", colour)
        elif name.startswith("val/") and trace.selected in line:
            edge = {"markeredgecolor": PAPER, "markeredgewidth": 0.6}
            ax.plot(trace.selected, line[trace.selected], "o", color=colour, markersize=4.2, zorder=4, **edge)
            marks["epoch selected by validation"] = mark("o", FAINT)


def _axes(ax: Axes, name: str, groups: list[Group]) -> None:
    values = [v for group in groups for trace in group.traces for v in trace.values if math.isfinite(v)]
    wide = name.startswith("train/") and values and min(values) > 0 and max(values) / min(values) > 20
    ax.set_xlabel("round" if any(trace.rounds for group in groups for trace in group.traces) else "epoch")
    ax.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=STEPS))
    label = f"{_metric_name(name)}{' (log scale)' if wide else ''}"
    ax.set_ylabel(label if len(label) <= MOST_LETTERS else label.replace(" (", "\n("))
    if wide:
        log_axis(ax.yaxis, values)
    elif scale_of(name) == 100:
        paper.percent_limits(ax)
    paper.quiet_grid(ax)


def _metric_name(name: str) -> str:
    """`validation accuracy (%)`, `training loss`, `training loss, kd term`"""
    split, _, metric = name.partition("/")
    if split == "train":
        return "training loss" if metric == "loss" else f"training loss, {metric} term"
    return f"validation {metric_label(metric)}{' (%)' if scale_of(name) == 100 else ''}"
