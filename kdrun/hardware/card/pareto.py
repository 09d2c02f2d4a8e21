"""Which cards no other one beats on every axis: quality up, p99 down, energy down. Plain Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdrun.measures import measure
from kdrun.present.fronts import dominates


@dataclass(frozen=True)
class Axis:
    """One figure of a card. better: "max" or "min"."""

    name: str
    label: str
    better: str


@dataclass(frozen=True)
class Front:
    """front: indices that nothing dominates. beaten_by: index -> the first point that dominates it.

    axes: those compared; left_out: axis -> why it was not. unknown: indices of points that lack every axis or the quality: they
    are neither on the front nor beaten.
    """

    front: list[int]
    beaten_by: dict[int, int]
    axes: list[Axis]
    left_out: dict[str, str]
    unknown: list[int]


def axes_of(metric: str | None) -> list[Axis]:
    """Quality, 99th percentile, energy."""
    found = measure(metric)
    return [
        Axis("quality", found.label, found.better),
        Axis("p99_ms", "p99 latency", "min"),
        Axis("joules", "energy per call", "min"),
    ]


def pareto(points: Sequence[Mapping[str, float | None]], axes: Sequence[Axis]) -> Front:
    """The front of points {axis: value or None}.

    An axis that a point lacks cannot be compared with that point, so it is left out for all; the quality never is: a point
    without it is not compared.
    """
    quality = axes[0]
    unknown = [index for index, point in enumerate(points) if point.get(quality.name) is None]
    known = [index for index in range(len(points)) if index not in unknown]
    left_out = {}
    for axis in axes[1:]:
        lacking = sum(points[index].get(axis.name) is None for index in known)
        if lacking:
            left_out[axis.name] = (
                f"{axis.label} is n/a for {'all' if lacking == len(known) else lacking} of {len(known)}"
            )
    used = [axis for axis in axes if axis.name not in left_out]
    if len(used) < 2:  # one axis alone has a best value, not a front
        return Front([], {}, used, left_out, unknown)
    signed = {index: [points[index][a.name] * (1 if a.better == "max" else -1) for a in used] for index in known}
    beaten = {}
    for index in known:
        winner = next((other for other in known if dominates(signed[other], signed[index])), None)
        if winner is not None:
            beaten[index] = winner
    return Front([index for index in known if index not in beaten], beaten, used, left_out, unknown)
