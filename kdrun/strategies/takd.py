"""strategy=takd: teacher assistants, each distilled from the next larger one, the last teaches the student."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, Learner, distil, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


@dataclass(frozen=True)
class Takd(Strategy):
    """Teacher-assistant distillation (Mirzadeh et al. 2020, arXiv 1902.03393) over all assistants of the cast."""

    def run(self, lab: Lab, cast: Cast) -> Result:
        teacher = last_assistant(lab, cast)
        return lab.get(distil(cast.student, teacher))


def last_assistant(lab: Lab, cast: Cast) -> Result:
    """The smallest network of the cast, taught down the ladder from the largest, which alone learns from labels."""
    teacher, *assistants = by_size(lab, cast.teachers())[::-1]
    taught = lab.get(supervised(teacher))
    for assistant in assistants:
        taught = lab.get(distil(assistant, taught, role=f"taught_{assistant.role}"))
    return taught


def by_size(lab: Lab, learners: list[Learner]) -> list[Learner]:
    """Smallest number of parameters first."""
    return sorted(learners, key=lambda learner: lab.parameters(learner.identity, learner.cast.config["data"]))
