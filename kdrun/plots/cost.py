"""Accuracy against cost: mean and deviation over seeds, and the front of what no other point beats."""

from __future__ import annotations

from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from kdrun.plots.data import Point, pareto
from kdrun.plots.paper import (
    COLOURS,
    FAINT,
    MOST_COLOURED,
    PAPER,
    STEPS,
    Panel,
    axis_name,
    log_axis,
    mark,
    number_mark,
    percent_limits,
    quiet_grid,
    scale_of,
    short_number,
    style,
)

AXES = {
    "seconds": "training time with teachers (s)",
    "parameters": "parameters",
    "flops": "FLOPs per sample",
}


def cost_panels(points: list[Point], metric: str) -> list[Panel]:
    """Test metric against each cost in which at least two points differ."""
    panels = []
    for cost, axis in AXES.items():
        known = [point for point in points if cost in point.costs]
        if len({point.costs[cost] for point in known}) > 1:
            texts = (f"{p.label} {scale_of(metric) * p.mean:.2f} at {p.costs[cost]:.4g}" for p in known)
            alt = f"{axis_name(metric)} against {axis}: {'; '.join(texts)}"
            panels.append(Panel(cost, alt, lambda ax, c=cost, k=known: _draw(ax, k, c, metric), 2.5))
    return panels


def _draw(ax: Axes, points: list[Point], cost: str, metric: str) -> dict[str, Any]:
    scale, front = scale_of(metric), pareto(points, cost)
    own = [point for point in points if point.own]
    crowded = len(own) > MOST_COLOURED
    costs = [point.costs[cost] for point in points]
    _axis(ax, costs, cost)
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
    steps = [(point.costs[cost], scale * point.mean) for point in front]
    ax.step(*zip(*steps, strict=True), where="post", color=FAINT, linewidth=0.8, zorder=1)
    legend["Pareto front"] = Line2D([], [], color=FAINT, linewidth=0.8)
    if any(point.sd is not None for point in points):
        legend["bars: ± sample deviation"] = mark("|", FAINT, markersize=7)
    ax.set_ylabel(axis_name(metric))
    if scale == 100:
        percent_limits(ax)
    quiet_grid(ax)
    return legend


def _seeds(point: Point) -> str:
    return f"n = {point.n}" if point.n == point.of else f"n = {point.n} of {point.of}"


def _axis(ax: Axes, values: list[float], cost: str) -> None:
    """Log from a factor of five on; a linear axis begins at 0, for cost is a ratio scale."""
    ax.set_xlabel(AXES[cost])
    if max(values) / min(values) >= 5:
        log_axis(ax.xaxis, values)
        ax.set_xlim(min(values) / 1.6, max(values) * 1.6)
    else:
        ax.set_xlim(0, max(values) * 1.12)
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
