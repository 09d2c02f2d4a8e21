"""How many seeds: a sequential rule that is fixed before the first of them has a result.

`seeds=auto` looks at the difference after 3, 5, 8, 12 and 20 seeds, and ends where it is decided or small. A test at 5 % each time would
call one in eight comparisons of equal arms an effect. Here p is held at every look against a level that grows with the number of
seeds, chosen so that all looks together are wrong in 5 %: for normal differences by simulation, since t statistics depend on no
unknown number (scripts/simulate_seeds.py). Intervals of these levels hold at all looks at once (repeated confidence intervals,
Jennison and Turnbull 1989), so that of the last look needs no further correction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdrun.differences import LEVEL, MARGIN, SINGLE, UNDECIDED, Difference

AUTO = "auto"
SLOPES = {3: 0.016656, 5: 0.006893, 8: 0.003643, 12: 0.002220, 20: 0.001314, 32: 0.000812, 50: 0.000514}
"""Largest number of seeds -> level at a look over its number of seeds. The keys are where a rule looks."""
MOST = 20
"""Seeds of `seeds=auto`; `seeds=auto:12` has 12 at most."""


def looks_until(most: int) -> list[int]:
    """Numbers of seeds at which a rule with at most `most` of them looks."""
    return [n for n in SLOPES if n <= most]


@dataclass(frozen=True)
class Rule:
    """looks: numbers of seeds, growing; slope: level of a look over its number of seeds; margin: a difference whose interval is
    within it is small, None where no margin is known of the metric."""

    looks: tuple[int, ...]
    slope: float
    margin: float | None = MARGIN

    @classmethod
    def of(cls, looks: Sequence[int], margin: float | None = MARGIN) -> Rule:
        return cls(tuple(looks), SLOPES[looks[-1]], margin)

    def level(self, seeds: int) -> float:
        """What p is held against after so many seeds. Of seeds some may have failed: it is of those that were run."""
        return self.slope * seeds

    def at(self, difference: Difference, seeds: int) -> Difference:
        """A difference after so many seeds, at the level of this look."""
        return difference.at_level(self.level(seeds))

    def look(self, seeds: int, difference: Difference | None) -> dict[str, Any]:
        """One look after so many seeds, as records hold it."""
        if difference is None:
            return {"seeds": seeds, "n": 0, "level": self.level(seeds), "decision": SINGLE}
        found = self.at(difference, seeds)
        interval = None if found.interval is None else list(found.interval)
        shown = {"n": found.n, "mean": found.mean, "p": found.p, "level": found.level, "interval": interval}
        return {"seeds": seeds, **shown, "decision": found.decision(self.margin)}

    def as_record(self) -> dict[str, Any]:
        return {"looks": list(self.looks), "slope": self.slope, "overall": LEVEL, "margin": self.margin}


def read_rule(found: Mapping[str, Any]) -> Rule:
    """The rule of a record."""
    return Rule(tuple(found["looks"]), found["slope"], found["margin"])


def ends(decision: str) -> bool:
    """Whether a job ends at a look with this decision."""
    return decision not in (UNDECIDED, SINGLE)
