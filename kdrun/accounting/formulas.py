"""Energy of distillation pipelines: the formulas of arXiv 2605.13981 ("End-to-end energy accounting"), on plain numbers.

All energies are joules. None: not known; math.inf of a break-even: it never comes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kdrun.present.fronts import dominates, front_of

JOULES_PER_KWH = 3.6e6
PUE, GRID = 1.2, 0.4
"""Power usage effectiveness of the building, and kg of CO2e per kWh of the grid, where nobody says otherwise."""

MEASURED, ESTIMATE = "measured", "estimate"


@dataclass(frozen=True)
class Amount:
    """Joules with how they are known.

    joules  None: not known, as soon as one part is not
    kinds   "measured" and/or "estimate", of the parts that are in it
    """

    joules: float | None = 0.0
    kinds: frozenset[str] = frozenset()

    @property
    def word(self) -> str:
        """ "estimate", "partly estimate", or nothing where all of it is measured."""
        if self.joules is None or ESTIMATE not in self.kinds:
            return ""
        return "partly estimate" if MEASURED in self.kinds else ESTIMATE

    def __add__(self, other: Amount) -> Amount:
        known = None not in (self.joules, other.joules)
        return Amount(self.joules + other.joules if known else None, self.kinds | other.kinds)

    def __sub__(self, other: Amount) -> Amount:
        known = None not in (self.joules, other.joules)
        return Amount(self.joules - other.joules if known else None, self.kinds | other.kinds)

    def times(self, factor: float) -> Amount:
        return Amount(None if self.joules is None else factor * self.joules, self.kinds)


NOTHING, UNKNOWN = Amount(), Amount(None)


def amount(joules: float | None, estimate: bool | None) -> Amount:
    """An amount of one kind."""
    return UNKNOWN if joules is None else Amount(joules, frozenset({ESTIMATE if estimate else MEASURED}))


def total(parts: Iterable[Amount]) -> Amount:
    return sum(parts, NOTHING)


def mean(parts: Iterable[Amount]) -> Amount:
    """UNKNOWN of nothing."""
    found = list(parts)
    return total(found).times(1 / len(found)) if found else UNKNOWN


def kwh(joules: float | None) -> float | None:
    return None if joules is None else joules / JOULES_PER_KWH


def co2e(joules: float | None, pue: float = PUE, grid: float = GRID) -> float | None:
    """kg of CO2e: kWh * PUE * grid factor."""
    return None if joules is None else joules / JOULES_PER_KWH * pue * grid


def break_even(spent: float | None, reference: float | None, student: float | None) -> float | None:
    """spent / (reference - student): how often the student has to take less than the reference until what was spent is saved;
    inf: never, because it takes as much or more.

    N* = E_teacher / (E_alone - E_distilled): students that have to use the teacher's work before each of them is cheaper than
    one without a teacher. T* = E_extra / (j_ref - j_student): inferences after which a student that cost more has saved it.
    """
    if None in (spent, reference, student):
        return None
    return spent / (reference - student) if reference > student else math.inf


def dominated(points: Mapping[str, tuple[float | None, float | None]], better: str = "max") -> dict[str, str]:
    """name -> a name on the Pareto front that beats it: no more energy, no worse quality, and one of both better.

    points: name -> (joules, quality); those of which one is not known neither beat nor are beaten. better: max or min.
    """
    sign = 1 if better == "max" else -1
    known = {
        name: (-energy, sign * quality) for name, (energy, quality) in points.items() if None not in (energy, quality)
    }
    front = front_of(known)
    return {
        name: next(one for one in front if dominates(known[one], point))
        for name, point in known.items()
        if name not in front
    }
