"""Generalisation gap of students against their divergence from the teacher, with the reconstructed bound of each run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdrun.diagnostics.kept import over_seeds, read
from kdrun.plots.subject import Subject
from kdrun.problems import UserError

NAME = "generalisation"
LEAST = 1e-9
"""Where a student that says exactly what its teacher says stands on a log axis."""


@dataclass(frozen=True)
class Point:
    """A run: means over its seeds, in nats; deviation of the gap over seeds, or 0. number: of the run in the figure."""

    label: str
    k_hat: float
    gap: float
    deviation: float
    bound: float
    number: int

    @property
    def inside(self) -> bool:
        return self.gap <= self.bound


def points_of(subject: Subject, runs: Sequence[tuple[str, Any]]) -> list[Point]:
    """One for each run that was diagnosed. UserError where none was."""
    found = []
    for number, (label, run) in enumerate(runs):
        diagnoses = [read(part.dir) for part in getattr(run, "parts", ()) or (run,)]
        pairs = [pair for diagnosis in diagnoses if diagnosis is not None for pair in diagnosis["pairs"]]
        if not pairs:
            continue
        means = over_seeds({"pairs": pairs})
        k_hat, gap, bound = (means[name] for name in ("k_hat", "student gap", "bound"))
        found.append(Point(label, max(k_hat[0], LEAST), gap[0], gap[1] or 0.0, bound[0], number))
    if not found:
        raise UserError(f"{subject.name} has no run that was diagnosed", f"measure them: kdrun diagnose {subject.name}")
    return found


def write_generalisation(subject: Subject, runs: Sequence[tuple[str, Any]]) -> list[Path]:
    """generalisation.png and generalisation.svg in the `plots` folder of the subject. UserError where nothing was measured."""
    points = points_of(subject, runs)
    from kdrun.plots.paper import Panel, save

    texts = (f"{p.label} {p.gap:.3g} at {p.k_hat:.3g}, bound {p.bound:.3g}" for p in points)
    alt = f"gap of the student against K_hat, in nats: {'; '.join(texts)}"
    return save([Panel(NAME, alt, lambda ax: _draw(ax, points), 3.0)], subject.folder / "plots", NAME)


def _draw(ax: Any, points: Sequence[Point]) -> dict[str, Any]:
    from kdrun.plots import paper

    legend: dict[str, Any] = {}
    crowded = len(points) > len(paper.MARKERS)  # more runs than markers have numbers
    for number, point in enumerate(points, 1):
        colour, _, marker = paper.style("run", point.number)
        ax.plot([point.k_hat] * 2, [point.gap, point.bound], color=colour, linewidth=0.6, alpha=0.5, zorder=1)
        ax.plot(point.k_hat, point.bound, "_", color=colour, markersize=8, zorder=2)
        ax.errorbar(point.k_hat, point.gap, point.deviation, color=colour, linewidth=0.8, zorder=3)
        fill = colour if point.inside else paper.PAPER
        ax.plot(point.k_hat, point.gap, "o" if crowded else marker, color=colour, markerfacecolor=fill, zorder=4)
        legend[point.label] = paper.number_mark(number) if crowded else paper.mark(marker, colour)
        if crowded:
            place = {
                "xytext": (-4, 3 if number % 2 else -8),
                "textcoords": "offset points",
                "ha": "right",
                "fontsize": 6.5,
            }
            ax.annotate(f"{number}", (point.k_hat, point.gap), zorder=5, **place)
    if any(not point.inside for point in points):
        legend["hollow: over its bound"] = paper.mark("o", paper.FAINT, markerfacecolor=paper.PAPER)
    legend["reconstructed bound"] = paper.mark("_", paper.FAINT, markersize=8)
    paper.cost_axis(ax, "K_hat = KL(student || teacher), nats", [point.k_hat for point in points])
    ax.set_ylabel("generalisation gap, nats")
    return legend
