"""strategy=alone: the student on labels, no teacher. The row that every distillation result has to beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from kdrun.strategies.base import Strategy
from kdrun.strategies.cast import Cast, supervised

if TYPE_CHECKING:
    from kdrun.lab.lab import Lab
    from kdrun.lab.stages.base import Result


@dataclass(frozen=True)
class Alone(Strategy):
    """Supervised training of the student. Shares its stage with the `alone` control of every other strategy."""

    beside: ClassVar[tuple[str, ...]] = ("teacher",)
    """Groups whose options may be named all the same: the command is that of a job with a teacher, with one word more."""

    instead: ClassVar[dict[str, str]] = {
        "teacher": "the student learns from labels alone; strategy=vanilla has a teacher",
        "assistants": "the student learns from labels alone; strategy=takd has assistants",
        "objective": "the student learns from labels alone, at weight 1",
    }

    def run(self, lab: Lab, cast: Cast) -> Result:
        return lab.get(supervised(cast.student, role="alone"))
