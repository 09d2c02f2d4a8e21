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
    """The teacher is trained on labels (or brought as weights), frozen, and teaches the student from its first step.

    start  own: the student begins with weights of its own (random, or its `weights`); teacher: with those of the trained teacher, of
           which it is a part, as layers of a fine-tuned encoder (DistilBERT, arXiv 1910.01108, section 3)
    """

    start: str = "own"

    arms: ClassVar[dict[str, str]] = {
        **Strategy.arms,
        "untaught": "student, from the same weights, on labels",
    }
    choices: ClassVar = {"start": ("own", "teacher")}
    instead: ClassVar[dict[str, str]] = {"assistants": "strategy=takd, evolving and cascaded have assistants"}

    def run(self, lab: Lab, cast: Cast) -> Result:
        teacher = lab.get(supervised(cast.teacher))
        return lab.get(distil(cast.student, teacher, start=self._start(teacher)))

    def control(self, name: str, lab: Lab, cast: Cast) -> Result:
        """untaught: the student from where `run` starts it, on labels alone; the others as everywhere."""
        if name != "untaught":
            return super().control(name, lab, cast)
        return lab.get(supervised(cast.student, start=self._start(lab.get(supervised(cast.teacher))), role=name))

    def _start(self, teacher: Result) -> Result | None:
        return teacher if self.start == "teacher" else None
