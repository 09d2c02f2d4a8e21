"""Pareto fronts: which points no other one beats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key")
Place = TypeVar("Place")


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """At least as good everywhere and better somewhere; more is better."""
    pairs = list(zip(one, other, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def front_of(points: Mapping[Key, Sequence[float]]) -> list[Key]:
    """The keys of points that no other one dominates; more is better on every axis."""
    return [key for key, point in points.items() if not any(dominates(other, point) for other in points.values())]


def stairs(places: Iterable[Place], at: Callable[[Place], tuple[float, float]], same: float = 0.0) -> list[Place]:
    """Places with `at` (cost, quality) that no other one beats, from the cheapest on. Qualities within `same` are equal."""
    front: list[Place] = []
    for place in sorted(places, key=lambda place: (at(place)[0], -at(place)[1])):
        if not front or at(place)[1] > at(front[-1])[1] + same:
            front.append(place)
    return front
