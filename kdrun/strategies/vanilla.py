"""strategy=vanilla: one teacher, one student, Hinton's distillation (arXiv 1503.02531)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, distil, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


@dataclass(frozen=True)
class Vanilla(Strategy):
    """The teacher is trained on labels (or brought as weights), frozen, and teaches the student from its first step."""

    instead: ClassVar[dict[str, str]] = {"assistants": "strategy=takd, evolving and cascaded have assistants"}

    def run(self, lab: Lab, cast: Cast) -> Result:
        teacher = lab.get(supervised(cast.teacher))
        return lab.get(distil(cast.student, teacher))
