"""Accuracy against cost: mean and deviation over seeds, and the front of what no other point beats."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes

from kdrun.measures import measure
from kdrun.plots import paper
from kdrun.plots.data import CostPoint, pareto
from kdrun.plots.paper import COLOURS, FAINT, MOST_COLOURED, PAPER, Panel, axis_name, mark, number_mark, scale_of, style

AXES = {
    "seconds": "training time with teachers (s)",
    "parameters": "parameters",
    "flops": "FLOPs per sample",
}


def cost_panels(points: list[CostPoint], metric: str) -> list[Panel]:
    """Test metric against each cost in which at least two points differ."""
    panels = []
    for cost, axis in AXES.items():
        known = [point for point in points if cost in point.costs]
        if len({point.costs[cost] for point in known}) > 1:
            texts = (f"{p.label} {scale_of(metric) * p.mean:.2f} at {p.costs[cost]:.4g}" for p in known)
            alt = f"{axis_name(metric)} against {axis}: {'; '.join(texts)}"
            panels.append(Panel(cost, alt, lambda ax, c=cost, k=known: _draw(ax, k, c, metric), 2.5))
    return panels


def _draw(ax: Axes, points: list[CostPoint], cost: str, metric: str) -> dict[str, Any]:
    scale, front = scale_of(metric), pareto(points, cost, measure(metric).better)
    own = [point for point in points if point.own]
    crowded = len(own) > MOST_COLOURED
    costs = [point.costs[cost] for point in points]
    paper.cost_axis(ax, AXES[cost], costs)
    legend: dict[str, Any] = {}
    for point, x in zip(points, costs, strict=True):
        colour, _, marker = style(point.kind, point.number)
        if crowded and point.own:
            colour, marker = COLOURS[0], "o"
        fill = colour if point.n == point.of else PAPER
        deviation = None if point.sd is None else scale * point.sd
        look = {"elinewidth": 0.8, "capsize": 2, "capthick": 0.8, "zorder": 3, "markerfacecolor": fill}
        ax.errorbar(x, scale * point.mean, yerr=deviation, fmt=marker, color=colour, **look)
        if not (crowded and point.own):
            legend[f"{point.label} ({_seeds(point)})"] = mark(marker, colour, markerfacecolor=fill)
        elif point in front:
            number = own.index(point)
            legend[f"{point.label} ({_seeds(point)})"] = number_mark(number)
            behind = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.8, "pad": 0.5}
            place = {"xytext": (-5, 3), "textcoords": "offset points", "ha": "right", "fontsize": 6.5, "zorder": 5}
            ax.annotate(f"{number}", (x, scale * point.mean), bbox=behind, **place)
    if crowded:
        legend["other runs"] = mark("o", COLOURS[0])
    legend |= paper.front_line(ax, [(point.costs[cost], scale * point.mean) for point in front])
    if any(point.sd is not None for point in points):
        legend["bars: ± sample deviation"] = mark("|", FAINT, markersize=7)
    paper.metric_axis(ax, metric)
    return legend


def _seeds(point: CostPoint) -> str:
    return f"n = {point.n}" if point.n == point.of else f"n = {point.n} of {point.of}"
